"""Low-rank differences as the verbs ask for them: the base, the choice for a target, and the report."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.dims import Sizes, points
from netfuse_onnx.errors import NotEquivalent, UsageFault
from netfuse_onnx.factored import Factored, LowRank, LowRankReport, LowRankRow
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.sized import assumed, sized
from netfuse_onnx.rewrite.low_rank import Base, applied, find
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.types import Correspondence, Graph, Node, Source, ValueType, Weight
from netfuse_onnx.write import digests

EXACT = 0.0
"""The tolerance that stands for the rounding of the stored type."""
CHEAPER = 0.95
"""A weight is stored for each model where that takes less than this part of the time on the target."""
SMALLEST = 4096
"""Elements of a weight below which the choice is not worth pricing."""
Factoring = Callable[[Correspondence], Correspondence]
"""Gives a matched family with its low-rank differences."""
Tell = Callable[[str, int, int], None]


def check(tolerance: float | Factoring | None, base: str | None, *, partial: bool) -> None:
    """Raise UsageFault for options that make no sense."""
    if tolerance is None:
        if base is not None:
            raise UsageFault("--base is the base of low-rank differences.", "Give --low-rank with it.")
        return
    if not callable(tolerance) and not 0 <= tolerance < 1:
        raise UsageFault(
            f"--low-rank can't take {tolerance:g}: it is an error relative to the largest value of a row.",
            "Give 0 or more and less than 1, such as 1e-6, or nothing for the rounding of the type.",
        )
    if partial:
        raise UsageFault(
            "--low-rank needs models of one architecture, and --partial takes others.", "Give one of them."
        )


def asked(
    sources: Sequence[Source],
    wanted: float | Factoring | None,
    base: str | None,
    target: str,
    dims: Sizes,
    tell: Tell,
) -> Factoring:
    """Return the function that gives a matched family with its low-rank differences, if they are wanted: it
    is what was asked for, or finds them. Raises as Finder."""
    if wanted is None:
        return lambda family: family
    return wanted if callable(wanted) else Finder(sources, wanted, base, tell).choosing(target, dims)


class Finder:
    """Finds the low-rank differences of a family once, and writes them into it as often as it is asked."""

    def __init__(self, sources: Sequence[Source], tolerance: float, base: str | None, tell: Tell) -> None:
        """Read the base. FileFault where it can't be read, NotEquivalent where it is no such model."""
        self.tolerance, self.tell = tolerance, tell
        self.base = Base() if base is None else _base(sources, base)
        self.found: LowRank | None = None

    def choosing(self, target: str, dims: Sizes) -> Factoring:
        """Return the function that gives a family with what is cheaper on the target."""

        def factoring(family: Correspondence) -> Correspondence:
            if self.found is None:
                found = find(family, self.tolerance, self.base, self.tell)
                self.found = found if target == "generic" else _chosen(family, found, target, dims)
            return applied(family, self.found)

        return factoring


def _base(sources: Sequence[Source], path: str) -> Base:
    """Return the base: a model where it is one of them, else a file apart."""
    if sources[0].adapted:
        raise UsageFault(
            "--base is for models of their own; adapters have theirs.", "Leave out --base and --low-rank."
        )
    for model, source in enumerate(sources):
        if os.path.exists(path) and os.path.samefile(source.path, path):
            return Base(model, given=True)
    source = steady([path], lambda: load(path))
    try:
        pair = match([sources[0], source], ["model", "base"])
    except NotEquivalent as error:
        raise NotEquivalent(
            f"The base is not of the models' architecture: {error.message}",
            "Give as --base the model from which they were trained.",
            error.mismatch,
        ) from error
    weights = {name: parts[-1] for name, parts in pair.weights.items()}
    return Base(None, weights, digests.of_files(source.files), given=True)


# --------------------------------------------------------------------------- whole or low-rank


