"""The part of the models of a family that --partial merges, and what each of them keeps for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from netfuse_onnx.dims import Sizes, points
from netfuse_onnx.lowered import Merged
from netfuse_onnx.merge_rows import Apart, ApartRow
from netfuse_onnx.plan import planner
from netfuse_onnx.plan.multiply_adds import OnWeights
from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.plan.outlook import once_per_model
from netfuse_onnx.plan.sized import assumed, retyped
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Became, Correspondence, Graph, Node, ValueType

SHOWN = 3
"""Operators of a tail that its row names."""


def of(family: Correspondence, merged: Merged, dims: Sizes) -> Apart | None:
    """Return what is merged of the models of a merge with --partial, and what is not; None where they are one
    architecture. Open dims have the first sizes of `dims`, or assumed ones."""
    if merged.plan is None or not family.differences:
        return None
    sizes = assumed(family.graph, points(dims)[0])
    once, every = _work(family, merged, sizes)
    own = sum(tail_work(family, model, sizes) for model in range(family.models))
    return Apart(
        bytes=round(_merged_bytes(family, merged), 4),
        arithmetic=round(once / (every + own), 4) if every + own else None,
        rows=(*_rows(family, merged), *_tails(family)),
    )


# --------------------------------------------------------------------------- figures


def _merged_bytes(family: Correspondence, merged: Merged) -> float:
    """Return the share of the bytes of all models' weights that nodes read which run once for all."""
    assert merged.plan is not None
    once = (each for each in merged.plan.lowerings if each.became is not Became.REPLICATED)
    read = {name for each in once for name in each.site.node.reads}
    read |= {n for n in family.graph.outputs if n in family.weights}
    every = {n for node in family.graph.nodes for n in node.reads if n in family.weights}
    held = {name: _of_all(family, name) for name in every}
    own = sum(weights.nbytes(weight) for tail in family.tails for weight in tail.weights.values())
    whole = sum(held.values()) + own
    return sum(held[name] for name in every & read) / whole if whole else 1.0


def _of_all(family: Correspondence, name: str) -> int:
    """Return the bytes that a weight has in all sources together."""
    parts = family.weights[name]
    return sum(map(weights.nbytes, parts)) * (family.models if len(parts) == 1 else 1)


def _work(family: Correspondence, merged: Merged, sizes: Mapping[str, int]) -> tuple[float, float]:
    """Return the multiply-adds of the common nodes of all models, in those that run once and in all. Those of
    a node with weights of several sizes are in proportion to their bytes."""
    assert merged.plan is not None
    count, lowerings = OnWeights(family.models, sizes), merged.plan.lowerings
    sites = retyped([each.site for each in lowerings], count.priced(family))
    once = every = 0.0
    for lowering, site in zip(lowerings, sites, strict=True):
        if isinstance(lowering.option, NestedPlan):
            continue
        mine = count.lowering(once_per_model(lowering), site) * _scale(family, site.node)
        every += mine
        once += mine if lowering.became is not Became.REPLICATED else 0.0
    return once, every


def _scale(family: Correspondence, node: Node) -> float:
    """Return the bytes of the weights of a node of all models by those of as many of the first one."""
    ragged = [family.weights[name] for name in node.reads if name in family.ragged and name in family.weights]
    if not ragged:
        return 1.0
    largest = max(ragged, key=lambda parts: max(map(weights.nbytes, parts)))
    first = weights.nbytes(largest[0])
    return sum(map(weights.nbytes, largest)) / (first * len(largest)) if first else 1.0


def tail_work(family: Correspondence, model: int, sizes: Mapping[str, int]) -> float:
    """Return the multiply-adds of the tail of a model; 0 where it has none."""
    tail = family.tails[model] if family.tails else None
    if tail is None or not tail.nodes:
        return 0.0
    read = {name: _read_type(family, name) for name in tail.inputs}
    graph = replace(tail, types={**tail.types, **read})
    one = Correspondence.of_one(replace(family.sources[model], graph=graph))
    bound = {**assumed(graph, dict(sizes)), **sizes}
    count, lowerings = OnWeights(1, bound), planner.plan(one).lowerings
    sites = retyped([each.site for each in lowerings], count.priced(one))
    pairs = zip(lowerings, sites, strict=True)
    return sum(count.lowering(once_per_model(each), site) for each, site in pairs if not _nested(each.option))


def _nested(option: object) -> bool:
    return isinstance(option, NestedPlan)


def _read_type(family: Correspondence, name: str) -> ValueType:
    kind = family.type_of(name)
    least = family.least.get(name)
    return replace(kind, dims=least) if kind.dims is None and least else kind


# --------------------------------------------------------------------------- rows


def _rows(family: Correspondence, merged: Merged) -> Iterator[ApartRow]:
    """Yield a row for each operator of the common part that runs once per model because the models differ."""
    assert merged.plan is not None
    for index, lowering in enumerate(merged.plan.lowerings):
        node = lowering.site.node
        differs = [n for n in node.reads if len({part.shape for part in family.weights.get(n, ())}) > 1]
        if lowering.became is Became.REPLICATED and (differs or index in family.attrs):
            name = node.name or next(filter(None, node.outputs), "")
            sizes = "; ".join(_sizes(family, n) for n in differs)
            yield ApartRow(family.names, node.key, name, sizes or "attributes")


def _sizes(family: Correspondence, name: str) -> str:
    """Return `768 x 2, 5, 10` for weights that differ in one size, else all shapes."""
    shapes = [part.shape for part in family.weights[name]]
    if len({len(shape) for shape in shapes}) > 1:
        return ", ".join(str(list(shape)) for shape in shapes)
    axes = [list(dict.fromkeys(sizes)) for sizes in zip(*shapes, strict=True)]
    return " x ".join(", ".join(map(str, sizes)) for sizes in axes)


def _tails(family: Correspondence) -> Iterator[ApartRow]:
    """Yield a row for each tail with nodes."""
    for model, tail in zip(family.names, family.tails, strict=False):
        if tail.nodes:
            yield ApartRow((model,), _operators(tail), "", _weights(tail))


def _operators(tail: Graph) -> str:
    ops = [node.key for node in tail.nodes]
    more = f" and {len(ops) - SHOWN} more" if len(ops) > SHOWN else ""
    return ", ".join(ops[:SHOWN]) + more


def _weights(tail: Graph) -> str:
    shapes = [" x ".join(map(str, weight.shape)) for weight in tail.weights.values() if len(weight.shape) > 1]
    return "; ".join(shapes[:SHOWN])
