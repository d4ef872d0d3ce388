"""Adapters as models: each LoRA adapter with its base is one Source.

All of these have one graph, that of the base with a low-rank branch (branches.py) at each module that any of
the adapters changes, and share the base's weights. Where an adapter has a lower rank than another, its
matrices are padded with zeros; where it leaves a module alone, they are zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from netfuse_onnx.errors import AdapterMismatch
from netfuse_onnx.load import folded, lora, modules
from netfuse_onnx.load.branches import Branch, Side, with_branches
from netfuse_onnx.load.loader import load
from netfuse_onnx.load.lora import Adapter, Pair
from netfuse_onnx.load.matching import Names, Target
from netfuse_onnx.storage import spill, weights, wire
from netfuse_onnx.types import Adapted, Change, Extent, Graph, Node, Source, Weight

SMALL = 1024
"""Weights of at most so many bytes are held in memory."""
PRECISION: Mapping[int, int] = {
    TensorProto.DOUBLE: 53,
    TensorProto.FLOAT: 24,
    TensorProto.FLOAT16: 11,
    TensorProto.BFLOAT16: 8,
}
"""The bits of the significands of floats."""


class AdapterPath(str):
    """The path of an adapter's safetensors file, as one of the models of a family. `base` is that of its
    base."""

    base: str

    def __new__(cls, path: str, base: str) -> Self:
        self = super().__new__(cls, lora.weights_of(path))
        self.base = base
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Copies, such as those of errors that go into a report, keep the base."""
        return str(self), self.base


def paths(base: str, adapters: Iterable[str]) -> tuple[AdapterPath, ...]:
    """Return the adapters of a base as paths of models. Each is a safetensors file, or a folder with
    adapter_model.safetensors."""
    return tuple(AdapterPath(adapter, base) for adapter in adapters)


def adapted(base_path: str, adapters: Sequence[str]) -> list[Source]:
    """Return one source for each adapter. Raises FileFault for files that can't be read or that need more
    than LoRA, AdapterMismatch for an adapter that does not fit the base."""
    base = load(base_path)
    return _Family(base, [lora.read(path) for path in adapters]).sources()


Matched = tuple[dict[str, Target], dict[str, Target]]
"""The targets of the modules and of the tensors of an adapter, by the adapter's names."""