def _chosen(family: Correspondence, found: LowRank, target: str, dims: Sizes) -> LowRank:
    """Return the differences without those that take longer on the target than a weight for each model."""
    kept, whole, known = list[Factored](), dict(found.whole), dict[Any, bool]()
    at = [sized(family, assumed(family.graph, point)).graph.types for point in points(dims)]
    for each in found.factored:
        node = next(node for node in family.graph.nodes if each.weight in node.reads)
        key = (each.form, each.rank, node.op, repr(node.attrs), *_shapes(node, each, at))
        if key not in known:
            known[key] = _slower(family, node, each, at, target)
        if known[key]:
            whole[each.weight] = f"a weight for each model is faster with --target {target}"
        else:
            kept.append(each)
    return replace(found, factored=tuple(kept), whole=whole)


def _shapes(node: Node, each: Factored, at: Sequence[Mapping[str, ValueType]]) -> list[object]:
    return [types.get(name) for types in at for name in node.inputs if name != each.weight]


def _slower(
    family: Correspondence,
    node: Node,
    each: Factored,
    at: Sequence[Mapping[str, ValueType]],
    target: str,
) -> bool:
    """Return True where the branch takes longer than the whole weights, over all sizes."""
    branch = whole = 0.0
    for types in at:
        alone = _alone(family, node, types)
        if alone is None or math.prod(each.form.shape) < SMALLEST:
            return False
        plain = planner.plan(alone, io="stacked", cost=cost(target, alone, {})).cost
        both = applied(alone, LowRank((each,)))
        branched = planner.plan(both, io="stacked", cost=cost(target, both, {})).cost
        least = min(plain, branched) or 1.0
        branch, whole = branch + branched / least, whole + plain / least
    return whole < CHEAPER * branch


def _alone(family: Correspondence, node: Node, types: Mapping[str, ValueType]) -> Correspondence | None:
    """Return the family of one node, whose other inputs are weights or fed; None where a size is unknown."""
    fed = tuple(dict.fromkeys(name for name in node.inputs if name and name not in family.weights))
    known = {name: types.get(name, ValueType()) for name in (*fed, *node.outputs)}
    dims = [dim for name in known for dim in known[name].dims or (None,)]
    if not all(isinstance(dim, int) for dim in dims):
        return None
    weights: dict[str, tuple[Weight, ...]] = {
        n: family.weights[n] for n in node.inputs if n in family.weights
    }
    first = {name: parts[0] for name, parts in weights.items()}
    graph = Graph("node", fed, node.outputs, (node,), first, known)
    return replace(
        family,
        graph=graph,
        weights=weights,
        attrs={},
        ragged=frozenset(),
        declared={},
        believed=known,
        edges=(),
    )


# --------------------------------------------------------------------------- the report


def report(family: Correspondence) -> LowRankReport | None:
    """Return what became of the weights that differ; None where nobody asked."""
    found = family.low_rank
    if found is None:
        return None
    rows = (
        LowRankRow(
            weight=each.weight,
            rank=each.rank,
            base="" if each.model is None else family.names[each.model],
            nodes=each.nodes,
            bytes=each.bytes,
            whole_bytes=each.whole_bytes,
            error=each.error,
        )
        for each in found.factored
    )
    return LowRankReport(tuple(rows), found.whole, found.tolerance, found.sha256)


def recorded(said: Mapping[str, Any] | None, models: Sequence[str]) -> LowRankReport | None:
    """Return the same from the metadata of a merged file."""
    if said is None:
        return None
    rows = (
        LowRankRow(
            weight=name,
            rank=line["rank"],
            base=models[line["model"]] if "model" in line else "",
            nodes=line.get("nodes", ()),
            bytes=int(line.get("bytes", 0)),
            whole_bytes=int(line.get("whole_bytes", 0)),
            error=line.get("error", 0.0),
        )
        for name, line in said["weights"].items()
    )
    return LowRankReport(tuple(rows), said["whole"], said["tolerance"], said["sha256"])
