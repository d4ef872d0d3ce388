"""Times files that route, choose, share or hold factors against all ways that need no merge, on the GPU.

    python shared_times.py --out OUT --work DIR --prepare          # writes sources and merged files, no GPU
    python shared_times.py --out OUT --work DIR --until TIME       # measures what is prepared, in order

Each case runs in a process of its own. Its results go into OUT/results.jsonl after each way, as those of
bench/serving.py do, and all outputs are compared with those of the sources' sessions. A case of many tenants
has one file of all; a call has a row for each of 16 of them, and is compared with the sessions of these 16.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import netfuse_onnx
from bench import drawn
from bench.tenants import Encoder
from netfuse_onnx import opened, sources
from netfuse_onnx.measure.contenders import OneGraph
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import Entry, MergedFile, on_cuda
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.measure.rounds import Effort
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.workload import Results, Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.run import runtime
from netfuse_onnx.run.runtime import Value
from sample_models import copies
from sample_models.networks import NETWORKS, SIZES

ROWS = 16
"""Tenants of one call."""
RANK = 8
LIMIT, GRACE = 35.0, 15.0
"""No way of a case starts after LIMIT seconds; it is ended GRACE seconds later."""
LEAST = 8.0
ATTENTION, QUERIES = "attention|self_attn", "q_proj|v_proj"


@dataclass(frozen=True)
class Case:
    """A family of a network, the size of its call, and the merged files: label, io, and further options."""

    kind: str
    network: str
    size: str
    count: int
    dims: Mapping[str, int]
    files: tuple[tuple[str, str, Mapping[str, Any]], ...]
    targets: str = ATTENTION
    tenants: bool = False
    """One file of `count` models is called for ROWS of them."""


LOW: Mapping[str, Any] = {"low_rank": 0.0, "target": "generic"}
"""Without a target, so that all weights whose factors are fewer bytes become factors."""
SHARED: Mapping[str, Any] = {"shared": True}
ROUTED = (("routed by index", "index", {}), ("selected", "selected", {}))
OF_FACTORS = (
    ("low rank, stacked", "stacked", LOW), ("low rank, routed by index", "index", LOW),
    ("whole weights, stacked", "stacked", {}),
)  # fmt: skip
OF_ROWS = (("routed by slots", "slots", {}), *ROUTED, ("stacked", "stacked", {}))
FROZEN = (("shared input", "stacked", SHARED), ("stacked", "stacked", {}), ("routed by index", "index", {}))
CASES = {
    "tenants-1000": Case("small tenants", "encoder", "small", 1000, {}, ROUTED, tenants=True),
    "low-rank-encoder": Case("lora", "encoder", "base", 8, {"sequence": 16}, OF_FACTORS),
    "tenants-base": Case("tenants", "encoder", "base", 32, {"sequence": 128}, ROUTED[:1], tenants=True),
    "frozen-encoder": Case("frozen", "encoder", "base", 8, {"sequence": 128}, FROZEN),
    "low-rank-decoder": Case("lora", "decoder", "small", 6, {"past": 63}, OF_FACTORS, QUERIES),
    "routed-encoder": Case("weights", "encoder", "small", 8, {"sequence": 16}, OF_ROWS),
    "frozen-resnet50": Case("frozen", "resnet50", "", 8, {}, FROZEN),
}
"""The most important first."""
TINY = {"past": 5, "sequence": 7, "height": 32, "width": 32}


def cases(given: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Yield the cases; those of a trial are small."""
    for name, case in CASES.items():
        if given.only and name not in given.only:
            continue
        dims = {dim: TINY[dim] for dim in case.dims}
        count = ROWS + 2 if case.tenants else 3
        yield name, replace(case, size="tiny", count=count, dims=dims) if given.tiny else case


# --------------------------------------------------------------------------- the files


