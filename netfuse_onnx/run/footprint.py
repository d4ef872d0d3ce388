"""Estimates the memory that a run of a source takes, from the shapes of its values for given inputs.

Nothing is run: shape inference on the source's graph gives the shapes. A value of unknown shape is taken to
be as large as the largest input of its node. Weights and the scratch memory of kernels are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import helper

from netfuse_onnx.load.infer import infer
from netfuse_onnx.plan.sized import sized
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Graph, Node, ValueType

Shapes = Mapping[str, tuple[int, ...]]
"""Input name -> its dims."""

PROCESS = 120_000_000
"""Bytes that Python, the packages and ONNX Runtime take before anything is run."""
REUSE = 2.0
"""ONNX Runtime takes so many times the bytes that are alive: its arena keeps pieces that are too small for
the next case, and kernels take scratch memory. Measured on 16 networks, see docs/verify.md."""
JUDGED = 72
"""Bytes per element of an output while it is compared: nine arrays of float64."""

VAGUE = 0.25
"""The part of the values that may have an unknown shape in an estimate."""
LARGE = 50_000_000
"""Shapes that stay unknown are computed at greater cost where all models together take more bytes."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes of one run of one source: inputs, outputs, all that is alive at the peak, the largest value.
    `widest` counts the elements of the largest output. `lost` has the axes that these sizes leave untested,
    see `_lost`; `unknown` has the values of unknown shape."""

    inputs: int
    outputs: int
    peak: int
    largest: int
    widest: int
    lost: frozenset[tuple[str, int]]
    unknown: frozenset[str]

    def hides(self, larger: Footprint) -> bool:
        """True where larger sizes test an axis that these leave untested, in values of known shapes."""
        return any(name not in larger.unknown for name, _ in self.lost - larger.lost)

    def needed(self, models: int, cases: int) -> int:
        """Return the bytes of a proof whose largest case is this one: the merged model's values, and the
        results of both sides in all cases, which are kept until they are compared."""
        running = models * (self.peak + self.largest + self.inputs)
        kept = models * (2 * self.inputs + (1 + cases) * self.outputs)
        return int(PROCESS + REUSE * running + kept + JUDGED * self.widest)


def amount(size: int) -> str:
    """Write bytes for people: 340 MB, 2 GB, 5.2 GB."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


class Footprints:
    """The footprints of a family's first source, each computed once."""

    def __init__(self, family: Correspondence) -> None:
        self.family = family
        self._measured: dict[tuple[tuple[str, tuple[int, ...]], ...], Footprint] = {}
        self._always = _lost(family.graph)

    def of(self, shapes: Shapes, sizes: Mapping[str, int]) -> Footprint:
        """Return the footprint for inputs of these shapes. `sizes` has the known sizes of symbols."""
        key = tuple(sorted(shapes.items()))
        if key not in self._measured:
            self._measured[key] = self._measure(shapes, sizes)
        return self._measured[key]

    def bounding(self, shapes: Shapes) -> Footprint | None:
        """Return a footprint that was computed for inputs which are at least as large along every axis."""
        for key, footprint in self._measured.items():
            larger = dict(key)
            if larger.keys() == shapes.keys() and all(
                len(larger[n]) == len(dims) and all(map(int.__le__, dims, larger[n]))
                for n, dims in shapes.items()
            ):
                return footprint
        return None

    def _measure(self, shapes: Shapes, sizes: Mapping[str, int]) -> Footprint:
        """Infer shapes. Constants are folded only where too many stay unknown: it takes ten times as long."""
        graph = self.family.graph
        types = {name: graph.types[name] for name in (*graph.inputs, *graph.outputs) if name in graph.types}
        types |= {n: replace(graph.types[n], dims=shapes[n]) for n in graph.inputs if n in shapes}
        bound = replace(graph, types=types)
        inferred = self._footprint(infer(replace(self.family.sources[0], graph=bound)).graph)
        many = len(inferred.unknown) > VAGUE * len(graph.nodes)
        if many or (inferred.unknown and self.family.models * inferred.peak > LARGE):
            return self._footprint(sized(replace(self.family, graph=bound), sizes).graph)
        return inferred

    def _footprint(self, graph: Graph) -> Footprint:
        size = _sizes(graph)
        outs = [graph.types[name] for name in graph.outputs]
        return Footprint(
            inputs=sum(size[name] for name in graph.inputs),
            outputs=sum(size[name] for name in graph.outputs),
            peak=_peak(graph, size),
            largest=max(size.values(), default=0),
            widest=max((math.prod(_static(value_type) or ()) for value_type in outs), default=0),
            lost=_lost(graph) - self._always,
            unknown=frozenset(n for n in size if _static(graph.types.get(n, ValueType())) is None),
        )


ITEM = 4
"""Bytes of a random number whose type is not known."""


