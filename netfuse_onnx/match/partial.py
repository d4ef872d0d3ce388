"""--partial: what may differ between the models, and which values have another shape in each.

Attributes, weight shapes and values that decide shapes may differ. A value whose shape is not known to be
equal in all models is ragged: the later stages keep it once per model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load.claims import resolve_claims
from netfuse_onnx.match import differ
from netfuse_onnx.match.attributes import Matched, differing
from netfuse_onnx.match.demands import Demands
from netfuse_onnx.match.flat import Flat, Step, places
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.signature import type_text
from netfuse_onnx.match.uniform import Dims, OutputShapes, Twins, shapes
from netfuse_onnx.ops.neutral import TYPING
from netfuse_onnx.types import Correspondence, Dim, Node, ValueType

FILES = 6
"""The largest number of files that a hint names."""


def described(
    family: Correspondence, ours: Flat, demands: Demands, others: Sequence[Matched]
) -> Correspondence:
    """Return the family with its differing attributes and its ragged values.

    The type of a ragged value has only the dims that all models share. Raises NotEquivalent for what can't be
    done once per model: a weight or a value of another element type.
    """
    for _, flat, pairing in others:
        _same_types(ours, flat, pairing)
    shapes = _Shapes(family, differing(ours, others), others)
    for i, step in enumerate(ours.steps):
        if not step.scope:
            differs = any(demands.difference(i, flat, pairing) for _, flat, pairing in others)
            shapes.add(step, [flat.steps[pairing.steps[i]] for _, flat, pairing in others], differs)
    sentences = tuple(_differences(ours, demands, ((flat, pairing) for _, flat, pairing in others)))
    return replace(
        family,
        graph=replace(family.graph, types=shapes.types),
        attrs=shapes.attrs,
        ragged=frozenset(shapes.ragged),
        least=shapes.least,
        differences=sentences,
        declared=shapes.declared,
    )


class _Shapes:
    """The shapes of values in all models, gathered step by step."""

    def __init__(
        self,
        family: Correspondence,
        attrs: Mapping[int, tuple[Mapping[str, Any], ...]],
        others: Sequence[Matched],
    ) -> None:
        self.family, self.attrs = family, attrs
        self.types = dict(family.graph.types)
        self.ragged = {name for name, w in family.weights.items() if len({part.shape for part in w}) > 1}
        self.least: dict[str, tuple[int | None, ...]] = {}
        resolved = [resolve_claims(source) for source, _, _ in others]
        self._others = [source.graph.types for source, _ in resolved]
        self.declared, self._said = dict(family.declared), [declared for _, declared in resolved]
        self._paths = [source.path for source in family.sources]
        self._own: dict[str, list[ValueType]] = {}
        self._groups: dict[str, Sequence[int]] = {}
        fed = [family.graph.types[name].dims or () for name in family.graph.inputs]
        self._symbols = {dim for dims in fed for dim in dims if isinstance(dim, str)}

    def add(self, step: Step, twins: Sequence[Step], differs: bool) -> None:
        """Add the outputs of a step. `differs`: a weight differs in shape, or in a value that decides one."""
        node = self.family.graph.nodes[step.main]
        tainted = differs or step.main in self.attrs or not self.ragged.isdisjoint(node.reads)
        outputs: tuple[OutputShapes, ...] = ()
        for k, name in enumerate(step.outs):
            own = [twin.outs[k] if k < len(twin.outs) else "" for twin in twins]
            rows = zip(self._others, own, strict=True)
            types = [
                self.types.get(name, ValueType()),
                *(types.get(twin, ValueType()) for types, twin in rows),
            ]
            self._refuse_types(name, types)
            dims = [value_type.dims for value_type in types]
            if name and self._shapes_differ(dims, tainted):
                outputs = outputs or shapes(self._twins(node, step.main), self.family.sources[0])
                if not outputs[k].uniform or self._shapes_differ(dims, tainted=False):
                    self._make_ragged(name, types, outputs[k])
                    self._declare(name, own)

    def _twins(self, node: Node, index: int) -> Twins:
        """Return the node as all models have it, with the types that it reads."""
        models = self.family.models
        attrs = self.attrs.get(index, (node.attrs,) * models)
        types = {
            name: self._own.get(name, [self.types.get(name, ValueType())] * models) for name in node.inputs
        }
        return Twins(node, attrs, types, self.family.weights, self._groups, self._symbols)

    def _make_ragged(self, name: str, types: list[ValueType], output: OutputShapes) -> None:
        """Record that the shape of a value may differ, with what is known of it in each model."""
        self.ragged.add(name)
        self.types[name] = common(types)
        self._groups[name] = output.group
        self._own[name] = [
            _better(value_type, dims) for value_type, dims in zip(types, output.dims, strict=True)
        ]
        sizes = [value_type.dims for value_type in types if value_type.dims is not None]
        if len(sizes) == len(types) and len({len(dims) for dims in sizes}) == 1:
            self.least[name] = tuple(map(_smallest, zip(*sizes, strict=True)))

    def _declare(self, name: str, own: Sequence[str]) -> None:
        """Declare of an output only what all models may. `own` are its names in the other sources."""
        if name in self.declared:
            rows = zip(self._said, own, strict=True)
            types = [self.declared[name], *(declared.get(twin, ValueType()) for declared, twin in rows)]
            self.declared[name] = common(types)

    def _shapes_differ(self, shapes: Sequence[Dims], tainted: bool) -> bool:
        """Return True where the shapes may differ. `tainted`: something that the node depends on differs, so
        shapes that are not known to be equal count as unequal."""
        first = shapes[0]
        for other in shapes[1:]:
            if first is None or other is None:
                if tainted:
                    return True
            elif len(first) != len(other) or any(
                self._sizes_differ(a, b, tainted) for a, b in zip(first, other, strict=True)
            ):
                return True
        return False

    def _sizes_differ(self, a: Dim, b: Dim, tainted: bool) -> bool:
        """Return True where two sizes may differ. Only symbols of inputs mean one size in all models."""
        if isinstance(a, int) and isinstance(b, int):
            return a != b
        return tainted and (a not in self._symbols or a != b)

    def _refuse_types(self, name: str, types: Sequence[ValueType]) -> None:
        """Raise NotEquivalent where the models give a value another element type."""
        for path, value_type in zip(self._paths, types, strict=True):
            if value_type.dtype and types[0].dtype and value_type.dtype != types[0].dtype:
                one, two = type_text(types[0]), type_text(value_type)
                raise NotEquivalent(
                    f"{self._paths[0]} and {path} differ at '{name}': it is {one} and {two}.",
                    "Export all models with one precision.",
                )


def _better(value_type: ValueType, sizes: Dims) -> ValueType:
    """A type with the sizes that were told of it, and the numbers that it has besides."""
    if sizes is None or value_type.dims is None or len(sizes) != len(value_type.dims):
        return value_type if sizes is None else replace(value_type, dims=sizes)
    return replace(
        value_type, dims=tuple(b if b is not None else a for a, b in zip(value_type.dims, sizes, strict=True))
    )


def _smallest(sizes: Sequence[Dim]) -> int | None:
    """Return the smallest of the sizes, None where one of them is unknown."""
    static = [size for size in sizes if isinstance(size, int)]
    return min(static) if len(static) == len(sizes) else None


def mergeable(ours: Flat, flat: Flat, pairing: Pairing) -> bool:
    """Return False where --partial would refuse another source."""
    try:
        _same_types(ours, flat, pairing)
    except NotEquivalent:
        return False
    for step, j in zip(ours.steps, pairing.steps, strict=True):
        twin = flat.steps[j]
        if any(step.attrs.get(name) != twin.attrs.get(name) for name in TYPING):
            return False
    return True


def counted(ours: Flat, demands: Demands, others: Sequence[tuple[Flat, Pairing]]) -> str:
    """Return the hint for sources that --partial merges: how many operators differ in all, and what in which
    file; empty where nothing does."""
    operators: set[int] = set()
    files = []
    for flat, pairing in others:
        attributes_of = [
            i
            for i, step in enumerate(ours.steps)
            if differ.attribute_text(ours, flat, step, flat.steps[pairing.steps[i]])
        ]
        weights_of = demands.unlike(flat, pairing)
        operators.update(attributes_of, (i for i, _ in weights_of))
        parts = [(len(attributes_of), "attribute"), (len(weights_of), "weight")]
        parts_text = " and ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in parts if n)
        files += [f"{flat.path} in {parts_text}"] if parts_text else []
    if not files:
        return ""
    more = f" and {len(files) - FILES} more" if len(files) > FILES else ""
    count = "one operator differs" if len(operators) == 1 else f"{len(operators)} operators differ"
    return f"--partial merges them all the same: {count}. From {ours.path}: {', '.join(files[:FILES])}{more}."


def _differences(ours: Flat, demands: Demands, others: Iterable[tuple[Flat, Pairing]]) -> Iterator[str]:
    """Yield a sentence for each operator that is not the same in all models, about its first difference."""
    others = list(others)
    for i, step in enumerate(ours.steps):
        said, also = "", []
        for flat, pairing in others:
            j = pairing.steps[i]
            what = differ.attribute_text(ours, flat, step, flat.steps[j])
            what = what or demands.difference(i, flat, pairing)
            if what and not said:
                said = f"{places(ours, i, flat, j)}: {what} ({ours.path} and {flat.path}"
            elif what:
                also.append(flat.path)
        if said:
            more = f" and {len(also) - FILES} more" if len(also) > FILES else ""
            yield f"{said}; {', '.join(also[:FILES])}{more}, too)." if also else f"{said})."


def _same_types(ours: Flat, flat: Flat, pairing: Pairing) -> None:
    """Raise NotEquivalent where a weight has another element type."""
    for (i, k), twin in zip(ours.uses, pairing.uses, strict=True):
        name = ours.steps[i].ins[k]
        mine, theirs = ours.weights[name], flat.weights[twin]
        if mine.dtype != theirs.dtype:
            unlike = differ.weights_differ(f"input {k}: ", name, mine, twin, theirs)
            unlike = replace(unlike, hint="Export all models with one precision.")
            raise differ.error(ours, i, flat, pairing.steps[i], unlike)


def common(types: Iterable[ValueType]) -> ValueType:
    """Return what all models have in common of a type."""
    first, *others = types
    dims = first.dims
    for other in others:
        if dims is None or other.dims is None or len(dims) != len(other.dims):
            dims = None
        else:
            dims = tuple(a if a == b else None for a, b in zip(dims, other.dims, strict=True))
    return replace(first, dims=dims)
