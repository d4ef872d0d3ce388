"""Families whose models share weights or answer for chosen rows, their merged files, and calls of these.

A call has what the merged file is fed and what the sources' own sessions give for it. values are those of
shared_values.py; the small families are those of the tests (tests/routed_families.py, tests/low_rank.py) and
of `python -m sample_models sharing`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import low_rank
import numpy as np
from routed_families import KINDS, Kind

import netfuse_onnx
from netfuse_onnx.combining import combined
from netfuse_onnx.run.runtime import Runtime, Session
from sample_models import copies
from sample_models.networks import NETWORKS, SIZES

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
MODELS = 3
RANK = 2
DIMS = {"sequence": 7, "past": 5, "height": 32, "width": 32}
"""Sizes of the networks of sample_models; their first axis is the batch."""
LABELS = 99
TARGETS = {"encoder": "attention", "decoder": "q_proj|v_proj", "cnn": r"fc\."}
TAIL = r"pooler|classifier|lm_head|fc\."


@dataclass(frozen=True)
class Family:
    """The models' own files, and inputs for a number of rows by a seed. `merge` has what `merge` takes, where
    that is something else than the files, and more options of it."""

    paths: list[str]
    draw: Callable[[int, int], Feeds]
    once: tuple[str, ...] = ()
    """Inputs without rows."""
    merge: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """A merged file to make of a family: the word for its inputs and outputs (`netfuse_onnx.edges`)."""

    family: str
    io: str
    target: str = "cuda"
    share: bool = False
    """All inputs are fed once, for all models."""
    combine: str = ""

    def __str__(self) -> str:
        words = (self.family, self.io, self.target, "shared inputs" * self.share, self.combine)
        return ", ".join(filter(None, words))


@dataclass(frozen=True)
class Call:
    """A merged file is fed these inputs, and must give these outputs."""

    feeds: Feeds
    wants: Feeds


# --------------------------------------------------------------------------- families


def forms() -> Iterator[Form]:
    """Yield every file that is checked, the most important first."""
    rows = [name for name, kind in KINDS.items() if "slots" not in kind.refused]
    for target in ("cuda", "generic"):
        for name in ("adapters of encoder", "low rank of encoder", "frozen encoder", "tenants of encoder"):
            yield from (Form(name, io, target) for io in ("index", "selected", "stacked"))
        for name in ("frozen encoder", "frozen decoder", "frozen cnn", "low rank mlp", "adapters of encoder"):
            yield Form(name, "stacked", target, share=True)
        for how in ("mean", "vote", "sum"):
            yield Form("frozen cnn", "stacked", target, share=True, combine=how)
            yield Form("mlp", "separate", target, combine=how)
        for name in rows:
            ways = [io for io in ("slots", "index", "selected") if io not in KINDS[name].refused]
            yield from (Form(name, io, target) for io in ways)
        for name in ("low rank mlp", "low rank of decoder", "adapters of decoder", "frozen cnn"):
            yield from (
                Form(name, io, target) for io in ("separate", "stacked", "index", "slots", "selected")
            )


def family(name: str, folder: Path) -> Family:
    """Write a family. `low rank of encoder` is a kind of sharing and a network."""
    if name in KINDS:
        kind = KINDS[name]
        return Family(kind.write(folder, MODELS), drawn_by(kind), kind.once)
    if name == "low rank mlp":
        paths, base = low_rank.tuned(folder, [{"w1": 3, "w2": 2}, {"w1": 1}, {"w2": 4}])
        return Family(paths, drawn_like(paths[0]), options={"low_rank": 0.0, "base": base})
    what, network = name.replace(" of ", " ").rsplit(" ", 1)
    base_path = folder / "base.onnx"
    base_path.write_bytes(NETWORKS[network](SIZES["tiny"], 0).SerializeToString())
    targets = TARGETS[network]
    changes = (
        copies.trained_tail(base_path, TAIL, 1, 0)
        if what == "frozen"
        else copies.merged_adapters(base_path, targets, RANK, 0)
    )
    paths = [*map(str, copies.write_copies(base_path, folder, "m", MODELS, changes))]
    found = Family(paths, drawn_like(paths[0]), _without_rows(paths[0]))
    if what == "low rank":
        return Family(paths, found.draw, found.once, options={"low_rank": 0.0, "base": str(base_path)})
    if what == "tenants":
        own = [*map(str, copies.write_tenants(base_path, folder, MODELS, targets, RANK, 0))]
        return Family(own, found.draw, found.once)
    if what == "adapters":
        files = [*map(str, copies.write_adapters(base_path, folder, MODELS, targets, RANK, 0))]
        return Family(paths, found.draw, found.once, netfuse_onnx.adapters(str(base_path), files))
    return found


def drawn_by(kind: Kind) -> Callable[[int, int], Feeds]:
    return lambda rows, seed: kind.draw(rows, seed, once=7)


def drawn_like(path: str) -> Callable[[int, int], Feeds]:
    """Random inputs of the shapes that a file declares; those without a batch are the same for every seed."""
    ports = Session(path, Runtime("cpu"))

    def draw(rows: int, seed: int) -> Feeds:
        feeds = {}
        for k, (name, dims) in enumerate(ports.shapes.items()):
            batch = _is_batch(dims)
            rng = np.random.default_rng([seed if batch else 7, k])
            shape = [rows if batch and not at else DIMS.get(d, d) for at, d in enumerate(dims)]
            whole, high = "int64" in ports.inputs[name], 2 if "mask" in name else LABELS
            values = rng.integers(0, high, shape) if whole else rng.standard_normal(shape)
            feeds[name] = values.astype(np.int64 if whole else np.float32)
            if "mask" in name:
                feeds[name][:, 0] = 1
        return feeds

    return draw


def _is_batch(dims: Sequence[Any]) -> bool:
    return bool(dims) and dims[0] in ("batch", "n")


def _without_rows(path: str) -> tuple[str, ...]:
    return tuple(n for n, dims in Session(path, Runtime("cpu")).shapes.items() if not _is_batch(dims))


def merged(form: Form, own: Family, folder: Path, provider: str, *, proven: bool) -> str:
    """Merge a family, with all proofs on the provider where `proven`. Returns the path of the file."""
    out = str(folder / "merged.onnx")
    routed = form.io in ("slots", "index")
    more: dict[str, Any] = {"routing": form.io} if routed else {}
    if form.combine:
        more["combine"] = form.combine
    netfuse_onnx.merge(
        own.merge or own.paths, out, io="routed" if routed else form.io, target=form.target,
        provider=provider,
        names=[f"m{m}" for m in range(len(own.paths))], share=[*own.draw(1, 0)] if form.share else (),
        verify=proven, **own.options, **more,
    )  # fmt: skip
    return out


# --------------------------------------------------------------------------- calls


class Calls:
    """Calls of a form, whose right outputs the sources' own sessions give."""

    def __init__(self, form: Form, own: Family, ask: Callable[[int, Feeds], Feeds]) -> None:
        self.form, self.own, self.ask = form, own, ask
        self.ids = {"index": "model", "slots": "model", "selected": "models"}.get(form.io, "")
        self.models = len(own.paths)

    def good(self) -> Iterator[Call]:
        """Yield calls that must be right: other ids, other numbers of rows, the first one again."""
        turns = [*self._orders()]
        for seed, ids in enumerate([*turns, turns[0]]):
            yield self.call(ids, seed % len(turns))

    def _orders(self) -> Iterator[list[int]]:
        n = self.models
        if not self.ids:
            yield from ([*range(n)], [*range(n)])
        elif self.ids == "models":
            yield from ([*range(n)][::-1], [n - 1], [n - 1, 0, n - 1], [0, 0, n - 1, 1, n - 1])
        else:
            rng = np.random.default_rng(n)
            yield from ([n - 1], [0] * 4, [2, 0, 0, 2, 1], [*range(n)], rng.integers(0, n, 11).tolist())

    def call(self, ids: Sequence[int], seed: int = 0) -> Call:
        """Return a call for these models. Of routed rows, its source gets all those of a model together."""
        return self._rows(np.array(ids), seed) if self.ids == "model" else self._models(ids, seed)

    def _rows(self, ids: Array, seed: int) -> Call:
        feeds, wants = self.own.draw(len(ids), seed), Feeds()
        for m in sorted(set(ids.tolist())):
            mine = ids == m
            given = self.ask(m, {n: v if n in self.own.once else v[mine] for n, v in feeds.items()})
            for name, value in given.items():
                whole = wants.setdefault(name, np.zeros((len(ids), *value.shape[1:]), value.dtype))
                whole[mine] = value
        return Call({**feeds, self.ids: ids.astype(np.int64)}, wants)

    def _models(self, ids: Sequence[int], seed: int) -> Call:
        places = [0 if self.form.share else k for k in range(len(ids))]
        each = [self.own.draw(2 + seed % 2, 100 * seed + k) for k in places]
        given = [self.ask(m, feeds) for m, feeds in zip(ids, each, strict=True)]
        apart = self.form.io == "separate"
        feeds = each[0] if self.form.share else _joined(each, apart)
        if self.ids:
            feeds = {**feeds, self.ids: np.array(ids, np.int64)}
        if not self.form.combine:
            return Call(feeds, _joined(given, apart))
        return Call(
            feeds, {n: np.asarray(combined(self.form.combine, [one[n] for one in given])) for n in given[0]}
        )

    def wrong(self) -> Iterator[tuple[str, Feeds]]:
        """Yield calls that must fail, and words for them."""
        if not self.ids:
            return
        n = self.models
        good = self.call([0, 1, 2, 0]).feeds
        for bad in (-1, n, -n, 1 << 40, -(1 << 63)):
            for place in (0, 3):
                ids = good[self.ids].copy()
                ids[place] = bad
                yield f"id {bad} at {place}", {**good, self.ids: ids}
        if set(good) - {self.ids} <= set(self.own.once):
            return
        for count in (0, 1, 3, 5):
            yield f"{count} ids for 4 rows", {**good, self.ids: np.zeros(count, np.int64)}

    def distinct(self) -> float:
        """Return the least difference between two models on the same inputs, as `error` counts it."""
        feeds = self.own.draw(3, 0)
        given = [self.ask(m, feeds) for m in range(self.models)]
        pairs = [(a, b) for a in range(self.models) for b in range(a)]
        return min(max(error(given[a][n], given[b][n]) for n in given[0]) for a, b in pairs)


def _joined(each: Sequence[Feeds], apart: bool) -> Feeds:
    if apart:
        return {f"m{m}/{name}": value for m, own in enumerate(each) for name, value in own.items()}
    return {name: np.stack([own[name] for own in each]) for name in each[0]}


def error(got: Array, want: Array) -> float:
    """Return the largest difference beside the largest value; of whole numbers, the part that is unequal."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return float("inf")
    if not want.size:
        return 0.0
    if want.dtype.kind != "f":
        return float(np.mean(got != want))
    with np.errstate(all="ignore"):
        worst = np.abs(got.astype(float) - want.astype(float)).max() / max(np.abs(want).max(), 1e-6)
    return float(worst) if np.isfinite(worst) else float("inf")


def processes() -> int:
    """Return how many processes check at once."""
    return max(2, min(12, (os.cpu_count() or 2) - 4))
