"""Einsum: the models are one more letter; or, where it is a product of matrices, MatMul on rows, or between
Transposes. ONNX Runtime's Einsum copies its operands with every call, MatMul reads weights where they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import TensorProto

from netfuse_onnx.dims import same_dim
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.rules._build import need, same_op
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.products import Matrices, product

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
            Matrices(
                emit.transpose(value, [0, *take.shifted(order)] if take.stacked else order),
                take,
                tuple(site.dims(i)[axis] for axis in order),
            )
            for i, (value, take, order) in enumerate(zip(ins, takes, perms, strict=False))
        )
        return emit.transpose(product(x, w, emit), [0, *STACKED(0).shifted(perms[2])])

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
