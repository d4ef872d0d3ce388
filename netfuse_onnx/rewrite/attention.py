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

from netfuse_onnx.dims import same_dim, same_name
from netfuse_onnx.load import opset
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.lift import Unconvertible
from netfuse_onnx.ops import kinds
from netfuse_onnx.rewrite.believed import believe_types
from netfuse_onnx.rewrite.masks import Masks, adds_nothing, fit
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Correspondence, Dim, Node, ValueType

OPSET = 23
"""The first opset with the operator."""
HEADS_FIRST = [0, 2, 1, 3]
KEYS_LAST = [0, 2, 3, 1]


def fuse_attention(corr: Correspondence) -> Correspondence:
    """The correspondence with an Attention in the place of each group that computes one.

    Types are inferred again after each: Attention keeps the names of dims that a Reshape to -1 loses, and by
    them the mask of the next group can be understood."""
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
class Heads:
    """One operand: `split` is [B, L, H, size], `joined` is [B, L, H*size], or "" where it has to be made."""

    split: str
    joined: str
    batch: Dim
    length: Dim
    heads: int
    size: int


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
        """Return the correspondence with the first group replaced; None where there is none."""
        group = next(self.groups(), None)
        if group is None:
            return None
        self.view.put(group.last, self._nodes(group))
        return self.masks.believed(typed(self.view.replaced()))

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
        value = self._heads(product.inputs[1], HEADS_FIRST)
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
            heads = self._heads(query[0], HEADS_FIRST), self._keys(keys[0])
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

    # ------------------------------------------------------------------ operands

    def _heads(self, name: str, perm: list[int]) -> Heads | None:
        """The operand [B, L, H, size] that is transposed to `name`."""
        node = self.view.producer(name)
        if node is None or node.key != "Transpose" or list(node.attrs.get("perm", ())) != perm:
            return None
        (split,) = node.inputs
        dims = self.view.dims(split)
        if dims is None or len(dims) != 4 or not isinstance(dims[3], int):
            return None
        whole, given = self._whole(split)
        size = whole[2] if whole is not None else None
        heads = dims[2] if isinstance(dims[2], int) else size // dims[3] if isinstance(size, int) else None
        if heads is None or not heads or (isinstance(size, int) and size != heads * dims[3]):
            return None
        wanted = (*dims[:2], heads * dims[3])
        if whole is None or not equal_but_one(whole, wanted):
            return Heads(split, "", dims[0], dims[1], heads, dims[3])
        return Heads(split, given, whole[0], whole[1], heads, dims[3])

    def _whole(self, split: str) -> tuple[tuple[Dim, ...] | None, str]:
        """The value [B, L, H*size] that is reshaped to `split`, and its dims."""
        node = self.view.producer(split)
        if node is None or node.key != "Reshape":
            return None, ""
        dims = self.view.dims(node.inputs[0])
        return (dims, node.inputs[0]) if dims is not None and len(dims) == 3 else (None, "")

    def _keys(self, name: str) -> Heads | None:
        """The keys [B, T, H, size] that `name` has as [B, H, size, T], by one Transpose or several nodes."""
        if (heads := self._heads(name, KEYS_LAST)) is not None:
            return heads
        node = self.view.producer(name)
        if node is None:
            return None
        if node.key == "Transpose" and list(node.attrs.get("perm", ())) == [0, 1, 3, 2]:
            return self._heads(node.inputs[0], HEADS_FIRST)
        chain = self.view.chain(name, ("Reshape", "Transpose", "Reshape"))
        if chain is None or list(chain[1].attrs.get("perm", ())) != [0, 2, 1]:
            return None
        return self._heads(chain[0].inputs[0], HEADS_FIRST) if self._swaps_last(chain) else None

    def _swaps_last(self, chain: tuple[Node, ...]) -> bool:
        """True where [B, H, T, d] -> [BH, T, d] -> [BH, d, T] -> [B, H, d, T], by the types of the values."""
        dims = [
            self.view.dims(name) for name in (chain[0].inputs[0], chain[0].outputs[0], chain[2].outputs[0])
        ]
        before, flat, after = (each or () for each in dims)
        if (len(before), len(flat), len(after)) != (4, 3, 4):
            return False
        pairs = zip(
            (*before[2:], before[1], *before[2:]), (*flat[1:], after[1], after[3], after[2]), strict=True
        )
        return all(same_dim(one, other) for one, other in pairs)

    # ------------------------------------------------------------------ the new nodes

    def _nodes(self, group: Group) -> list[Node]:
        """The nodes that stand for a group."""
        view, last = self.view, self.view.nodes[group.last]
        made: list[Node] = []
        operands = [self._joined(heads, made) for heads in (group.query, group.key, group.value)]
        if group.masks:
            operands.append(self.masks.joined(view, group.masks, operands[0], operands[1], made))
        attrs = {"q_num_heads": group.query.heads, "kv_num_heads": group.key.heads, "scale": group.scale}
        (result,) = last.outputs
        joined = result if last.op == "Reshape" else view.fresh(f"{result}/joined")
        made.append(Node("Attention", "", last.name, tuple(operands), (joined,), attrs))
        if joined != result:
            made.append(view.reshape(joined, [0, 0, group.value.heads, group.value.size], result))
        return made

    def _joined(self, heads: Heads, made: list[Node]) -> str:
        """The operand [B, L, H*size]. Its Reshape fails where an operand has another number of heads."""
        if heads.joined:
            return heads.joined
        name = self.view.fresh(f"{heads.split}/joined")
        dims = (heads.batch, heads.length, heads.heads * heads.size)
        self.view.note(name, ValueType(TensorProto.FLOAT, dims))
        made.append(self.view.reshape(heads.split, [0, 0, heads.heads * heads.size], name))
        return name


def equal_but_one(left: tuple[Dim, ...], right: tuple[Dim, ...]) -> bool:
    """True where two shapes with equally many elements are one: all sizes but one are known to be equal."""
    return len(left) == len(right) and sum(not same_dim(a, b) for a, b in zip(left, right, strict=True)) <= 1


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
