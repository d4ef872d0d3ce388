"""The operands of an attention that is written out: rows [B, L, H*size] that are cut into heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from netfuse_onnx.dims import same_dim
from netfuse_onnx.ops.shapes import part
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Dim, Node, ValueType

HEADS_FIRST = [0, 2, 1, 3]
KEYS_LAST = [0, 2, 3, 1]
ROWS_RANK, SPLIT_RANK = 3, 4


@dataclass(frozen=True)
class Heads:
    """One operand: `split` is [B, L, H, size], `rows` is [B, L, H*size], or "" where it has to be made.
    `shaped` is the Reshape that gives `split`, if there is one."""

    split: str
    rows: str
    shaped: Node | None
    batch: Dim
    length: Dim
    heads: int
    size: int

    @property
    def width(self) -> int:
        return self.heads * self.size


def heads_of(view: View, name: str, perm: Sequence[int]) -> Heads | None:
    """The operand [B, L, H, size] that a Transpose turns to `name`."""
    node = view.producer(name)
    if node is None or node.key != "Transpose" or list(node.attrs.get("perm", ())) != list(perm):
        return None
    (split,) = node.inputs
    dims = view.dims(split)
    if dims is None or len(dims) != SPLIT_RANK or not isinstance(dims[3], int):
        return None
    shaped = view.producer(split)
    shaped = shaped if shaped is not None and shaped.key == "Reshape" else None
    whole = (view.dims(shaped.inputs[0]) if shaped is not None else None) or ()
    rows = whole if len(whole) == ROWS_RANK else (*dims[:2], None)
    heads = dims[2] if isinstance(dims[2], int) else part(rows[2], dims[3])
    if not isinstance(heads, int) or not heads or (rows[2] is not None and rows[2] != heads * dims[3]):
        return None
    if shaped is None or whole != rows or not equal_but_one(rows, (*dims[:2], heads * dims[3])):
        return Heads(split, "", shaped, dims[0], dims[1], heads, dims[3])
    return Heads(split, shaped.inputs[0], shaped, rows[0], rows[1], heads, dims[3])


def keys_of(view: View, name: str) -> Heads | None:
    """The keys [B, T, H, size] that `name` has as [B, H, size, T], by one Transpose or several nodes."""
    if (heads := heads_of(view, name, KEYS_LAST)) is not None:
        return heads
    node = view.producer(name)
    if node is None:
        return None
    if node.key == "Transpose" and list(node.attrs.get("perm", ())) == [0, 1, 3, 2]:
        return heads_of(view, node.inputs[0], HEADS_FIRST)
    chain = view.chain(name, ("Reshape", "Transpose", "Reshape"))
    if chain is None or list(chain[1].attrs.get("perm", ())) != [0, 2, 1] or not _swaps_last(view, chain):
        return None
    return heads_of(view, chain[0].inputs[0], HEADS_FIRST)


def _swaps_last(view: View, chain: Sequence[Node]) -> bool:
    """True where [B, H, T, d] -> [BH, T, d] -> [BH, d, T] -> [B, H, d, T], by the types of the values."""
    dims = [view.dims(name) for name in (chain[0].inputs[0], chain[0].outputs[0], chain[2].outputs[0])]
    before, flat, after = (each or () for each in dims)
    if (len(before), len(flat), len(after)) != (SPLIT_RANK, ROWS_RANK, SPLIT_RANK):
        return False
    sizes = (before[1], before[3], before[2])
    return _equal(flat[1:], before[2:]) and _equal(after[1:], sizes)


def joined(view: View, heads: Heads, made: list[Node]) -> str:
    """The operand [B, L, H*size]. Its Reshape fails where an operand has another number of heads."""
    if heads.rows:
        return heads.rows
    name = view.fresh(f"{heads.split}/joined")
    view.note(name, ValueType(TensorProto.FLOAT, (heads.batch, heads.length, heads.width)))
    made.append(view.reshape(heads.split, [0, 0, heads.width], name))
    return name


def equal_but_one(left: Sequence[Dim], right: Sequence[Dim]) -> bool:
    """True where two shapes with equally many elements are one: all sizes but one are known to be equal."""
    return len(left) == len(right) and sum(not same_dim(a, b) for a, b in zip(left, right, strict=True)) <= 1


def _equal(left: Sequence[Dim], right: Sequence[Dim]) -> bool:
    return all(same_dim(a, b) for a, b in zip(left, right, strict=True))
