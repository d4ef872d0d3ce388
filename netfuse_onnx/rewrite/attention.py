"""Attention that is written out becomes ONNX's operator Attention, for targets where that is one launch.

    softmax(scale * q k^T + masks) v  for q [B, S, H, d], k [B, T, H, d], v [B, T, H, e]

ONNX Runtime's CUDA provider has one kernel for it, for float32 too, that never stores the scores; written
out it takes seven launches. The operator is of opset 23, so the family is raised to that. Masks are rewritten
where ONNX Runtime takes a number for the mark of a key that is masked (masks.py).

Where the nodes between softmax and product turn NaN into 0, as exports of torch do for rows without any key,
Attention does so for these rows. It does not for rows whose scores are NaN for another reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnx import TensorProto

from netfuse_onnx.dims import same_name
from netfuse_onnx.load import opset
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.lift import Unconvertible
from netfuse_onnx.ops import kinds
from netfuse_onnx.rewrite.believed import believe_types
from netfuse_onnx.rewrite.biases import moves_bias, without_bias
from netfuse_onnx.rewrite.heads import HEADS_FIRST, Heads, equal_but_one, heads_of, joined, keys_of
from netfuse_onnx.rewrite.masks import Masks, adds_nothing, endless, fit, is_zero
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Correspondence, Dim, Node

OPSET = 23
"""The first opset with the operator."""


def fuse_attention(corr: Correspondence) -> Correspondence:
    """The correspondence with an Attention in the place of each group that computes one.

    Types are inferred again on the way: Attention keeps the names of dims that a Reshape to -1 loses, and by
    them the mask of a later group can be understood."""
    if next(_Fusing(corr, Masks()).groups(), None) is None:
        return corr
    raised, masks = _raised(corr), Masks()
    while raised is not None:
        corr = raised
        raised = _Fusing(corr, masks).run()
    return corr


def _raised(corr: Correspondence) -> Correspondence | None:
    """The correspondence at an opset that has the operator, None where that can't be done."""
    if corr.opsets.get("", 0) >= OPSET:
        return corr
    if corr.tails:  # they stay at their opset
        return None
    source = replace(corr.sources[0], graph=corr.graph, opsets=corr.opsets)
    try:
        lifted = opset.converted(source, OPSET)
    except Unconvertible:
        return None
    outputs = [[node.outputs for node in graph.nodes] for graph in (lifted.graph, corr.graph)]
    if corr.attrs and outputs[0] != outputs[1]:  # they belong to nodes by number
        return None
    fresh = {name: (weight,) for name, weight in lifted.graph.weights.items()}
    weights = {name: corr.weights.get(name, parts) for name, parts in fresh.items()}
    graph = replace(lifted.graph, types=corr.graph.types)
    return typed(replace(corr, graph=graph, weights=weights, opsets=lifted.opsets))


@dataclass(frozen=True)
class Group:
    """One attention: its operands, its masks, and the node whose output it computes."""

    query: Heads
    key: Heads
    value: Heads
    scale: float
    masks: tuple[str, ...]
    last: int


@dataclass(frozen=True)
class Scores:
    """scale * query key^T + masks."""

    query: Heads
    key: Heads
    scale: float
    masks: tuple[str, ...] = ()


