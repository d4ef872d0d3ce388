"""What is on offer: for every node of a graph, the lowerings among which the plan may choose.

What differs between the models is known before any choice is made: a value is mapped when a per-model
input or weight reaches it, and ragged when its shape may differ too. Both spread in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from netfuse_onnx.layouts import PER_MODEL, SHARED, Layout
from netfuse_onnx.ops import steering
from netfuse_onnx.plan.blame import blamed
from netfuse_onnx.rules import Site, options
from netfuse_onnx.rules.fallback import CHEAPER, RANDOM, UNJOINABLE, UNLIKE_BODY, UNSHAREABLE
from netfuse_onnx.storage.weights import array
from netfuse_onnx.types import Became, Correspondence, Graph, Lowering, Node, ValueType, Weight


@dataclass
class Candidates:
    """Everything the search works on. `options[i]` are the lowerings on offer for node i: exactly one
    for a node that runs once or can only be replicated, which comes last where it is one of several."""

    options: list[list[Lowering]] = field(default_factory=list)
    mapped: set[str] = field(default_factory=set)
    ragged: set[str] = field(default_factory=set)
    inputs: dict[str, Layout] = field(default_factory=dict)
    ends: dict[str, Layout] = field(default_factory=dict)


Bodies = Callable[[Correspondence, Candidates, Node], Lowering | str]
"""Offers a lowering for a node with bodies, or says why it is replicated (control.py)."""


def propagate(
    corr: Correspondence, inputs: Mapping[str, Layout], bodies: Bodies, *, tuned: bool = False
) -> Candidates:
    """Spread what is mapped and what is ragged, and collect every option. `inputs` says how each graph
    input is held; `tuned` adds the options that only pay by measured costs, once per model among them."""
    found = Candidates(ragged=set(corr.ragged), inputs=dict(inputs))
    found.mapped = {name for name, layout in inputs.items() if layout != SHARED}
    found.mapped |= {name for name, parts in corr.weights.items() if len(parts) > 1}
    for index, node in enumerate(corr.graph.nodes):
        found.options.append(_offers(corr, found, index, node, bodies, tuned))
        _mark(found, corr, node, found.options[-1])
    return found


def _offers(
    corr: Correspondence, found: Candidates, index: int, node: Node, bodies: Bodies, tuned: bool
) -> list[Lowering]:
    mapped = any(v in found.mapped for v in node.reads)
    alone = index in corr.attrs or steering.random(node) or _unshareable(corr.graph, node)
    if not mapped and not alone:
        return [Lowering(Became.SHARED, (SHARED,) * len(node.reads), (SHARED,) * len(node.outputs))]
    reason = _cannot(corr, found, index, node)
    if not reason and steering.bodies(node):
        answer = bodies(corr, found, node)
        if isinstance(answer, Lowering):
            return [answer]
        reason = answer
    if not reason:
        place = site(corr, found.mapped, node, index)
        with blamed(corr, place):
            offers, reason = options(place)
        batched = [Lowering(o.became, o.takes, o.gives, o.rule, o) for o in offers if tuned or not o.tuned]
        if batched:
            stuck = any(kind(corr, v).dtype in steering.UNJOINABLE for v in (*node.inputs, *node.outputs))
            apart = (stuck or tuned) and batched[0].gives[0] != SHARED
            why = UNJOINABLE if stuck else CHEAPER
            once = replicated(node, found.mapped, why, batched[0].gives)
            return [*batched, once] if apart else batched
    return [replicated(node, found.mapped, reason)]


def _unshareable(graph: Graph, node: Node) -> bool:
    """A graph output that is not a tensor is made for each model: no Identity could give it N names."""
    return any(v in graph.outputs and graph.types[v].proto is not None for v in node.outputs)


def _cannot(corr: Correspondence, found: Candidates, index: int, node: Node) -> str:
    """Why a node is replicated whatever its rules say, or ""."""
    if steering.random(node):
        return RANDOM
    if _unshareable(corr.graph, node):
        return UNSHAREABLE
    if index in corr.attrs and steering.bodies(node):
        return UNLIKE_BODY
    for name in node.inputs:
        if name in found.ragged:
            return f"the shape of its input {name!r} may differ between the models"
    return ""


def site(corr: Correspondence, mapped: set[str], node: Node, index: int) -> Site:
    """A node as its rules see it."""
    return Site(
        node,
        corr.models,
        corr.opsets,
        tuple(kind(corr, v) for v in node.inputs),
        tuple(kind(corr, v) for v in node.outputs),
        tuple(v in mapped for v in node.inputs),
        tuple(v in corr.weights for v in node.inputs),
        tuple(_known(corr.weights.get(v, ())) for v in node.inputs),
        corr.attrs.get(index, ()),
        tuple(corr.weights.get(v, ()) for v in node.inputs),
    )


def kind(corr: Correspondence, name: str) -> ValueType:
    """The per-model type of a value or weight."""
    parts = corr.weights.get(name)
    if parts:
        return ValueType(parts[0].dtype, parts[0].shape)
    return corr.believed.get(name) or corr.graph.types.get(name, ValueType())


def _known(parts: tuple[Weight, ...]) -> NDArray[Any] | None:
    small = len(parts) == 1 and isinstance(parts[0].data, bytes)
    return array(parts[0]) if small else None


def replicated(node: Node, mapped: set[str], reason: str, beside: Sequence[Layout] = ()) -> Lowering:
    """Once per model: mapped inputs apart, the others shared. An output that the ways `beside` it give once
    for all, such as a mean that no weight of a model reaches, is once for all here, too."""
    takes = tuple(PER_MODEL if v in mapped else SHARED for v in node.reads)
    gives = [SHARED if layout == SHARED else PER_MODEL for layout in beside] or [PER_MODEL] * len(
        node.outputs
    )
    return Lowering(Became.REPLICATED, takes, tuple(gives), "", None, reason)


def _mark(found: Candidates, corr: Correspondence, node: Node, offers: Sequence[Lowering]) -> None:
    """Mapped and ragged outputs of a node. All options of a node give SHARED, or none does."""
    first = offers[0]
    open_ = found.ragged - corr.ragged  # of the others, match has told what follows from their shapes
    sizes = {dim for name in corr.graph.inputs for dim in kind(corr, name).dims or ()}
    for name, gives in zip(node.outputs, first.gives, strict=True):
        if gives != SHARED:
            found.mapped.add(name)
    if first.became is Became.REPLICATED and steering.ragged(node, found.mapped, open_):
        for name in node.outputs:
            dims = kind(corr, name).dims
            # A symbol of the graph's inputs is one size for all models; a join would notice if it lied.
            if dims is None or not all(isinstance(d, int) or (d and d in sizes) for d in dims):
                found.ragged.add(name)
