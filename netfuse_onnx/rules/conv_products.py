"""Convolutions as products of matrices, for CUDA. A grouped convolution runs there at a fraction of the
rate of a product.

The windows are unfolded: each point that a filter meets becomes a row, [C, HW] -> [(C k), L], by one Gather
whose indices are constants. A 1x1 convolution of every point has nothing to unfold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.dims import static_size
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.conv import FUSED, finish
from netfuse_onnx.types import Dim


@dataclass(frozen=True)
class Window:
    """The geometry of a convolution of known sizes, one number per axis of the image. `pads` are those before
    every axis, then those after."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """True where a filter of one point meets every point once, in order."""
        return math.prod(self.kernel) == 1 and self.image == self.out and not any(self.pads)

    @property
    def padded(self) -> tuple[int, ...]:
        axes = len(self.image)
        return tuple(self.pads[a] + self.image[a] + self.pads[axes + a] for a in range(axes))

    def indices(self) -> NDArray[np.int64]:
        """The points of the padded image that each point of the kernel meets, as one vector: (k L)."""
        at = np.zeros((*self.kernel, *self.out), np.int64)
        axes = len(self.image)
        for axis, step in enumerate(itertools.accumulate((1, *self.padded[:0:-1]), int.__mul__)):
            a = axes - 1 - axis
            k = np.arange(self.kernel[a]).reshape([-1 if i == a else 1 for i in range(2 * axes)])
            o = np.arange(self.out[a]).reshape([-1 if i == axes + a else 1 for i in range(2 * axes)])
            at += step * (self.dilations[a] * k + self.strides[a] * o)
        return at.reshape(-1)


@family("Conv", FUSED)
def conv_as_product(site: Site) -> Iterator[Option]:
    """With --target cuda or --select, an image is unfolded and is a product: M1GO(Ck), MNG(Ck)L -> MNGOL."""
    dims, filters, out = site.dims(0), site.dims(1), site.out_dims()
    need(site.mapped[0] and site.mapped[1], "its input or its filters are shared")
    need(len(dims) == len(filters) == len(out) >= 3, "its operands are no images and filters")
    static = all(isinstance(dim, int) and dim for dim in (*dims[1:], *filters, *out[1:]))
    need(static, "a size of its images is unknown")
    # With more images than one, a filter meets each of them: a product of pointers (plan/launches.py), which
    # no CUDA graph takes. Where the batch is open, only a measurement at its sizes says that it is one image.
    several = not isinstance(dims[0], int)
    need(dims[0] == 1 or several, "its batch is not one image")
    need(site.opset >= 11, "Pad reads no widths below opset 11")
    window = _window(site)
    need(window is not None, "its sizes contradict each other")
    assert window is not None
    activation, groups = finish(site), int(site.attr("group"))
    channels, filtered = static_size(dims[1]) // groups, static_size(out[1]) // groups
    each, points = [] if groups == 1 else [groups], math.prod(window.out)
    rows = channels * math.prod(window.kernel)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        own: list[Dim] = [emit.count, 1, *each]
        images = [emit.kept, 0, *each]
        x = _unfolded(emit, ins[0], window, [*images, channels])
        y = emit(
            "MatMul", emit.reshape(ins[1], [*own, filtered, rows]), emit.reshape(x, [*images, rows, points])
        )
        if site.has(2):
            y = emit("Add", y, emit.reshape(ins[2], [*own, filtered, 1]))
        if site.has(3):
            y = emit("Add", y, emit.reshape(ins[3], [*images, filtered, points]))
        return emit.reshape(activation(emit, y), [emit.kept, 0, *map(static_size, out[1:])])

    takes = site.takes(dict.fromkeys(range(4), STACKED(0)))
    only = "" if site.chosen else "cuda"  # a grouped convolution has its number of groups in the file
    yield Option("conv_as_product", takes, (STACKED(0),), body, only=only, unmeasured=several)


def _unfolded(emit: Emitter, x: Tensor, window: Window, front: list[int]) -> Tensor:
    """MNCS -> MNGC(kL): the points that the filters meet; S as it is where they meet it so."""
    if window.whole:
        return x
    if any(window.pads):
        axes = len(window.image)
        x = emit("Pad", x, emit.const([0] * 3 + [*window.pads[:axes]] + [0] * 3 + [*window.pads[axes:]]))
    x = emit.reshape(x, [*front, math.prod(window.padded)])
    return emit("Gather", x, emit.const(window.indices()), axis=len(front))


def _window(site: Site) -> Window | None:
    """The geometry of a convolution of known sizes; None where its output has other sizes than follow."""
    image, kernel = (tuple(map(static_size, site.dims(i)[2:])) for i in (0, 1))
    out, axes = tuple(map(static_size, site.out_dims()[2:])), len(image)
    strides, dilations = (
        tuple(map(int, site.node.attrs.get(name) or [1] * axes)) for name in ("strides", "dilations")
    )
    pads = tuple(map(int, site.node.attrs.get("pads") or [0] * 2 * axes))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    how = (site.attr("auto_pad") or b"NOTSET").decode()
    if how == "VALID":
        pads = (0,) * (2 * axes)
    elif how.startswith("SAME"):
        totals = [
            max((o - 1) * s + span - i, 0) for o, s, span, i in zip(out, strides, spans, image, strict=True)
        ]
        less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = (*less, *more) if how == "SAME_UPPER" else (*more, *less)
    whole = [p + i + q for p, i, q in zip(pads[:axes], image, pads[axes:], strict=True)]
    follows = tuple((w - span) // s + 1 for w, span, s in zip(whole, spans, strides, strict=True))
    return Window(image, kernel, strides, dilations, pads, out) if follows == out and min(pads) >= 0 else None
