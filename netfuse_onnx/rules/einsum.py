"""Einsum: the models are one more letter; or, where it is a product of matrices, MatMul and Transposes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family
from netfuse_onnx.types import SHARED, STACKED

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@family("Einsum")
def einsum(site: Site) -> Iterator[Option]:
    """one more letter, the models, on every operand that differs between them"""
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
    takes = tuple(STACKED(0) if m else SHARED for m in site.mapped)
    yield Option("einsum", takes, (STACKED(0),), lambda s, ins, emit: again(s, ins, emit, equation=merged))


FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Matrices:
    """The letters of an equation that is a product [rows, inner] x [inner, columns] for each of `batch`."""

    batch: str
    rows: str
    inner: str
    columns: str


def matrices(equation: str) -> Matrices | None:
    """None where an equation is no such product."""
    left, arrow, result = equation.partition("->")
    x, comma, w = left.partition(",")
    if not arrow or not comma or not all(t.isalpha() and len(set(t)) == len(t) for t in (x, w, result)):
        return None
    parts = [
        [c for c in x if c in w and c in result],
        [c for c in x if c not in w and c in result],
        [c for c in x if c in w and c not in result],
        [c for c in w if c not in x and c in result],
    ]
    batch, *own = ("".join(part) for part in parts)
    alone = all(len(part) == 1 for part in own) and {*x, *w} == {*batch, *"".join(own)} == {*result, own[1]}
    return Matrices(batch, *own) if alone else None


@family("Einsum")
def einsum_matmul(site: Site) -> Iterator[Option]:
    """MatMul between Transposes, with --target, as it is faster than Einsum: M(ibd), M(jbd) -> M(bij)"""
    x, _, rest = site.attr("equation").decode().replace(" ", "").partition(",")
    w, _, result = rest.partition("->")
    found = matrices(f"{x},{w}->{result}")
    need(found is not None, "it is no product of two matrices")
    need(site.inputs[0].dtype in FLOATS, "ONNX Runtime's MatMul is for floats")
    assert found is not None
    orders = [
        [term.index(c) for c in found.batch + own]
        for term, own in ((x, found.rows + found.inner), (w, found.inner + found.columns))
    ]
    given = found.batch + found.rows + found.columns
    orders.append([given.index(c) for c in result])
    takes = tuple(STACKED(0) if m else SHARED for m in site.mapped)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        x, w = (
            emit.transpose(value, [0, *(1 + axis for axis in order)] if site.mapped[i] else order)
            for i, (value, order) in enumerate(zip(ins, orders[:2], strict=True))
        )
        return emit.transpose(emit("MatMul", x, w), [0, *(1 + axis for axis in orders[2])])

    turned = tuple(i for i, order in enumerate(orders) if order != sorted(order))
    yield Option(
        "einsum_matmul", takes, (STACKED(0),), body, 1.0 + len(turned), tuned=True, kernel="product_values",
        transposes=turned,
    )  # fmt: skip
