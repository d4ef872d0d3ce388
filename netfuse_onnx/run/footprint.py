"""Estimates of what a run of a source takes, from the shapes that its values have for given inputs.

Nothing is run: inference on the source's graph gives the shapes. A value whose shape stays unknown counts as
much as the largest input of its node. Weights and the scratch memory of kernels are not counted.
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
"""The dims of the inputs by name."""

PROCESS = 120_000_000
"""Bytes that Python, the packages and ONNX Runtime take before anything is run."""
REUSE = 2.0
"""ONNX Runtime takes so many times what is alive: its arena keeps pieces that are too small for the next
case, and kernels take scratch memory. Measured on 16 networks, see docs/verify.md."""
JUDGED = 72
"""Bytes per element of an output while it is compared: nine arrays of float64."""

VAGUE = 0.25
"""The part of the values that may stay of unknown shape in an estimate."""
LARGE = 50_000_000
"""Bytes of all models from which no value may, where it can be helped."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one run of one source: its inputs, its outputs, what is alive at the worst moment, the largest
    value. `widest`: elements of its largest output. `lost`: what these sizes leave unseen and others may not,
    see `_lost`; `unknown`: values of unknown shape."""

    inputs: int
    outputs: int
    peak: int
    largest: int
    widest: int
    lost: frozenset[tuple[str, int]]
    unknown: frozenset[str]

    def hides(self, larger: Footprint) -> bool:
        """True where larger sizes show something that these leave unseen, in values of known shapes."""
        return any(name not in larger.unknown for name, _ in self.lost - larger.lost)

    def needed(self, models: int, cases: int) -> int:
        """Bytes that a proof with this as its largest case takes: the merged model's values, and what both
        sides gave in all cases, which is kept until it is compared."""
        running = models * (self.peak + self.largest + self.inputs)
        kept = models * (2 * self.inputs + (1 + cases) * self.outputs)
        return int(PROCESS + REUSE * running + kept + JUDGED * self.widest)


def amount(size: int) -> str:
    """Bytes as a person says them: 340 MB, 2 GB, 5.2 GB."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


class Footprints:
    """The footprints of a family's first source, each computed once."""

    def __init__(self, family: Correspondence) -> None:
        self.family = family
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], Footprint] = {}
        self._always = _lost(family.graph)

    def of(self, shapes: Shapes, sizes: Mapping[str, int]) -> Footprint:
        """For inputs of these shapes; `sizes` are those of the symbols, as far as they are known."""
        key = tuple(sorted(shapes.items()))
        if key not in self._known:
            self._known[key] = self._measure(shapes, sizes)
        return self._known[key]

    def bounding(self, shapes: Shapes) -> Footprint | None:
        """One that is known, of inputs that are at least as large along every axis."""
        for key, found in self._known.items():
            known = dict(key)
            if known.keys() == shapes.keys() and all(
                len(known[n]) == len(dims) and all(map(int.__le__, dims, known[n]))
                for n, dims in shapes.items()
            ):
                return found
        return None

    def _measure(self, shapes: Shapes, sizes: Mapping[str, int]) -> Footprint:
        """Inference alone where it suffices; else with constants folded, which takes ten times as long."""
        graph = self.family.graph
        types = {name: graph.types[name] for name in (*graph.inputs, *graph.outputs) if name in graph.types}
        types |= {n: replace(graph.types[n], dims=shapes[n]) for n in graph.inputs if n in shapes}
        bound = replace(graph, types=types)
        found = self._footprint(infer(replace(self.family.sources[0], graph=bound)).graph)
        many = len(found.unknown) > VAGUE * len(graph.nodes)
        if many or (found.unknown and self.family.models * found.peak > LARGE):
            found = self._footprint(sized(replace(self.family, graph=bound), sizes).graph)
        return found

    def _footprint(self, graph: Graph) -> Footprint:
        size = _sizes(graph)
        outs = [graph.types[name] for name in graph.outputs]
        return Footprint(
            inputs=sum(size[name] for name in graph.inputs),
            outputs=sum(size[name] for name in graph.outputs),
            peak=_peak(graph, size),
            largest=max(size.values(), default=0),
            widest=max((math.prod(_static(kind) or ()) for kind in outs), default=0),
            lost=_lost(graph) - self._always,
            unknown=frozenset(n for n in size if _static(graph.types.get(n, ValueType())) is None),
        )