def prepare(case: Case, folder: Path, graphs: Path) -> None:
    """Write the sources and the merged files, then CASE.json, which names what there is."""
    folder.mkdir(parents=True, exist_ok=True)
    base, paths = _sources(case, folder, graphs)
    files, notes = [], []
    for label, io, more in case.files:
        options, start = dict(more), time.monotonic()
        share = ["input_ids", "attention_mask", "image"] if options.pop("shared", False) else []
        if "low_rank" in options:
            options["base"] = str(base)
        options |= {"routing": io} if io in ("index", "slots") else {}
        out = str(folder / f"merged-{len(files)}.onnx")
        try:
            report = netfuse_onnx.merge(
                paths, out, io="routed" if "routing" in options else io, provider="cpu",
                share=[name for name in share if name in _inputs(paths[0])], verify=False,
                dims={**case.dims, **({"rows": ROWS} if case.tenants and "routing" in options else {})},
                names=[f"m{m}" for m in range(len(paths))], **{"target": "cuda", **options},
            )  # fmt: skip
        except netfuse_onnx.NetfuseError as refused:
            notes.append(f"{label}: {refused.message}")
            continue
        notes.append(f"{label}: {report.size / 1e6:.0f} MB, merged in {time.monotonic() - start:.1f} s")
        kept = tuple(name for name in share if name in _inputs(paths[0]))
        files.append(asdict(MergedFile(label, out, io, kept, report.size)))
    about = {"paths": paths, "files": files, "notes": notes}
    half = folder / "half.json"
    half.write_text(json.dumps(about))
    half.rename(folder / "case.json")


def _inputs(path: str) -> list[str]:
    from netfuse_onnx.storage import wire

    return [port.name for port in wire.scan(path).model.graph.input]


def _sources(case: Case, folder: Path, graphs: Path) -> tuple[Path, list[str]]:
    """The base, where there is one, and the models."""
    base = folder / "base.onnx"
    if case.kind == "small tenants":
        return base, Encoder(4, 128, 16).write(folder, case.count)
    if case.kind == "weights":
        paths = [folder / f"m{m}.onnx" for m in range(case.count)]
        for seed, path in enumerate(paths):
            path.write_bytes(NETWORKS[case.network](SIZES[case.size], seed).SerializeToString())
        return base, [*map(str, paths)]
    if case.network in NETWORKS:
        base.write_bytes(NETWORKS[case.network](SIZES[case.size], 0).SerializeToString())
    else:
        drawn.write(graphs / f"{case.network}{'-tiny' if case.size else ''}.onnx", 0, folder / "drawn.onnx")
        onnx.save(onnx.load(folder / "drawn.onnx"), base)
    if case.kind == "tenants":
        return base, [*map(str, copies.write_tenants(base, folder, case.count, case.targets, RANK, 0))]
    changes = (
        copies.trained_tail(base, r"pooler|classifier|lm_head|fc\.", 1, 0)
        if case.kind == "frozen"
        else copies.merged_adapters(base, case.targets, RANK, 0)
    )
    return base, [*map(str, copies.write_copies(base, folder, "m", case.count, changes))]


# --------------------------------------------------------------------------- a call for some of many tenants


