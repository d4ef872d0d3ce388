"""Serves merged files on the GPU: `serve.py --out OUT --graphs DIR --work DIR --until TIME`.

Each case draws its models, merges them into a bundle (`merge --views`), and opens it as a MergedSession. The
values come first: what each model gives alone, in merged calls, in calls of own sessions that are started at
once, in `run_many` and `run_all`, after many replays, and in several forms, against a plain session of its
source. Then come the times, all ways in turns:

    run          the sources' sessions, one `session.run` after the other, as users call them
    bound        the same with fixed places and CUDA graphs
    at once      the same, each on its own stream, started without waiting
    run_many     MergedSession, all models, one row each
    merged       the merged call of its engine, and `together` the own sessions of its engine at once
    one/..       one row of one model: the source's session, bound or not, and `MergedSession.run`

A case runs in a process of its own, so that an error of CUDA ends one case alone. OUT/serve.jsonl gets a line
after each part: {"case", "part", ..}.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from served_rivals import Rivals, Ways, in_turns

import netfuse_onnx
from bench import drawn
from netfuse_onnx.runtime import placed
from netfuse_onnx.runtime.buckets import sized
from netfuse_onnx.runtime.placed import USUAL
from netfuse_onnx.runtime.streams import Streams

CASES = (
    ("tabular", 8, 15.0), ("tabular", 32, 20.0), ("bert", 8, 50.0), ("resnet50", 8, 45.0),
    ("decoder", 8, 40.0), ("bert", 32, 110.0), ("resnet50", 32, 90.0),
)  # fmt: skip
"""The network, the models, and the seconds that a case may take."""
SIZES, OTHER_SIZES = {"sequence": 128}, {"sequence": 64}
"""Sizes of symbolic axes; others are SIZE or OTHER_SIZE, and the batch is the number of rows."""
SIZE, OTHER_SIZE = 16, 24
BATCH, TOKENS = "batch", 16
"""Whole numbers are drawn below it."""
REPLAYS = 30
SOURCES, BUNDLE = "sources", "bundle"


def main() -> int:
    given = _arguments()
    if given.case:
        name, models = given.case
        if given.unchecked:  # the values over stubs say nothing of graphs
            placed._close = lambda *_: True  # type: ignore[assignment]
        return measure(name, int(models), given)
    code = 0
    for network, models, seconds in CASES:
        name, count = (f"{network}-tiny", 3) if given.tiny else (network, models)
        left = given.until - time.time() - 3.0
        graph = given.graphs / f"{name}.onnx"
        if left < 10.0 or not graph.exists() or (given.only and network not in given.only):
            print(f"{name} n{models}: left out", flush=True)
            continue
        with tempfile.TemporaryDirectory(dir=given.work, ignore_cleanup_errors=True) as folder:
            code |= _apart(name, count, min(left, seconds), folder, given)
    return code


def _apart(name: str, models: int, seconds: float, folder: str, given: argparse.Namespace) -> int:
    """Measure a case in a process of its own, and end it when its time is up."""
    words = [sys.executable, __file__, "--case", name, str(models), "--out", str(given.out)]
    words += ["--graphs", str(given.graphs), "--work", folder, "--provider", given.provider]
    words += ["--until", str(time.time() + seconds), *(["--unchecked"] if given.unchecked else [])]
    process = subprocess.Popen(
        words, start_new_session=True
    )  # what draws and merges has processes of its own
    try:
        return process.wait(seconds + 5.0)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _say(given, f"{name} n{models}", "ended", seconds=seconds)
        return 1


# --------------------------------------------------------------------------- a case


class Case:
    """A bundle that is open, the sources' sessions, and inputs for them."""

    def __init__(self, name: str, models: int, given: argparse.Namespace) -> None:
        self.name, self.given, self.models = f"{name} n{models}", given, models
        began = time.monotonic()
        graph = given.graphs / f"{name}.onnx"
        self.paths = [str(p) for p in drawn.files(graph, given.work / SOURCES, models)]
        drew = time.monotonic()
        self.target = "cuda" if given.provider == "cuda" else "cpu"
        served = self._merged()
        merged = time.monotonic()
        cuda = ("CUDAExecutionProvider", USUAL)
        self.providers = [*([cuda] if given.provider == "cuda" else []), "CPUExecutionProvider"]
        options = {"providers": self.providers, "calibrate": 2.0, **self.more}
        self.session = netfuse_onnx.MergedSession(served, **options)
        self.engine: Any = self.session._dispatcher.current.engine
        self.names, opened = self.session.models, time.monotonic()
        took = {"draw": drew - began, "merge": merged - drew, "open": opened - merged}
        ways = {"graphs": self._graphs(), "streams": self._streams(), "threads": str(self.engine.threads)}
        _say(given, self.name, "opened", bundle=not self.more, **took, **ways)

    def _merged(self) -> str:
        """Merge into a bundle. Where that fails, into a file, which is served with the sources."""
        options: dict[str, Any] = {"io": "stacked", "target": self.target, "verify": False}
        self.more: dict[str, Any] = {}
        try:
            netfuse_onnx.merge(self.paths, str(self.given.work / BUNDLE), views=True, **options)
            return str(self.given.work / BUNDLE)
        except Exception as error:
            _say(self.given, self.name, "no bundle", error=repr(error)[:300])
        self.more = {"sources": self.paths}
        netfuse_onnx.merge(self.paths, str(self.given.work / "merged.onnx"), **options)
        return str(self.given.work / "merged.onnx")

    def _graphs(self) -> Any:
        """Return the forms of the merged file that have graphs, and the problem of those that have none."""
        file = getattr(self.engine.calls, "file", None)
        if file is None:
            return None
        forms = [None if placed is None else placed.graph for placed in file._forms.values()]
        return [forms, file.problem]

    def _streams(self) -> Any:
        return None if self.engine._streams is None else self.engine._streams.most

    def open_sources(self) -> None:
        """Open the sources, as most users do."""
        import onnxruntime

        began = time.monotonic()
        self.plain = [onnxruntime.InferenceSession(path, providers=self.providers) for path in self.paths]
        _say(self.given, self.name, "sources", open=time.monotonic() - began)

    def feeds(
        self, ports: Sequence[Any], seed: int, rows: int = 1, other: bool = False
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return inputs of some rows, of the one or the other sizes, drawn by a seed."""
        draw, found = np.random.default_rng(seed), {}
        known, size = (OTHER_SIZES, OTHER_SIZE) if other else (SIZES, SIZE)
        axes = {dim for port in ports for dim in port.shape if isinstance(dim, str)}
        at = {**sized(axes, lambda axis: known.get(axis, size)), BATCH: rows}
        for port in ports:
            sizes = [at[d] if isinstance(d, str) else d for d in port.shape]
            if "int64" in port.type and "mask" in port.name:
                found[port.name] = np.ones(sizes, np.int64)
            elif "int" in port.type:
                top = 2 if "type" in port.name else TOKENS
                found[port.name] = draw.integers(0, top, sizes).astype(port.type[7:-1])
            else:
                found[port.name] = draw.standard_normal(sizes, np.float32).astype(_dtype(port.type))
        return found


def measure(name: str, models: int, given: argparse.Namespace) -> int:
    """Check values of a case, then measure it. Returns 1 where values are wrong."""
    case = Case(name, models, given)
    wrong = 0
    case.open_sources()
    ports = case.plain[0].get_inputs()
    forms = [("rows 1", 1, False), ("rows 2", 2, False)]
    if any(isinstance(d, str) for port in ports for d in port.shape[1:]):
        forms.append(("other sizes", 1, True))
    for form, rows, other in forms:
        wrong += _checked(case, ports, form, rows, other)
    _timed(case, ports)
    _say(given, case.name, "closed", graphs=case._graphs(), told=case.engine.told())
    case.session.close()
    return int(wrong > 0 and not given.unchecked)


# --------------------------------------------------------------------------- values


def _checked(case: Case, ports: Sequence[Any], form: str, rows: int, other: bool) -> int:
    """Compare all ways of one form with plain sessions of the sources, and say how far they are apart."""
    sets = [[case.feeds(ports, 1000 * k + m, rows, other) for m in range(case.models)] for k in range(2)]
    same = case.feeds(ports, 9999, rows, other)
    expected: list[list[Any]] = [[], [], []]
    for model, session in enumerate(case.plain):
        names = [port.name for port in session.get_outputs()]
        for given, found in zip((sets[0][model], sets[1][model], same), expected, strict=True):
            found.append(dict(zip(names, session.run(names, given), strict=True)))
    apart = _apartness(expected[2])
    wrong = 0
    for way, values, wanted in _ways(case, sets, same, expected):
        try:
            error = max(_error(one, right) for one, right in zip(values(), wanted, strict=True))
            good = error <= min(2e-2, 0.1 * apart)
            _say(case.given, case.name, "values", form=form, way=way, error=error, apart=apart, good=good)
        except Exception as problem:
            good = False
            _say(case.given, case.name, "values", form=form, way=way, failed=repr(problem)[:300], good=False)
        wrong += not good
    return wrong


def _ways(
    case: Case, sets: Sequence[Any], same: Any, expected: Sequence[Any]
) -> Iterator[tuple[str, Callable[[], Sequence[Any]], Sequence[Any]]]:
    """Yield ways to run: what they are called, the outputs that they give, and the right ones."""
    session, engine, names = case.session, case.engine, case.names
    first, other = ([engine.check(n, f) for n, f in zip(names, one, strict=True)] for one in sets)
    some = list(range(0, case.models, 2))

    def streamed(requests: Sequence[Any]) -> Any:
        calls = [(request.model, engine.packing.alone([request])) for request in requests]
        return [found[0] for found in engine.calls.together(calls)]

    def repeated(run: Callable[[Sequence[Any]], Any]) -> Any:
        for k in range(REPLAYS):
            run((first, other)[k % 2])
        return run(first)

    def one_by_one(requests: Sequence[Any]) -> Any:
        return [engine.alone([request])[0] for request in requests]

    yield "run", lambda: [session.run(n, f) for n, f in zip(names, sets[0], strict=True)], expected[0]
    yield "run, others", lambda: [session.run(n, f) for n, f in zip(names, sets[1], strict=True)], expected[1]
    yield "merged", lambda: engine._run_merged(engine.packing.merged(first)), expected[0]
    yield "merged, others", lambda: engine._run_merged(engine.packing.merged(other)), expected[1]
    yield (
        "merged, some",
        lambda: engine._run_merged(engine.packing.merged([first[m] for m in some])),
        [expected[0][m] for m in some],
    )
    yield (
        "merged, replays",
        lambda: repeated(lambda r: engine._run_merged(engine.packing.merged(r))),
        expected[0],
    )
    yield "alone, replays", lambda: repeated(one_by_one), expected[0]
    if hasattr(engine.calls, "together"):
        yield "together", lambda: streamed(first), expected[0]
        yield "together, replays", lambda: repeated(streamed), expected[0]
    yield "run_many", lambda: session.run_many(list(zip(names, sets[1], strict=True))), expected[1]
    yield "run_all", lambda: [session.run_all(same)[n] for n in names], expected[2]


def _error(found: Mapping[str, Any], right: Mapping[str, Any]) -> float:
    """Return the largest difference of any output, as a part of its largest value; inf for other outputs."""
    if found.keys() != right.keys():
        return float("inf")
    worst = 0.0
    for name, value in right.items():
        if found[name].shape != value.shape or not np.isfinite(found[name]).all():
            return float("inf")
        largest = float(np.abs(value).max(initial=1e-9))
        worst = max(worst, float(np.abs(found[name] - value).max(initial=0.0)) / largest)
    return worst


def _apartness(outputs: Sequence[Mapping[str, Any]]) -> float:
    """Return the smallest difference between two models on equal inputs: what exchanging them would show."""
    return min(
        max(float(np.abs(a[n] - b[n]).max()) / float(np.abs(a[n]).max(initial=1e-9)) for n in a)
        for k, a in enumerate(outputs)
        for b in outputs[:k]
    )


# --------------------------------------------------------------------------- times


def _timed(case: Case, ports: Sequence[Any]) -> None:
    """Time all ways of all models, one row each, and of one row of one model."""
    feeds = [case.feeds(ports, m) for m in range(case.models)]
    engine, names = case.engine, case.names
    requests = [engine.check(n, f) for n, f in zip(names, feeds, strict=True)]
    pairs = list(zip(names, feeds, strict=True))
    every: dict[str, Callable[[], object]] = {
        "run_many": lambda: case.session.run_many(pairs),
        "merged": lambda: engine._run_merged(engine.packing.merged(requests)),
    }
    if hasattr(engine.calls, "together"):
        every["together"] = lambda: Streams.run(Ways(engine), requests)  # type: ignore[arg-type]
    one: dict[str, Callable[[], object]] = {"one/MergedSession.run": lambda: case.session.run(*pairs[0])}
    plain = case.plain
    outputs = [port.name for port in plain[0].get_outputs()]
    every["run"] = lambda: [s.run(outputs, f) for s, f in zip(plain, feeds, strict=True)]
    one["one/run"] = lambda: plain[0].run(outputs, feeds[0])
    if case.given.provider == "cuda":
        try:
            rivals = Rivals(case.paths, plain, feeds)
            _say(case.given, case.name, "rivals", graphs=rivals.graphs)
            every["bound"], every["at once"] = rivals.one_by_one, rivals.at_once
            one["one/bound"] = rivals.first
        except Exception as error:
            _say(case.given, case.name, "rivals", failed=repr(error)[:300])
    for ways in (every, one):
        _say(case.given, case.name, "times", **in_turns(ways, case.given.until))


def _dtype(kind: str) -> str:
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _say(given: argparse.Namespace, case: str, part: str, **facts: Any) -> None:
    """Append a line to OUT/serve.jsonl, and print it."""
    line = {"case": case, "part": part, **facts}
    with (given.out / "serve.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print("  ".join(_shown(key, value) for key, value in line.items()), flush=True)


def _shown(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{key}={value:.3g}"
    if key == "ms":
        return "  ".join(f"{way}={quartiles[1]:.4g} ms" for way, quartiles in value.items())
    return str(value) if key in ("case", "part") else f"{key}={value}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--graphs", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for models")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--until", type=float, required=True, help="by time.time()")
    parser.add_argument("--only", nargs="+", metavar="NETWORK")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--unchecked", action="store_true", help="over stub libraries: values mean nothing")
    parser.add_argument("--case", nargs=2, metavar=("NETWORK", "MODELS"), help="one case, in this process")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
