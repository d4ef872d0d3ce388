"""The families that the scripts of serving measure: their files, requests for them, and the right answers.

    python bench/served.py policy encoder --folder build/bench/served

writes the sources of some families and merges them into bundles. A family that is there already stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import models
from bench.zoo import ZOO
from sample_models import copies
from sample_models.networks import SIZES, Size, encoder

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

FOLDER = Path(__file__).parent.parent / "build" / "bench" / "served"
PICKS = 8
"""Requests that are drawn for each model; load takes one of them at random."""
RTOL, ATOL = 1e-3, 1e-4
"""Tolerances of an output, relative to the largest absolute value of its kind."""
MINI = Size(layers=6, hidden=384, heads=12, inner=1536, vocabulary=30522)
"""The sizes of MiniLM: an encoder that services use on CPUs."""
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


@dataclass(frozen=True, slots=True)
class Case:
    """A family as it is served. `high` has the bounds of integer inputs; others are ones, as masks are."""

    name: str
    about: str
    count: int
    write: Callable[[Path, int], Sequence[Path]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    high: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Served:
    """A family on disk. `feeds[m][k]` is a request of one row for model m, and `answers[m][k]` the outputs of
    its own session, in the order of `outputs`."""

    name: str
    models: tuple[str, ...]
    sources: tuple[str, ...]
    bundle: str
    outputs: tuple[str, ...]
    feeds: tuple[tuple[Feeds, ...], ...]
    answers: tuple[tuple[tuple[Array, ...], ...], ...]


def _zoo(name: str) -> Callable[[Path, int], Sequence[Path]]:
    return lambda folder, count: models.files(ZOO[name].family, folder, count, exporter="dynamo")


def _encoders(size: Size) -> Callable[[Path, int], Sequence[Path]]:
    def write(folder: Path, count: int) -> list[Path]:
        paths = [folder / f"encoder-{number}.onnx" for number in range(count)]
        for seed, path in enumerate(paths):
            path.write_bytes(encoder(size, seed).SerializeToString())
        return paths

    return write


def _heads(size: Size) -> Callable[[Path, int], Sequence[Path]]:
    """Copies of one encoder whose pooler and classifier were trained."""

    def write(folder: Path, count: int) -> list[Path]:
        (base,) = _encoders(size)(folder, 1)
        tail = copies.trained_tail(base, "pooler|classifier", 1, 0)
        return list(copies.write_copies(base, folder, "frozen", count, tail))

    return write


CASES = {
    case.name: case
    for case in (
        Case("policy", "MLP 17-64-64-6", 32, _zoo("policy")),
        Case("policy-8", "MLP 17-64-64-6", 8, _zoo("policy")),
        Case("encoder", "encoder of the sizes of MiniLM, 16 tokens", 8, _encoders(MINI), {"sequence": 16},
             {"input_ids": MINI.vocabulary}),
        Case("mobilenet", "MobileNet v2, 96 x 96 pixels", 8, _zoo("mobilenet-96")),
        Case("heads", "one frozen encoder, 8 heads, 16 tokens", 8, _heads(SIZES["small"]), {"sequence": 16},
             {"input_ids": SIZES["small"].vocabulary}),
        Case("tiny", "a tiny encoder, for tests", 3, _encoders(SIZES["tiny"]), {"sequence": 4},
             {"input_ids": SIZES["tiny"].vocabulary}),
    )
}  # fmt: skip
FAMILIES = ("policy", "encoder", "mobilenet", "heads")
"""The families under load; the others are for single calls and for tests."""


def prepared(case: Case, folder: Path) -> Served:
    """Return a family, which is written and merged where it is not there yet."""
    folder = folder / case.name
    bundle, listed = folder / "bundle", folder / "sources.json"
    names = tuple(f"m{number}" for number in range(case.count))
    if not listed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(path) for path in case.write(folder, case.count)]
        netfuse_onnx.merge(
            paths, str(bundle), names=names, io="stacked", target="cpu", views=True, verify=False
        )
        listed.write_text(json.dumps([Path(path).name for path in paths]))
    sources = tuple(str(folder / name) for name in json.loads(listed.read_text()))
    return _asked(case, names, sources, str(bundle))


def _asked(case: Case, names: tuple[str, ...], sources: tuple[str, ...], bundle: str) -> Served:
    """Draw the requests, and run each on the session of its own model."""
    feeds, answers = [], []
    outputs: tuple[str, ...] = ()
    for number, source in enumerate(sources):
        own = session(source)
        rng = np.random.default_rng(number)
        outputs = tuple(one.name for one in own.get_outputs())
        feeds.append(tuple(_drawn(own, case, rng) for _ in range(PICKS)))
        answers.append(tuple(tuple(own.run(None, one)) for one in feeds[-1]))
    served = Served(case.name, names, sources, bundle, outputs, tuple(feeds), tuple(answers))
    _tells(served)
    return served


def _drawn(own: ort.InferenceSession, case: Case, rng: np.random.Generator) -> Feeds:
    feeds = {}
    for one in own.get_inputs():
        shape = [size if isinstance(size, int) else case.sizes.get(size, 1) for size in one.shape]
        kind = TYPES[one.type]
        if kind is np.float32:
            feeds[one.name] = rng.standard_normal(shape).astype(kind)
        else:
            feeds[one.name] = (
                rng.integers(0, case.high[one.name], shape) if one.name in case.high else np.ones(shape, kind)
            )
    return feeds


def _tells(served: Served) -> None:
    """Refuse a family in which the answers of two models are so close that exchanging them could not show."""
    own = session(served.sources[1]).run(None, served.feeds[0][0])
    if agrees(own, served.answers[0][0]):
        raise SystemExit(f"{served.name}: the first two models give the same answers.")


def agrees(got: Sequence[Array], want: Sequence[Array]) -> bool:
    """Compare outputs, in order, with those of the source."""
    return all(
        g.shape == w.shape and np.allclose(g, w, rtol=RTOL, atol=ATOL * max(1.0, float(np.abs(w).max())))
        for g, w in zip(got, want, strict=True)
    )


def session(path: str, threads: int = 1) -> ort.InferenceSession:
    """Open a model's own session on the CPU, with threads that don't spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    given = parser.parse_args()
    for name in given.cases or CASES:
        served = prepared(CASES[name], given.folder)
        print(f"{name}: {len(served.models)} models, {CASES[name].about}: {served.bundle}")


if __name__ == "__main__":
    main()
