"""Forms of the scale of an attention that is written out: it stands before the product, on the left operand.

Exporters scale the scores, or the queries, or queries and keys by the root of the scale each. A number moves
behind a change of axes, from the right operand of a product to the left one, and from its result there.
"""

from __future__ import annotations

from dataclasses import replace

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.load.spelled.scalars import MODERATE
from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.storage.numbers import FLOAT16
from netfuse_onnx.types import Node


@form("Transpose", "Reshape", name="number-behind-axes", needs=["MatMul"],
      says="A product with a number moved behind a change of axes")  # fmt: skip
def _behind_axes(forms: Forms, node: Node) -> list[Node] | None:
    """The axes of x * c are those of x, times c."""
    found = _numbered(forms, node.inputs[0])
    if found is None:
        return None
    product, x, number = found
    moved = forms.fresh(node.outputs[0])
    return [
        replace(node, inputs=(x, *node.inputs[1:]), outputs=(moved,)),
        replace(product, inputs=(moved, _scalar(forms, number, x)), outputs=node.outputs),
    ]


@form(
    "MatMul",
    name="scale-of-keys",
    exact=False,
    says="The scale of the right operand of a product moved to the left one",
)
def _from_the_right(forms: Forms, node: Node) -> list[Node] | None:
    """a (b * c) is (a * c) b."""
    left, right = node.inputs
    found = _numbered(forms, right) if left not in forms.weights else None
    return _scaled_left(forms, node, left, found[1], found[2]) if found else None


@form(
    "Mul",
    name="scale-of-scores",
    exact=False,
    needs=["MatMul"],
    says="The scale of a product moved to its left operand",
)
def _from_the_result(forms: Forms, node: Node) -> list[Node] | None:
    """(a b) * c is (a * c) b, where neither is a constant."""
    found = forms.with_scalar(node)
    product = forms.only(found[0], "MatMul") if found else None
    if found is None or product is None or any(name in forms.weights for name in product.inputs):
        return None
    if not _moderate(forms, found[0], found[1]):
        return None
    left, right = product.inputs
    return _scaled_left(forms, replace(product, outputs=node.outputs), left, right, found[1])


def _numbered(forms: Forms, name: str) -> tuple[Node, str, float] | None:
    """Return the Mul that gives a value, which is read once, with its computed operand and its number."""
    product = forms.only(name, "Mul")
    found = forms.with_scalar(product) if product else None
    return (product, *found) if product and found and _moderate(forms, *found) else None


def _moderate(forms: Forms, x: str, number: float) -> bool:
    """Return True where a product with a number leaves the range of the type nowhere."""
    dtype = forms.dtype(x)
    return dtype in FLOATS and 1 / MODERATE <= abs(number) <= (1.0 if dtype == FLOAT16 else MODERATE)


def _scalar(forms: Forms, number: float, like: str) -> str:
    return forms.of_type(number, forms.dtype(like))


def _scaled_left(forms: Forms, product: Node, left: str, right: str, number: float) -> list[Node]:
    scaled = forms.fresh(left)
    scale = Node("Mul", "", f"{product.name}/scale", (left, _scalar(forms, number, left)), (scaled,), {})
    return [scale, replace(product, inputs=(scaled, right))]