class ForTenants(OneGraph):
    """The file of many tenants, called for those whose own sessions the work has: `ids` are their places."""

    ids: tuple[int, ...] = ()

    @property
    def chooses(self) -> bool:
        """No calls of fewer models are measured."""
        return False

    def _feeds(self, turn: int = 0) -> dict[str, Value]:
        name = "model" if self.io == "index" else "models"
        return {**self._joined(self.work.inputs(turn)), name: np.array(self.ids, np.int64)}

    def _wants(self) -> dict[str, Value]:
        return self._joined(self.work.wanted)

    def _joined(self, each: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
        join = np.concatenate if self.io == "index" else np.stack
        return {name: join([np.asarray(own[name]) for own in each]) for name in each[0]}

    def _split_models(self, result: Mapping[str, Value]) -> Results:
        rows = slice(None) if self.io == "selected" else None
        each = range(len(self.ids))
        cut: Callable[[Any, int], Any] = (lambda v, k: v[k]) if rows else (lambda v, k: v[k : k + 1])
        return [{name: cut(np.asarray(value), k) for name, value in result.items()} for k in each]


def _for_tenants(work: Workload, file: MergedFile, ids: Sequence[int]) -> Entry:
    def make(settings: Settings) -> OneGraph:
        made = ForTenants(work, settings, path=file.path, io=file.io)
        made.ids = tuple(ids)
        return made

    first = on_cuda(work)
    return Entry(OneGraph.kind, file.label, make, (first[1], first[0], *first[2:]), file.size, merged=True)


# --------------------------------------------------------------------------- one case


def measure(name: str, case: Case, given: argparse.Namespace) -> None:
    """Measure one case, and keep its line after each way."""
    folder = given.work / name
    about = json.loads((folder / "case.json").read_text())
    files = [MergedFile(**{**file, "share": tuple(file["share"])}) for file in about["files"]]
    paths, ids = about["paths"], range(len(about["paths"]))
    if case.tenants:
        ids = np.random.default_rng(0).permutation(case.count)[:ROWS].tolist()
        paths = [paths[k] for k in ids]
    matched = opened.matched(sources.read(paths), [f"m{k}" for k in ids], partial=False)
    share = frozenset(name for file in files for name in file.share)
    options = Options(runtime.choose(given.provider), dims={"batch": 1, **case.dims}, share=share)
    work = Workload(matched, options, lambda *_: None)
    own = [_for_tenants(work, file, ids) for file in files] if case.tenants else []
    keep = partial(_keep, given.out / "results.jsonl", name, case, about["notes"])
    until = time.monotonic() + given.until - time.time()
    report = contest(
        work, [] if case.tenants else files, effort=Effort(rounds=20, seconds=1.5), more=own,
        only=lambda entry: not entry.late, folder=str(folder), until=until,
        checked=not given.unchecked, keep=keep,
    )  # fmt: skip
    keep(report)
    rows = [row for row in report.rows if row.ran]
    best = {
        merged: min((r.median for r in rows if r.merged == merged), default=0.0) for merged in (True, False)
    }
    print(f"{name}: best merged {best[True] * 1e3:.3f} ms, best other {best[False] * 1e3:.3f} ms", flush=True)


def _keep(path: Path, name: str, case: Case, notes: Sequence[str], report: BenchReport) -> None:
    """Write the line of a case in the place of its former one."""
    report = replace(report, warnings=(*notes, *report.warnings))
    row = {
        "name": name,
        "count": case.count,
        "batch": 1,
        "dtype": "fp32",
        "group": "shared",
        **report.to_json(),
    }
    lines = path.read_text().splitlines() if path.exists() else []
    others = [line for line in lines if json.loads(line).get("name") != name]
    half = path.with_suffix(".half")
    half.write_text("\n".join([*others, json.dumps(row)]) + "\n")
    half.rename(path)


# --------------------------------------------------------------------------- all of them


def main() -> int:
    given = _arguments()
    every = dict(cases(given))
    if given.one:
        if given.prepare:
            prepare(every[given.one], given.work / given.one, given.graphs)
        else:
            measure(given.one, every[given.one], given)
        return 0
    if given.prepare:
        started = {name: _started(name, given, "--prepare") for name in every}
        for name, process in started.items():
            print(f"prepared {name}: exit code {process.wait()}", flush=True)
        return 0
    code, todo = 0, [*every]
    while todo and given.until - time.time() > (1.0 if given.tiny else LEAST):
        ready = [name for name in todo if (given.work / name / "case.json").exists()]
        if ready:
            todo.remove(ready[0])
            code |= _measured(ready[0], given)
        else:
            time.sleep(0.5)
    print(f"left out: {', '.join(todo) or 'nothing'}", flush=True)
    return code


def _measured(name: str, given: argparse.Namespace) -> int:
    start, left = time.monotonic(), given.until - time.time()
    limit = min(left - 2.0, LIMIT)
    process = _started(name, given, "--until", str(time.time() + limit))
    try:
        code = process.wait(min(left, limit + GRACE))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    print(f"{name}: exit code {code}, {time.monotonic() - start:.0f} s", flush=True)
    return int(code != 0)


def _started(name: str, given: argparse.Namespace, *more: str) -> subprocess.Popen[bytes]:
    words = ["--one", name, "--out", str(given.out), "--work", str(given.work), "--provider", given.provider]
    words += ["--graphs", str(given.graphs)]
    words += [word for word in ("--tiny", "--unchecked") if getattr(given, word[2:])]
    command = [sys.executable, __file__, *words, *more]
    return subprocess.Popen(command, start_new_session=not given.prepare)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for models")
    parser.add_argument("--graphs", type=Path, required=True, help="graphs without weights")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--until", type=float, default=float("inf"), help="by time.time()")
    parser.add_argument("--only", nargs="+", choices=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--prepare", action="store_true", help="write the files, and measure nothing")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--unchecked", action="store_true", help="over stub libraries: values mean nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