ITEM = 4
"""Bytes of a random number whose type is not known."""


def constant_bytes(graph: Graph) -> int:
    """Bytes of all that is computed from constants alone. ONNX Runtime computes it while it loads the graph.
    Where no shape is known, a Concat holds what it joins, anything else as much as its largest operand."""
    fed = set(graph.inputs)
    size = {name: weights.nbytes(held) for name, held in graph.weights.items()}
    total = 0
    for node in graph.nodes:
        if not fed.isdisjoint(node.reads):
            fed.update(node.outputs)
            continue
        read = [size.get(name, 0) for name in node.inputs]
        most = sum(read) if node.op == "Concat" else max(read, default=0)
        if node.op in ("RandomNormal", "RandomUniform"):
            most = ITEM * math.prod(node.attrs["shape"])
        for name in filter(None, node.outputs):
            found = _bytes(graph.types.get(name, ValueType()))
            size[name] = most if found is None else found
            total += size[name]
    return total


def static_peak(graph: Graph) -> int:
    """Bytes alive at the worst moment, of values whose shape is known whatever the inputs are."""
    names = (*graph.inputs, *(name for node in graph.nodes for name in node.outputs if name))
    return _peak(graph, {name: _bytes(graph.types.get(name, ValueType())) or 0 for name in names})


def _sizes(graph: Graph) -> dict[str, int]:
    """Bytes of every input and every node's output."""
    size = {name: _bytes(graph.types.get(name, ValueType())) or 0 for name in graph.inputs}
    for node in graph.nodes:
        most = max((size.get(name, 0) for name in node.reads), default=0)
        for name in filter(None, node.outputs):
            found = _bytes(graph.types.get(name, ValueType()))
            size[name] = most if found is None else found
    return size


def _peak(graph: Graph, size: Mapping[str, int]) -> int:
    """Bytes alive at the worst moment when nodes run in order and a value is freed after its last reader."""
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
    """Axes (by value) along which nothing can be told: of size 1, or (as -2 - axis) so short that the outer
    taps of the window that made them only ever see padding."""
    found = set[tuple[str, int]]()
    for node in graph.nodes:
        for name in filter(None, node.outputs):
            dims = graph.types.get(name, ValueType()).dims or ()
            found |= {(name, i) for i, dim in enumerate(dims) if isinstance(dim, int) and dim <= 1}
        found |= {(node.outputs[0], -2 - axis) for axis in _padded(graph, node)}
    return frozenset(found)


def _padded(graph: Graph, node: Node) -> Sequence[int]:
    """Spatial axes of a convolution or pooling that are no longer than its window reaches into padding."""
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
    found = []
    for axis, (extent, taps, step) in enumerate(zip(spatial, kernel, steps, strict=True)):
        reach, before = (taps - 1) * step, pads[axis]
        ahead = (reach + 1) // 2 if same else max(before, reach - before)
        if (same or before or pads[axis + len(spatial)]) and ahead >= extent:
            found.append(axis)
    return found


def _static(kind: ValueType) -> tuple[int, ...] | None:
    dims = kind.dims
    if dims is None:
        return None
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    return sizes if len(sizes) == len(dims) else None


def _bytes(kind: ValueType) -> int | None:
    """Bytes of a tensor; None where its shape is unknown."""
    dims = _static(kind)
    if dims is None:
        return None
    try:
        width = int(helper.tensor_dtype_to_np_dtype(kind.dtype).itemsize)
    except (KeyError, ValueError, TypeError):
        width = 8
    return math.prod(dims) * width
