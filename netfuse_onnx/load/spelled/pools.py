"""Forms of means over all positions of a picture, and of padding before a window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netfuse_onnx.load.spelled.engine import Forms, form
from netfuse_onnx.ops.kinds import NARROW_FLOATS
from netfuse_onnx.types import Node


@form("ReduceMean", name="global-average", opset=13, exact=False,
      says="A mean over all positions of a picture became GlobalAveragePool")  # fmt: skip
def _global_average(forms: Forms, node: Node) -> list[Node] | None:
    """ReduceMean over all axes from the third on is a GlobalAveragePool, with a Squeeze where they go."""
    dims, axes = forms.dims(node.inputs[0]), forms.axes(node)
    if dims is None or not axes or len(dims) != 4 or forms.dtype(node.inputs[0]) not in NARROW_FLOATS:
        return None
    if sorted(axis % len(dims) for axis in axes) != [*range(2, len(dims))]:
        return None
    if node.attrs.get("keepdims", 1) == 1:
        return [replace(node, op="GlobalAveragePool", inputs=node.inputs[:1], attrs={})]
    pooled = forms.fresh(node.outputs[0])
    squeezed = forms.new_constant(np.arange(2, len(dims), dtype=np.int64))
    return [
        replace(node, op="GlobalAveragePool", inputs=node.inputs[:1], outputs=(pooled,), attrs={}),
        Node("Squeeze", "", node.name, (pooled, squeezed), node.outputs, {}),
    ]


@form(
    "AveragePool",
    name="whole-average",
    exact=False,
    says="An AveragePool of a whole picture became GlobalAveragePool",
)
def _whole_average(forms: Forms, node: Node) -> Node | None:
    """An AveragePool whose window is the picture is a GlobalAveragePool."""
    dims, attrs = forms.dims(node.inputs[0]), node.attrs
    if dims is None or list(dims[2:]) != list(attrs["kernel_shape"]) or any(attrs.get("pads") or ()):
        return None
    if attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or set(
        attrs.get("dilations") or [1]
    ) != {1}:
        return None
    return replace(node, op="GlobalAveragePool", attrs={})


@form(
    "Conv",
    name="padding",
    exact=False,
    needs=["Pad"],
    says="A Pad by zeros became the padding of the convolution after it",
)
def _padding(forms: Forms, node: Node) -> Node | None:
    """A convolution pads by zeros itself."""
    pads, x = _pads(forms, node)
    if pads is None:
        return None
    own = list(node.attrs.get("pads") or [0] * len(pads))
    total = [one + other for one, other in zip(own, pads, strict=True)]
    attrs = {name: value for name, value in node.attrs.items() if name != "auto_pad"}
    return replace(node, inputs=(x, *node.inputs[1:]), attrs={**attrs, "pads": total})


@form("AveragePool", name="padding-of-a-mean", exact=False, needs=["Pad"],
      says="A Pad by zeros became the padding of the AveragePool after it")  # fmt: skip
def _padding_of_mean(forms: Forms, node: Node) -> Node | None:
    """A mean counts zeros around the picture where it is told to."""
    pads, x = _pads(forms, node)
    attrs = node.attrs
    if pads is None or any(attrs.get("pads") or ()) or attrs.get("ceil_mode", 0):
        return None
    kernel = attrs["kernel_shape"]
    if any(pad >= size for pad, size in zip(pads, [*kernel, *kernel], strict=True)):
        return None
    kept = {name: value for name, value in attrs.items() if name != "auto_pad"}
    return replace(node, inputs=(x,), attrs={**kept, "pads": pads, "count_include_pad": 1})


def _pads(forms: Forms, node: Node) -> tuple[list[int] | None, str]:
    """Return the zeros around the spatial axes that a Pad before a node adds, and what it pads."""
    pad, dims = forms.producer(node.inputs[0], "Pad"), forms.dims(node.inputs[0])
    if pad is None or dims is None or node.attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None, ""
    value = forms.number(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] else 0.0
    amounts = forms.constant(pad.inputs[1])
    if pad.attrs.get("mode", b"constant") != b"constant" or value != 0.0 or amounts is None:
        return None, ""
    axes = list(range(len(dims)))
    if len(pad.inputs) > 3 and pad.inputs[3]:
        given = forms.constant(pad.inputs[3])
        if given is None:
            return None, ""
        axes = [int(axis) % len(dims) for axis in given.reshape(-1)]
    counts = amounts.reshape(2, -1).tolist()
    around = [dict(zip(axes, some, strict=True)) for some in counts]
    if any(some.get(axis, 0) for some in around for axis in (0, 1)) or min(map(min, counts)) < 0:
        return None, ""
    pads = [int(some.get(axis, 0)) for some in around for axis in range(2, len(dims))]
    return (pads, pad.inputs[0]) if len(set(axes)) == len(axes) else (None, "")