class _Fusing:
    """Finds the groups of a correspondence and replaces them."""

    def __init__(self, corr: Correspondence, masks: Masks) -> None:
        self.view, self.masks = View(corr), masks

    def run(self) -> Correspondence | None:
        """Return the correspondence with groups replaced, the first at least; None where there is none."""
        groups = sorted(self.groups(), key=lambda group: group.last)
        for k, group in enumerate(groups):
            if k and any(is_zero(self.view, mask) for mask in group.masks):
                break  # it may turn out to add nothing
            self._replace(group)
        return self.masks.believed(typed(self.view.replaced())) if groups else None

    def groups(self) -> Iterator[Group]:
        """Yield all groups that can be replaced."""
        for i, node in enumerate(self.view.nodes):
            if node.key == "Softmax" and i not in self.view.corr.attrs and (group := self._group(node)):
                yield group

    # ------------------------------------------------------------------ from the softmax on

    def _group(self, softmax: Node) -> Group | None:
        view, (name,) = self.view, softmax.outputs
        rank = view.rank(name)
        if rank != 4 or softmax.attrs.get("axis", -1) not in (-1, 3) or view.opset < 13:
            return None
        scores = self._scores(softmax.inputs[0])
        if scores is None or view.type(name).dtype != TensorProto.FLOAT:
            return None
        after = self._unguarded(name)
        product = view.only_reader(after or name, "MatMul")
        if product is None or product.inputs[0] != (after or name):
            return None
        value = heads_of(view, product.inputs[1], HEADS_FIRST)
        turned = view.only_reader(product.outputs[0], "Transpose")
        if value is None or turned is None or list(turned.attrs.get("perm", ())) != HEADS_FIRST:
            return None
        sizes = (scores.query.batch, scores.query.heads, scores.query.length, scores.key.length)
        masks = tuple(mask for mask in scores.masks if not adds_nothing(view, mask, sizes))
        last = self._last(turned, (scores.query.batch, scores.query.length, value.heads * value.size))
        group = Group(scores.query, scores.key, value, scores.scale, masks, last)
        return group if _fit(group) and fit(view, masks, guarded=after is not None) else None

    def _last(self, turned: Node, dims: tuple[Dim, ...]) -> int:
        """The node that gives the result: a Transpose, or the Reshape behind it that gives [B, S, H*size]."""
        view = self.view
        shaped = view.only_reader(turned.outputs[0], "Reshape")
        given = None if shaped is None else view.dims(shaped.outputs[0])
        joins = shaped is not None and given is not None and equal_but_one(given, dims)
        return view.producers[shaped.outputs[0] if shaped is not None and joins else turned.outputs[0]]

    def _unguarded(self, name: str) -> str | None:
        """The output of Where(IsNaN(p), 0, p), where nothing else reads p; None where there is none."""
        readers = self.view.readers.get(name, [])
        if len(readers) != 2 or name in self.view.corr.graph.outputs:
            return None
        nodes = {node.key: node for node in map(self.view.nodes.__getitem__, readers)}
        test, chosen = nodes.get("IsNaN"), nodes.get("Where")
        if test is None or chosen is None or self.view.only_reader(test.outputs[0], "Where") is not chosen:
            return None
        condition, zero, other = chosen.inputs
        fits = condition == test.outputs[0] and other == name and self.view.number(zero) == 0.0
        return chosen.outputs[0] if fits else None

    def _scores(self, name: str) -> Scores | None:
        """The parts of the scores, which nothing but the softmax reads."""
        node = self.view.producer(name)
        if node is None or not self.view.read_once(name):
            return None
        if node.key == "Add":
            for mine, mask in (node.inputs, node.inputs[::-1]):
                if scores := self._scores(mine):
                    return replace(scores, masks=(*scores.masks, mask))
            return None
        if node.key == "MatMul":
            query, keys = (self._scaled(each) for each in node.inputs)
            heads = heads_of(self.view, query[0], HEADS_FIRST), keys_of(self.view, keys[0])
            if heads[0] is None or heads[1] is None:
                return None
            return Scores(heads[0], heads[1], query[1] * keys[1])
        inner, factor = self._scaled(name)
        scores = self._scores(inner) if inner != name else None
        return None if scores is None or scores.masks else replace(scores, scale=scores.scale * factor)

    def _scaled(self, name: str) -> tuple[str, float]:
        """A value before its product with a number, or quotient, and that number."""
        node = self.view.producer(name)
        if node is None or node.key not in ("Mul", "Div"):
            return name, 1.0
        left, right = node.inputs
        if (number := self.view.number(right)) is not None:
            return left, number if node.op == "Mul" else 1.0 / number if number else math.nan
        if node.op == "Mul" and (number := self.view.number(left)) is not None:
            return right, number
        return name, 1.0

    # ------------------------------------------------------------------ the new nodes

    def _replace(self, group: Group) -> None:
        """Put the nodes that stand for a group in its place."""
        view, last = self.view, self.view.nodes[group.last]
        made: list[Node] = []
        key, value = without_bias(view, group.key, made), group.value
        if not endless(view, group.masks) and moves_bias(view, value, last.outputs[0]):
            value = without_bias(view, value, made)
        operands = [joined(view, heads, made) for heads in (group.query, key, value)]
        if group.masks:
            operands.append(self.masks.joined(view, group.masks, operands[0], operands[1], made))
        attrs = {"q_num_heads": group.query.heads, "kv_num_heads": group.key.heads, "scale": group.scale}
        (result,) = last.outputs
        rows = result if last.op == "Reshape" else view.fresh(f"{result}/joined")
        made.append(Node("Attention", "", last.name, tuple(operands), (rows,), attrs))
        if rows != result:
            made.append(view.reshape(rows, [0, 0, value.heads, value.size], result))
        view.put(group.last, made)


def _fit(group: Group) -> bool:
    """True where the operands are those of one Attention, which compares their batches and lengths itself."""
    q, k, v = group.query, group.key, group.value
    alike = q.heads == k.heads == v.heads and q.size == k.size
    sizes = (q.batch, k.batch), (q.batch, v.batch), (k.length, v.length)
    return alike and all(same_name(*pair) for pair in sizes) and math.isfinite(group.scale)


def typed(corr: Correspondence) -> Correspondence:
    """The correspondence with types for new values, too."""
    known = corr.graph.types
    types = infer(replace(corr.sources[0], graph=corr.graph, opsets=corr.opsets)).graph.types
    types = {name: kinds.both(kind, known.get(name)) for name, kind in types.items()}
    return believe_types(replace(corr, graph=replace(corr.graph, types=types)))
