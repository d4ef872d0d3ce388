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
from netfuse_onnx.match.bodies import plain, with_attributes
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import BEGIN, Flat, Step
from netfuse_onnx.match.operands import WITH_OPERANDS
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.sameness import essential, identical_attributes
from netfuse_onnx.ops import tables
from netfuse_onnx.types import Correspondence, Dim, Source, ValueType

Other = tuple[Source, Flat, Pairing]


def described(family: Correspondence, ours: Flat, fixed: Fixed, others: Sequence[Other]) -> Correspondence:
    """The family with its differing attributes and ragged values.

    A ragged value's type has only the dims that all models share. Raises NotEquivalent for what can't be
    done once per model: a weight of another type.
    """
    for _, flat, pairing in others:
        _same_types(ours, flat, pairing)
    attrs = attributes(ours, others)
    settled = [settle(source) for source, _, _ in others]
    types, declared = dict(family.graph.types), dict(family.declared)
    ragged = {name for name, found in family.weights.items() if len({w.shape for w in found}) > 1}
    for i, step in enumerate(ours.steps):
        if step.scope:
            continue
        node = family.graph.nodes[step.main]
        tainted = step.main in attrs or not ragged.isdisjoint(node.reads)
        tainted |= any(fixed.differs(i, flat, pairing) for _, flat, pairing in others)
        for k, name in enumerate(step.outs):
            kinds, said = [types.get(name, ValueType())], [declared.get(name, ValueType())]
            for (_, flat, pairing), (source, others_said) in zip(others, settled, strict=True):
                twins = flat.steps[pairing.steps[i]].outs
                twin = twins[k] if k < len(twins) else ""
                kinds.append(source.graph.types.get(twin, ValueType()))
                said.append(others_said.get(twin, ValueType()))
            if name and _unequal([kind.dims for kind in kinds], tainted):
                ragged.add(name)
                types[name] = _common(kinds)
                declared |= {name: _common(said)} if name in declared else {}
    graph = replace(family.graph, types=types)
    differences = tuple(_differences(ours, fixed, ((flat, pairing) for _, flat, pairing in others)))
    return replace(
        family, graph=graph, attrs=attrs, ragged=frozenset(ragged), differences=differences, declared=declared
    )


def mergeable(ours: Flat, fixed: Fixed, flat: Flat, pairing: Pairing) -> int:
    """In how many operators another source differs; 0 where --partial would refuse it."""
    try:
        _same_types(ours, flat, pairing)
    except NotEquivalent:
        return 0
    return sum(1 for _ in _differences(ours, fixed, [(flat, pairing)]))


def _differences(ours: Flat, fixed: Fixed, others: Iterable[tuple[Flat, Pairing]]) -> Iterator[str]:
    """A sentence for each operator that is not alike in all models, about the first that is unlike."""
    others = list(others)
    for i, step in enumerate(ours.steps):
        for flat, pairing in others:
            j = pairing.steps[i]
            what = differ.attribute_difference(ours, flat, step, flat.steps[j])
            what = what or fixed.difference(i, flat, pairing)
            if what:
                yield f"{differ.places(ours, i, flat, j)}: {what} ({ours.path} and {flat.path})."
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
        own = [plain(_respelled(ours, step, flat, twin)) for (_, flat, _), twin in rows]
        each: list[Mapping[str, Any]] = [plain(step.node.attrs), *own]
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


def _unequal(shapes: Sequence[tuple[Dim, ...] | None], tainted: bool) -> bool:
    """Whether the shapes may differ. `tainted`: something that the node depends on does, so what is not
    known to be equal counts as unequal."""
    first = shapes[0]
    for other in shapes[1:]:
        if first is None or other is None:
            if tainted:
                return True
        elif len(first) != len(other) or any(
            _apart(a, b, tainted) for a, b in zip(first, other, strict=True)
        ):
            return True
    return False


def _apart(a: Dim, b: Dim, tainted: bool) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a != b
    made_up = a is None or str(a).startswith("unk__")  # onnx's inference numbers what it doesn't know
    return tainted and (made_up or a != b)


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
