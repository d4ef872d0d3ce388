"""--partial: what may differ between the models, and which values have another shape in each.

Attributes of main graph nodes, weight shapes and shape-deciding values may differ. Whatever's shape is not
known to be equal in all models is ragged: the later stages keep it once per model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load.claims import settle
from netfuse_onnx.match import differ
from netfuse_onnx.match.bodies import with_attributes
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import BEGIN, Flat, Step
from netfuse_onnx.match.operands import WITH_OPERANDS
from netfuse_onnx.match.places import places
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.sameness import essential, identical_attributes
from netfuse_onnx.match.signature import kind_text
from netfuse_onnx.match.uniform import Dims, Told, Twins, shapes
from netfuse_onnx.ops import tables, walk
from netfuse_onnx.ops.neutral import TYPING
from netfuse_onnx.types import Correspondence, Dim, Node, Source, ValueType

Other = tuple[Source, Flat, Pairing]

FILES = 6
"""Most files that a hint names."""


def described(family: Correspondence, ours: Flat, fixed: Fixed, others: Sequence[Other]) -> Correspondence:
    """The family with its differing attributes and ragged values.

    A ragged value's type has only the dims that all models share. Raises NotEquivalent for what can't be
    done once per model: a weight or a value of another type.
    """
    for _, flat, pairing in others:
        _same_types(ours, flat, pairing)
    found = _Shapes(family, attributes(ours, others), others)
    for i, step in enumerate(ours.steps):
        if not step.scope:
            differs = any(fixed.differs(i, flat, pairing) for _, flat, pairing in others)
            found.add(step, [flat.steps[pairing.steps[i]] for _, flat, pairing in others], differs)
    said = tuple(_differences(ours, fixed, ((flat, pairing) for _, flat, pairing in others)))
    return replace(
        family,
        graph=replace(family.graph, types=found.types),
        attrs=found.attrs,
        ragged=frozenset(found.ragged),
        least=found.least,
        differences=said,
        declared=found.declared,
    )


class _Shapes:
    """The shapes of values in all models, gathered step by step."""

    def __init__(
        self,
        family: Correspondence,
        attrs: Mapping[int, tuple[Mapping[str, Any], ...]],
        others: Sequence[Other],
    ) -> None:
        self.family, self.attrs = family, attrs
        self.types = dict(family.graph.types)
        self.ragged = {name for name, w in family.weights.items() if len({part.shape for part in w}) > 1}
        self.least: dict[str, tuple[int | None, ...]] = {}
        settled = [settle(source) for source, _, _ in others]
        self._others = [source.graph.types for source, _ in settled]
        self.declared, self._said = dict(family.declared), [declared for _, declared in settled]
        self._paths = [source.path for source in family.sources]
        self._own: dict[str, list[ValueType]] = {}
        self._groups: dict[str, Sequence[int]] = {}
        fed = [family.graph.types[name].dims or () for name in family.graph.inputs]
        self._symbols = {dim for dims in fed for dim in dims if isinstance(dim, str)}

    def add(self, step: Step, twins: Sequence[Step], differs: bool) -> None:
        """The outputs of a step. `differs`: it reads a weight that is unlike in shape, or decides one."""
        node = self.family.graph.nodes[step.main]
        tainted = differs or step.main in self.attrs or not self.ragged.isdisjoint(node.reads)
        told: tuple[Told, ...] = ()
        for k, name in enumerate(step.outs):
            own = [twin.outs[k] if k < len(twin.outs) else "" for twin in twins]
            rows = zip(self._others, own, strict=True)
            kinds = [
                self.types.get(name, ValueType()),
                *(types.get(twin, ValueType()) for types, twin in rows),
            ]
            self._refuse_types(name, kinds)
            dims = [kind.dims for kind in kinds]
            if name and self._unequal(dims, tainted):
                told = told or shapes(self._twins(node, step.main), self.family.sources[0])
                if not told[k].uniform or self._unequal(dims, tainted=False):
                    self._keep_apart(name, kinds, told[k])
                    self._declare(name, own)

    def _twins(self, node: Node, index: int) -> Twins:
        models = self.family.models
        attrs = self.attrs.get(index, (node.attrs,) * models)
        kinds = {
            name: self._own.get(name, [self.types.get(name, ValueType())] * models) for name in node.inputs
        }
        return Twins(node, attrs, kinds, self.family.weights, self._groups, self._symbols)

    def _keep_apart(self, name: str, kinds: list[ValueType], told: Told) -> None:
        self.ragged.add(name)
        self.types[name] = _common(kinds)
        self._groups[name] = told.group
        self._own[name] = [_better(kind, dims) for kind, dims in zip(kinds, told.dims, strict=True)]
        sizes = [kind.dims for kind in kinds if kind.dims is not None]
        if len(sizes) == len(kinds) and len({len(dims) for dims in sizes}) == 1:
            self.least[name] = tuple(map(_smallest, zip(*sizes, strict=True)))

    def _declare(self, name: str, own: Sequence[str]) -> None:
        """An output declares what all models may. `own`: its names in the other sources."""
        if name in self.declared:
            rows = zip(self._said, own, strict=True)
            said = [self.declared[name], *(declared.get(twin, ValueType()) for declared, twin in rows)]
            self.declared[name] = _common(said)

    def _unequal(self, shapes: Sequence[Dims], tainted: bool) -> bool:
        """Whether the shapes may differ. `tainted`: something that the node depends on does, so what is not
        known to be equal counts as unequal."""
        first = shapes[0]
        for other in shapes[1:]:
            if first is None or other is None:
                if tainted:
                    return True
            elif len(first) != len(other) or any(
                self._apart(a, b, tainted) for a, b in zip(first, other, strict=True)
            ):
                return True
        return False

    def _apart(self, a: Dim, b: Dim, tainted: bool) -> bool:
        """A name means the same size in all models only where it is one of the inputs'."""
        if isinstance(a, int) and isinstance(b, int):
            return a != b
        return tainted and (a not in self._symbols or a != b)

    def _refuse_types(self, name: str, kinds: Sequence[ValueType]) -> None:
        for path, kind in zip(self._paths, kinds, strict=True):
            if kind.dtype and kinds[0].dtype and kind.dtype != kinds[0].dtype:
                one, two = kind_text(kinds[0]), kind_text(kind)
                raise NotEquivalent(
                    f"{self._paths[0]} and {path} differ at '{name}': it is {one} and {two}.",
                    "Export all models with one precision.",
                )


