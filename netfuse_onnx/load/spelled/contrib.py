"""Forms of operators of ONNX Runtime, which its optimiser and converters for it write: they become those of
the standard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import FLOATS, NARROW_FLOATS
from netfuse_onnx.types import Node

MS = "com.microsoft"
ACTIVATIONS = {b"Relu": "Relu", b"Sigmoid": "Sigmoid", b"Tanh": "Tanh"}
"""Those of FusedConv that have no parameters."""


def _plain(op: str, node: Node, inputs: tuple[str, ...], outputs: tuple[str, ...], **attrs: object) -> Node:
    return Node(op, "", node.name, inputs, outputs, attrs)


@form(f"{MS}.Gelu", f"{MS}.FastGelu", f"{MS}.BiasGelu", name="gelu-of-the-runtime", opset=20, exact=False,
      says="Gelu, FastGelu and BiasGelu of ONNX Runtime became Gelu")  # fmt: skip
def _gelu(forms: Forms, node: Node) -> list[Node] | None:
    """The bias is added first; FastGelu is the one by tanh."""
    if forms.dtype(node.inputs[0]) not in NARROW_FLOATS:
        return None
    x, *bias = filter(None, node.inputs)
    made = list[Node]()
    if bias:
        total = forms.fresh(x)
        made.append(_plain("Add", node, (x, bias[0]), (total,)))
        x = total
    way = b"tanh" if node.op == "FastGelu" else b"none"
    return [*made, _plain("Gelu", node, (x,), node.outputs, approximate=way)]


@form(
    f"{MS}.QuickGelu",
    name="quick-gelu",
    exact=False,
    says="QuickGelu of ONNX Runtime became x * Sigmoid(a * x)",
)
def _quick_gelu(forms: Forms, node: Node) -> list[Node] | None:
    """x * sigmoid(alpha * x)"""
    (x,), alpha = node.inputs, node.attrs.get("alpha", 1.702)
    if forms.dtype(x) not in FLOATS:
        return None
    made, scaled = list[Node](), x
    if alpha != 1:
        scaled = forms.fresh(x)
        made.append(_plain("Mul", node, (x, forms.of_type(alpha, forms.dtype(x))), (scaled,)))
    gate = forms.fresh(x)
    made.append(_plain("Sigmoid", node, (scaled,), (gate,)))
    return [*made, _plain("Mul", node, (x, gate), node.outputs)]


@form(f"{MS}.FusedMatMul", name="fused-product", exact=False,
      says="FusedMatMul of ONNX Runtime became MatMul, with Transpose and Mul")  # fmt: skip
def _fused_product(forms: Forms, node: Node) -> list[Node] | None:
    """alpha * A B, each with its last two axes exchanged or not."""
    attrs, made, operands = node.attrs, list[Node](), list[str]()
    if attrs.get("transBatchA", 0) or attrs.get("transBatchB", 0):
        return None
    dtype = forms.dtype(node.inputs[0])
    for name, flag in zip(node.inputs, ("transA", "transB"), strict=True):
        dims = forms.dims(name)
        if dims is None or len(dims) < 2 or dtype not in FLOATS:
            return None
        rank, turned = len(dims), name
        if attrs.get(flag, 0):
            turned = forms.fresh(name)
            perm = [*range(rank - 2), rank - 1, rank - 2]
            made.append(_plain("Transpose", node, (name,), (turned,), perm=perm))
        operands.append(turned)
    alpha = attrs.get("alpha", 1.0)
    product = node.outputs[0] if alpha == 1 else forms.fresh(node.outputs[0])
    made.append(_plain("MatMul", node, tuple(operands), (product,)))
    if alpha != 1:
        made.append(_plain("Mul", node, (product, forms.of_type(alpha, dtype)), node.outputs))
    return made


@form(f"{MS}.SkipLayerNormalization", name="skip-layer-normalization", opset=17, exact=False,
      says="SkipLayerNormalization of ONNX Runtime became Add and LayerNormalization")  # fmt: skip
def _skip_layer_norm(forms: Forms, node: Node) -> list[Node] | None:
    """LayerNormalization(x + skip + bias); the sum may be a result, too."""
    x, skip, gamma, beta, bias = (*node.inputs, "", "", "")[:5]
    shift = beta or _zeros_like(forms, gamma)
    if not shift:
        return None
    return _skipped(forms, node, "LayerNormalization", (x, skip, bias), (gamma, shift))


@form(f"{MS}.SkipSimplifiedLayerNormalization", name="skip-rms-normalization", opset=23, exact=False,
      says="SkipSimplifiedLayerNormalization of ONNX Runtime became Add and RMSNormalization")  # fmt: skip
def _skip_rms_norm(forms: Forms, node: Node) -> list[Node] | None:
    """RMSNormalization(x + skip + bias); the sum may be a result, too."""
    x, skip, gamma, bias = (*node.inputs, "", "")[:4]
    return _skipped(forms, node, "RMSNormalization", (x, skip, bias), (gamma,))


@form("SimplifiedLayerNormalization", name="simplified-layer-normalization", opset=23, exact=False,
      says="SimplifiedLayerNormalization of ONNX Runtime became RMSNormalization")  # fmt: skip
def _simplified(forms: Forms, node: Node) -> Node | None:
    """The operators compute the same."""
    if len([name for name in node.outputs if name]) > 1 or node.attrs.get("stash_type", 1) != 1:
        return None
    attrs = {
        "axis": node.attrs.get("axis", -1),
        "epsilon": float(np.float32(node.attrs.get("epsilon", 1e-5))),
    }
    return replace(node, op="RMSNormalization", outputs=node.outputs[:1], attrs=attrs)


def _zeros_like(forms: Forms, gamma: str) -> str:
    weight = forms.weights.get(gamma)
    return forms.of_type(np.zeros(weight.shape), weight.dtype) if weight is not None else ""


def _skipped(
    forms: Forms, node: Node, op: str, summed: tuple[str, ...], parameters: tuple[str, ...]
) -> list[Node] | None:
    """Return the sum of what there is, and its normalisation along the last axis."""
    results = (*node.outputs, "", "", "")[:4]
    if results[1] or results[2] or forms.dtype(summed[0]) not in NARROW_FLOATS:
        return None
    made, (total, *rest) = list[Node](), [name for name in summed if name]
    for k, name in enumerate(rest):
        last = k == len(rest) - 1
        added = results[3] if last and results[3] else forms.fresh(total)
        made.append(_plain("Add", node, (total, name), (added,)))
        total = added
    epsilon = float(np.float32(node.attrs.get("epsilon", 1e-12)))
    made.append(_plain(op, node, (total, *parameters), results[:1], axis=-1, epsilon=epsilon))
    return made


@form(f"{MS}.FusedConv", name="fused-convolution", exact=False,
      says="FusedConv of ONNX Runtime became Conv, Add and the activation")  # fmt: skip
def _fused_conv(forms: Forms, node: Node) -> list[Node] | None:
    """A convolution, plus a sum, and an activation."""
    x, weight, bias, addend = (*node.inputs, "", "")[:4]
    activation = ACTIVATIONS.get(node.attrs.get("activation", b""))
    if activation is None:
        return None
    attrs = {key: value for key, value in node.attrs.items() if not key.startswith("activation")}
    result = forms.fresh(node.outputs[0])
    inputs = (x, weight, bias) if bias else (x, weight)
    made = [Node("Conv", "", node.name, inputs, (result,), attrs)]
    if addend:
        total = forms.fresh(node.outputs[0])
        made.append(_plain("Add", node, (result, addend), (total,)))
        result = total
    return [*made, _plain(activation, node, (result,), node.outputs)]