class _Family:
    """The adapters of one base."""

    def __init__(self, base: Source, adapters: Sequence[Adapter]) -> None:
        model = wire.scan(base.path).model
        self.base, self.adapters = base, adapters
        names = Names(base.path, base.graph, modules.places(base, model), folded.stored(model))
        known: dict[object, Matched] = {}
        self.matched: list[Matched] = []
        for adapter in adapters:  # a thousand adapters of one kind are matched once
            key = tuple(adapter.pairs), tuple(adapter.replaced)
            if key not in known:
                known[key] = names.match(adapter.path, *key)
            self.matched.append(known[key])
        self.ranks: dict[str, int] = {}
        self.targets: dict[str, Target] = {}
        for adapter, (of_modules, _) in zip(adapters, self.matched, strict=True):
            for module, target in of_modules.items():
                self._fit(adapter, module, target)
                rank = adapter.pairs[module].rank
                self.ranks[target.weight] = max(rank, self.ranks.get(target.weight, 0))
                self.targets[target.weight] = target
        self.branches = self._branches()
        self._zeros: dict[tuple[int, ...], Weight] = {}

    def sources(self) -> list[Source]:
        """Return the source of each adapter."""
        graph = with_branches(self.base.graph, [one for some in self.branches.values() for one in some])
        return [self._source(i, graph) for i in range(len(self.adapters))]

    # ------------------------------------------------------------------ one adapter

    def _source(self, number: int, graph: Graph) -> Source:
        adapter, (of_modules, of_tensors) = self.adapters[number], self.matched[number]
        own = {target.weight: adapter.pairs[module] for module, target in of_modules.items()}
        self._distinct(adapter, [target.weight for target in (*of_modules.values(), *of_tensors.values())])
        held = dict(self.base.graph.weights)
        for name, branches in self.branches.items():
            a, b = self._factors(name, own.get(name))
            held |= {branches[0].a: a, branches[0].b: b}
        changes = []
        for module, target in of_modules.items():
            pair = adapter.pairs[module]
            change = self._change(module, target)
            changes.append(replace(change, a=pair.a, b=pair.b, scale=pair.scale))
        for name, target in of_tensors.items():
            change = self._replacement(adapter, name, target)
            held[target.weight] = self._replaced(adapter.replaced[name], change)
            changes.append(change)
        about = Adapted(self.base.path, adapter.files, tuple(changes), tuple(self._notes(changes)))
        return replace(
            self.base,
            path=adapter.path,
            graph=replace(graph, weights=held),
            files=(*self.base.files, *adapter.files),
            adapted=about,
        )

    def _distinct(self, adapter: Adapter, names: Sequence[str]) -> None:
        """Refuse an adapter that changes one weight twice."""
        for name in names:
            if names.count(name) > 1:
                raise AdapterMismatch(
                    f"{adapter.path} changes the weight {name!r} of {self.base.path} twice.", lora.UNSUPPORTED
                )

    def _change(self, module: str, target: Target) -> Change:
        places = target.places
        node = self.base.graph.nodes[places[0].node] if places else None
        transposed = bool(places) and target.weight == places[0].weight and places[0].turned
        return Change(module, target.weight, transposed, _called(node), target.evidence)

    def _replacement(self, adapter: Adapter, name: str, target: Target) -> Change:
        """Return the change of a tensor that replaces one of the base, which may store the transpose of it:
        that is so where the exporter has renamed the weight of a Linear."""
        weight, tensor = self.base.graph.weights[target.weight], adapter.replaced[name]
        kept = modules.split(target.weight)[-1:] == modules.split(name)[-1:]
        change = replace(self._change(name, target), replaced=tensor)
        change = replace(change, transposed=change.transposed and not (kept and tensor.shape == weight.shape))
        shape = tensor.shape[::-1] if change.transposed else tensor.shape
        if shape != weight.shape or (tensor.dtype != weight.dtype and tensor.dtype not in PRECISION):
            raise AdapterMismatch(
                f"{adapter.path}: {name!r} has shape {list(tensor.shape)}, and {target.weight!r} of "
                f"{self.base.path} has {list(weight.shape)}.",
                "Export the base from the network that the adapter was trained on.",
            )
        return change

    def _notes(self, changes: Sequence[Change]) -> Iterable[str]:
        """Yield a sentence where the base's type of floats is narrower than the adapter's."""
        for change in changes:
            wanted = self.base.graph.weights[change.weight].dtype
            given = [one.dtype for one in (change.a, change.b, change.replaced) if one]
            if any(PRECISION.get(dtype, 0) > PRECISION.get(wanted, 99) for dtype in given):
                name = TensorProto.DataType.Name(wanted).lower()
                yield f"The adapter's tensors are rounded to the base's type, {name}."
                return

    # ------------------------------------------------------------------ weights

    def _fit(self, adapter: Adapter, module: str, target: Target) -> None:
        """Refuse a product whose shape is not that of the weight."""
        pair = adapter.pairs[module]
        shape = (pair.b.shape[0], *pair.a.shape[1:])
        for place in target.places:
            filters = place.form.side is Side.FILTERS
            wanted = place.form.shape if filters else place.sizes[::-1]
            if shape != wanted:
                raise AdapterMismatch(
                    f"{adapter.path}: the product for {module!r} has shape {list(shape)}, and the weight "
                    f"{target.weight!r} of {self.base.path} has {list(wanted)}.",
                    "Export the base from the network that the adapter was trained on.",
                )
        if len({_orientation(place.form.side) for place in target.places}) > 1:
            raise AdapterMismatch(
                f"{self.base.path} reads the weight of {module!r} on both sides of a product.",
                lora.UNSUPPORTED,
            )
        if self.base.graph.weights[target.weight].dtype not in PRECISION:
            raise AdapterMismatch(f"The weight {target.weight!r} is not of floats.", lora.UNSUPPORTED)

    def _branches(self) -> dict[str, list[Branch]]:
        """Return the branches by the weight of the base, one for each node that applies it."""
        graph = self.base.graph
        taken = {*graph.weights, *graph.inputs, *(name for node in graph.nodes for name in node.outputs)}
        branches = {}
        for name, target in sorted(self.targets.items()):
            a, b = (_unique(f"{name}/lora_{part}", taken) for part in "AB")
            branches[name] = [Branch(place.node, place.operand, a, b) for place in target.places]
        return branches

    def _factors(self, name: str, pair: Pair | None) -> tuple[Weight, Weight]:
        """Return A and B of a branch in the base's type, padded with zeros to the family's rank."""
        form, dtype = self.targets[name].places[0].form, self.base.graph.weights[name].dtype
        rank = self.ranks[name]
        shapes = form.shapes(rank)
        if pair is None:
            return self._zero(dtype, shapes[0]), self._zero(dtype, shapes[1])
        if form.side is Side.FILTERS and rank == pair.rank and pair.scale == 1.0 and pair.b.dtype == dtype:
            b = pair.b
        else:
            b = _stored_as(dtype, _padded(_scaled(pair.b, pair.scale, dtype), form.side, shapes[1]))
        lies_right = form.side in (Side.FILTERS, Side.LEFT) and rank == pair.rank and pair.a.dtype == dtype
        a = (
            pair.a
            if lies_right
            else _stored_as(dtype, _padded(_scaled(pair.a, 1.0, dtype), form.side, shapes[0]))
        )
        return a, b

    def _zero(self, dtype: int, shape: tuple[int, ...]) -> Weight:
        key = (dtype, *shape)
        if key not in self._zeros:
            self._zeros[key] = _stored_as(dtype, np.zeros(shape))
        return self._zeros[key]

    def _replaced(self, tensor: Weight, change: Change) -> Weight:
        """Return the tensor that replaces a weight of the base, in the base's type and order."""
        dtype = self.base.graph.weights[change.weight].dtype
        if tensor.dtype == dtype and not change.transposed:
            return tensor
        values = _values(tensor)
        return _stored_as(dtype, values.T if change.transposed else values)


