"""Einsum: the models are one more letter; or, where it is a product of matrices, MatMul on rows, or between
Transposes. ONNX Runtime's Einsum copies its operands with every call, MatMul reads weights where they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnx import TensorProto

from netfuse_onnx.dims import reshape_target, same_dim, static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import ROWS, STACKED
from netfuse_onnx.layouts.rows import apart, together, told_by
from netfuse_onnx.rules._build import need, same_op
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@family("Einsum")
def einsum(site: Site) -> Iterator[Option]:
    """Every operand that differs between the models gets one more letter for them."""
    equation = site.attr("equation").decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = [c for c in left if c.isalpha()]
        right = ("..." if "..." in left else "") + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    free = next((c for c in LETTERS if c not in equation), "")
    need(free != "", "its equation has no letter left for the models")
    terms = [free + term if site.mapped[i] else term for i, term in enumerate(terms)]
    merged = f"{','.join(terms)}->{free}{right}"
    yield Option("einsum", site.own_layouts, (STACKED(0),), same_op(equation=merged))


FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def orders(equation: str) -> list[list[int]] | None:
    """The orders that transpose both operands to [batch.., rows, inner] and [batch.., inner, columns], and
    their product to the result. None for an equation that is no product with one letter each but for the
    batch."""
    left, arrow, result = equation.partition("->")
    x, comma, w = left.partition(",")
    if not arrow or not comma or not all(t.isalpha() and len(set(t)) == len(t) for t in (x, w, result)):
        return None
    batch = "".join(c for c in x if c in w and c in result)
    rows, columns = ("".join(c for c in t if c not in u) for t, u in ((x, w), (w, x)))
    inner = "".join(c for c in x if c in w and c not in result)
    wanted = (batch + rows + inner, batch + inner + columns, batch + rows + columns)
    one_each = len(rows) == len(inner) == len(columns) == 1
    if not one_each or any(set(t) != set(u) for t, u in zip((x, w, result), wanted, strict=True)):
        return None
    to_x, to_w = ([t.index(c) for c in u] for t, u in ((x, wanted[0]), (w, wanted[1])))
    return [to_x, to_w, [wanted[2].index(c) for c in result]]


@family("Einsum")
def einsum_matmul(site: Site) -> Iterator[Option]:
    """It becomes a MatMul between Transposes: M(ibd), M(jbd) -> M(bij)."""
    perms = orders(site.attr("equation").decode().replace(" ", ""))
    need(perms is not None, "it is no product of two matrices")
    need(site.inputs[0].dtype in FLOATS, "ONNX Runtime's MatMul is for floats")
    assert perms is not None
    inner = site.dims(0)[perms[0][-1]], site.dims(1)[perms[1][-2]]
    need(
        same_dim(*inner) or not any(isinstance(dim, int) for dim in inner),
        "one of its operands alone may have an inner axis of size 1",
    )
    takes = site.own_layouts

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        x, w = (
            emit.transpose(value, [0, *take.shifted(order)] if take.stacked else order)
            for value, take, order in zip(ins, takes, perms, strict=False)
        )
        return emit.transpose(emit("MatMul", x, w), [0, *STACKED(0).shifted(perms[2])])

    yield Option("einsum_matmul", takes, (STACKED(0),), body)


def linear(equation: str) -> tuple[int, int, int, bool] | None:
    """Numbers of axes that are rows, inner, and outer, of rows+inner, inner+outer -> rows+outer; and whether
    the second operand is outer+inner. None for any other equation."""
    left, _, result = equation.partition("->")
    x, _, w = left.partition(",")
    inner = "".join(c for c in x if c in w)
    rows, outer = x.removesuffix(inner), "".join(c for c in w if c not in inner)
    distinct = all(len(set(term)) == len(term) and term.isalpha() for term in (x, w, result))
    ordered = x == rows + inner and w in (inner + outer, outer + inner) and result == rows + outer
    linear = distinct and ordered and inner and outer
    return (len(rows), len(inner), len(outer), w != inner + outer) if linear else None


@family("Einsum")
def einsum_rows(site: Site) -> Iterator[Option]:
    """With weights it becomes a MatMul on rows: ibh,hnd->ibnd is M(ib)h, Mh(nd) -> M(ib)(nd)."""
    product = linear(site.attr("equation").decode().replace(" ", ""))
    need(product is not None and len(site.node.inputs) == 2, "it is no product with weights")
    assert product is not None
    rows, inner, outer, turned = product
    need(site.is_mapped(1) and site.inputs[0].dtype in FLOATS, "it has no weights per model")
    x, w = site.dims(0), site.dims(1)
    need(0 not in w and all(isinstance(dim, int) for dim in w), "the size of its weights is unknown")
    summed, made = (w[outer:], w[:outer]) if turned else (w[:inner], w[inner:])
    need(rows >= 1 and all(map(same_dim, x[rows:], summed)), "its inner axes may differ")
    into, out = (math.prod(map(static_size, dims)) for dims in (summed, made))
    sizes = told_by((*x[:rows], *made), x)
    target = reshape_target(sizes)
    need(
        outer == 1 or target is not None or (None not in sizes and site.opset >= 14), "its sizes are unknown"
    )

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        left = ins[0] if inner == 1 else together(emit, ins[0], into)
        matrices = [emit.models, into, out]
        right = emit.swap_at(ins[1], outer, out, into) if turned else emit.reshape(ins[1], matrices)
        y = emit("MatMul", left, right)
        if outer == 1:
            return y
        return emit.reshape(y, [emit.models, *target]) if target else apart(emit, y, sizes)

    takes = (ROWS if inner == 1 else STACKED(0), STACKED(0))
    yield Option("einsum_rows", takes, (ROWS if outer == 1 else STACKED(0),), body, unmeasured=True)