def _better(kind: ValueType, told: Dims) -> ValueType:
    """A type with the sizes that were told of it, and the numbers that it has besides."""
    if told is None or kind.dims is None or len(told) != len(kind.dims):
        return kind if told is None else replace(kind, dims=told)
    return replace(kind, dims=tuple(b if b is not None else a for a, b in zip(kind.dims, told, strict=True)))


def _smallest(sizes: Sequence[Dim]) -> int | None:
    """The smallest of the sizes, None where one of them is not known."""
    known = [size for size in sizes if isinstance(size, int)]
    return min(known) if len(known) == len(sizes) else None


def mergeable(ours: Flat, flat: Flat, pairing: Pairing) -> bool:
    """False where --partial would refuse another source."""
    try:
        _same_types(ours, flat, pairing)
    except NotEquivalent:
        return False
    for step, j in zip(ours.steps, pairing.steps, strict=True):
        twin = flat.steps[j]
        if any(step.attrs.get(name) != twin.attrs.get(name) for name in TYPING):
            return False
    return True


def counted(ours: Flat, fixed: Fixed, others: Sequence[tuple[Flat, Pairing]]) -> str:
    """The hint for sources that differ in no more than this: how many operators in all, and what in which
    file; empty where nothing does."""
    operators: set[int] = set()
    told = []
    for flat, pairing in others:
        attributes_of = [
            i
            for i, step in enumerate(ours.steps)
            if differ.attribute_difference(ours, flat, step, flat.steps[pairing.steps[i]])
        ]
        weights_of = fixed.unlike(flat, pairing)
        operators.update(attributes_of, (i for i, _ in weights_of))
        parts = [(len(attributes_of), "attribute"), (len(weights_of), "weight")]
        said = " and ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in parts if n)
        told += [f"{flat.path} in {said}"] if said else []
    if not told:
        return ""
    more = f" and {len(told) - FILES} more" if len(told) > FILES else ""
    count = "one operator differs" if len(operators) == 1 else f"{len(operators)} operators differ"
    return f"--partial merges them all the same: {count}. From {ours.path}: {', '.join(told[:FILES])}{more}."