def constant_bytes(graph: Graph) -> int:
    """Return the bytes of all values that depend on constants alone: ONNX Runtime computes them while it
    loads the graph. Where a shape is unknown, the largest operand counts, for a Concat all."""
    fed = set(graph.inputs)
    size = {name: weights.nbytes(weight) for name, weight in graph.weights.items()}
    total = 0
    for node in graph.nodes:
        if not fed.isdisjoint(node.reads):
            fed.update(node.outputs)
            continue
        read = [size.get(name, 0) for name in node.inputs]
        most = sum(read) if node.op == "Concat" else max(read, default=0)
        if node.op in ("RandomNormal", "RandomUniform"):
            most = ITEM * math.prod(node.attrs["shape"])
        given = _given(graph, node, most)
        size |= given
        total += sum(given.values())
    return total


def _given(graph: Graph, node: Node, unknown: int) -> dict[str, int]:
    """Return the bytes of a node's outputs; `unknown` for those of unknown shape."""
    exact = {name: _bytes(graph.types.get(name, ValueType())) for name in node.outputs if name}
    return {name: unknown if known is None else known for name, known in exact.items()}


def static_peak(graph: Graph) -> int:
    """Return the bytes alive at the peak, of values whose shape does not depend on the inputs."""
    names = (*graph.inputs, *(name for node in graph.nodes for name in node.outputs if name))
    return _peak(graph, {name: _bytes(graph.types.get(name, ValueType())) or 0 for name in names})


def _sizes(graph: Graph) -> dict[str, int]:
    """Return the bytes of every input and of every node's outputs."""
    size = {name: _bytes(graph.types.get(name, ValueType())) or 0 for name in graph.inputs}
    for node in graph.nodes:
        size |= _given(graph, node, max((size.get(name, 0) for name in node.reads), default=0))
    return size


def _peak(graph: Graph, size: Mapping[str, int]) -> int:
    """Return the bytes at the peak, if nodes run in order and values are freed after their last reader."""
    last = {name: i for i, node in enumerate(graph.nodes) for name in (*node.reads, *node.outputs)}
    last |= dict.fromkeys((*graph.inputs, *graph.outputs), len(graph.nodes))
    freed: dict[int, int] = {}
    for name, i in last.items():
        freed[i] = freed.get(i, 0) + size.get(name, 0)
    alive = peak = sum(size[name] for name in graph.inputs)
    for i, node in enumerate(graph.nodes):
        alive += sum(size[name] for name in node.outputs if name)
        peak = max(peak, alive)
        alive -= freed.get(i, 0)
    return peak


def _lost(graph: Graph) -> frozenset[tuple[str, int]]:
    """Return the axes, by value, that are too short to show an error: axes of size 1, and, as -2 - axis, axes
    that come from a window whose outer taps only see padding."""
    lost = set[tuple[str, int]]()
    for node in graph.nodes:
        for name in filter(None, node.outputs):
            dims = graph.types.get(name, ValueType()).dims or ()
            lost |= {(name, i) for i, dim in enumerate(dims) if isinstance(dim, int) and dim <= 1}
        lost |= {(node.outputs[0], -2 - axis) for axis in _padded(graph, node)}
    return frozenset(lost)


def _padded(graph: Graph, node: Node) -> Sequence[int]:
    """Return the spatial axes of a Conv or pooling that are no longer than the padding in its window."""
    dims = _static(graph.types.get(node.inputs[0], ValueType())) if node.inputs else None
    if dims is None or not node.op.endswith(("Conv", "Pool", "ConvInteger")) or len(dims) < 3:
        return ()
    spatial = dims[2:]
    weight = graph.weights.get(node.inputs[1]) if len(node.inputs) > 1 else None
    kernel = node.attrs.get("kernel_shape") or (weight.shape[2:] if weight else ())
    pads = node.attrs.get("pads") or [0] * (2 * len(spatial))
    steps = node.attrs.get("dilations") or [1] * len(spatial)
    if not len(kernel) == len(steps) == len(spatial) == len(pads) // 2:
        return ()
    same = node.attrs.get("auto_pad") in (b"SAME_UPPER", b"SAME_LOWER", "SAME_UPPER", "SAME_LOWER")
    padded = []
    for axis, (extent, taps, step) in enumerate(zip(spatial, kernel, steps, strict=True)):
        reach, before = (taps - 1) * step, pads[axis]
        ahead = (reach + 1) // 2 if same else max(before, reach - before)
        if (same or before or pads[axis + len(spatial)]) and ahead >= extent:
            padded.append(axis)
    return padded


def _static(value_type: ValueType) -> tuple[int, ...] | None:
    dims = value_type.dims
    if dims is None:
        return None
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    return sizes if len(sizes) == len(dims) else None


def _bytes(value_type: ValueType) -> int | None:
    """Return the bytes of a tensor; None where its shape is unknown."""
    dims = _static(value_type)
    if dims is None:
        return None
    try:
        width = int(helper.tensor_dtype_to_np_dtype(value_type.dtype).itemsize)
    except (KeyError, ValueError, TypeError):
        width = 8
    return math.prod(dims) * width
