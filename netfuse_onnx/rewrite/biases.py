"""Biases of keys and values that an attention need not add to rows.

A bias of the keys adds one number to all scores of a query, and softmax does not see that. A bias b of the
values is added to each row of the result, as the weights of the keys sum up to 1. A linear layer stands
behind it: softmax(..) (v + b) W + c is softmax(..) v W + (b W + c), and the bias in parentheses is computed
when a session loads the file.
"""

from __future__ import annotations

from dataclasses import replace

from netfuse_onnx.rewrite.heads import ROWS_RANK, Heads
from netfuse_onnx.rewrite.masks import bounded
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Node


def without_bias(view: View, heads: Heads, made: list[Node]) -> Heads:
    """The operand without the bias that is the same for all its rows."""
    found = _bias(view, heads)
    if found is None or heads.shaped is None:
        return heads
    rows, _ = found
    if heads.rows:
        return replace(heads, rows=rows)
    split = view.fresh(f"{heads.split}/unbiased")
    made.append(replace(heads.shaped, inputs=(rows, *heads.shaped.inputs[1:]), outputs=(split,), name=split))
    return replace(heads, split=split)


def _bias(view: View, heads: Heads) -> tuple[str, str] | None:
    """The rows of an operand before a stored bias is added to them, and that bias. Nothing else reads the
    sum."""
    shaped = heads.shaped
    if shaped is None or not view.read_once(shaped.inputs[0]) or not view.read_once(heads.split):
        return None
    added = view.producer(shaped.inputs[0])
    for rows, bias in (added.inputs, added.inputs[::-1]) if added is not None and added.key == "Add" else ():
        dims = view.dims(rows) or ()
        whole = len(dims) == ROWS_RANK and dims[2] == heads.width
        if whole and view.dims(bias) == (heads.width,) and bounded(view, bias):
            return rows, bias
    return None


def moves_bias(view: View, value: Heads, result: str) -> bool:
    """Move the bias of the values into the linear layer that alone reads the result [B, S, H*size]. False
    where there is none, or no bias behind that layer."""
    found = _bias(view, value)
    product = view.only_reader(result, "MatMul")
    added = None if product is None else view.only_reader(product.outputs[0], "Add")
    if found is None or found[1] not in view.weights or product is None or added is None:
        return False
    (left, weight), sum_ = product.inputs, product.outputs[0]
    (bias,) = (name for name in added.inputs if name != sum_)
    dims = view.dims(weight) if weight in view.weights else None
    fits = dims is not None and dims[:1] == (value.width,) and view.dims(bias) == dims[1:]
    if left != result or not fits or bias not in view.weights:
        return False
    moved, whole = (view.fresh(f"{bias}/{what}") for what in ("moved", "whole"))
    row = view.reshaped(found[1], (1, value.width))  # a matrix for each model, as the rows of the layer have
    view.put(
        view.producers[added.outputs[0]],
        [
            Node("MatMul", "", moved, (row, weight), (moved,), {}),
            Node("Add", "", whole, (moved, bias), (whole,), {}),
            replace(added, inputs=tuple(whole if name == bias else name for name in added.inputs)),
        ],
    )
    return True