def _differences(ours: Flat, fixed: Fixed, others: Iterable[tuple[Flat, Pairing]]) -> Iterator[str]:
    """A sentence for each operator that is not alike in all models, about the first that is unlike."""
    others = list(others)
    for i, step in enumerate(ours.steps):
        for flat, pairing in others:
            j = pairing.steps[i]
            what = differ.attribute_difference(ours, flat, step, flat.steps[j])
            what = what or fixed.difference(i, flat, pairing)
            if what:
                yield f"{places(ours, i, flat, j)}: {what} ({ours.path} and {flat.path})."
                break


def _same_types(ours: Flat, flat: Flat, pairing: Pairing) -> None:
    for (i, k), twin in zip(ours.uses, pairing.uses, strict=True):
        name = ours.steps[i].ins[k]
        mine, theirs = ours.weights[name], flat.weights[twin]
        if mine.dtype != theirs.dtype:
            unlike = differ.of_weights(f"input {k}: ", name, mine, twin, theirs)
            unlike = replace(unlike, hint="Export all models with one precision.")
            raise differ.error(ours, i, flat, pairing.steps[i], unlike)


def attributes(ours: Flat, others: Sequence[Other]) -> dict[int, tuple[Mapping[str, Any], ...]]:
    """For each node of the main graph whose attributes, or those of nodes in its bodies, differ: those of
    each model. Bodies are those of the first source, which read values by its names."""
    found: dict[int, tuple[Mapping[str, Any], ...]] = {}
    inside: dict[int, dict[int, list[Mapping[str, Any]]]] = {}
    nth: Counter[int] = Counter()
    for i, step in enumerate(ours.steps):
        twins = [flat.steps[pairing.steps[i]] for _, flat, pairing in others]
        unlike = any(
            not identical_attributes(step, twin, ours, flat)
            for (_, flat, _), twin in zip(others, twins, strict=True)
        )
        rows = zip(others, twins, strict=True)
        own = [walk.without_bodies(_respelled(ours, step, flat, twin)) for (_, flat, _), twin in rows]
        each: list[Mapping[str, Any]] = [walk.without_bodies(step.node.attrs), *own]
        if step.scope and step.op != BEGIN:
            if unlike:
                inside.setdefault(step.main, {})[nth[step.main]] = each
            nth[step.main] += 1
        elif not step.scope and (unlike or step.main in inside):
            bodies = (with_attributes(step.node, inside.get(step.main, {}), m) for m in range(len(each)))
            found[step.main] = tuple({**its, **held} for its, held in zip(each, bodies, strict=True))
    return found


def _respelled(ours: Flat, step: Step, flat: Flat, twin: Step) -> Mapping[str, Any]:
    """The attributes of another source's step. Those that go with an operand, and say what the first's say,
    are the first's: the operand is too."""
    mine, its = essential(step, ours), essential(twin, flat)
    first, own = step.node.attrs, dict(twin.node.attrs)
    for name in () if tables.learned(step.op, step.domain) else WITH_OPERANDS:
        if mine.get(name) == its.get(name):
            own.pop(name, None)
            own |= {name: first[name]} if name in first else {}
    return own


def _common(kinds: Iterable[ValueType]) -> ValueType:
    """What is known of the type in all models."""
    first, *others = kinds
    dims = first.dims
    for other in others:
        if dims is None or other.dims is None or len(dims) != len(other.dims):
            dims = None
        else:
            dims = tuple(a if a == b else None for a, b in zip(dims, other.dims, strict=True))
    return replace(first, dims=dims)