# --------------------------------------------------------------------------- helpers


def _orientation(side: Side) -> Side:
    return Side.RIGHT if side is Side.RIGHT_TRANSPOSED else side


def _called(node: Node | None) -> str:
    return f"{node.key} {node.name or node.outputs[0]!r}" if node else ""


def _unique(name: str, taken: set[str]) -> str:
    count, unique = 2, name
    while unique in taken:
        unique, count = f"{name}-{count}", count + 1
    taken.add(unique)
    return unique


def _values(weight: Weight) -> NDArray[Any]:
    return np.asarray(weights.array(weight))


def _scaled(weight: Weight, scale: float, dtype: int) -> NDArray[Any]:
    """Return the product with a number, rounded once, to the type `dtype`."""
    return _cast(dtype, _values(weight).astype(np.float64) * scale)


def _padded(values: NDArray[Any], side: Side, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a matrix of the adapter, [r, in] or [out, r], as the branch has it: transposed where the weight
    is on the right, with zeros up to the shape."""
    turned = values.T if side in (Side.RIGHT, Side.RIGHT_TRANSPOSED) else values
    turned = turned.reshape(*turned.shape, *(1 for _ in range(len(shape) - turned.ndim)))
    return np.pad(turned, [(0, to - now) for to, now in zip(shape, turned.shape, strict=True)])


def _cast(dtype: int, values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):  # what is too large becomes infinite, as in the library
        return values.astype(onnx.helper.tensor_dtype_to_np_dtype(dtype))


def _stored_as(dtype: int, values: NDArray[Any]) -> Weight:
    """Return the values as a weight of a type, held in the temporary file where it is not small."""
    raw = np.ascontiguousarray(_cast(dtype, values)).tobytes()
    held: Extent | bytes = raw if len(raw) <= SMALL else spill.store(raw)
    return Weight(dtype, values.shape, held)
