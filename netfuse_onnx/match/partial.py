"""--partial: what may differ between the models, and which values have another shape in each.

Attributes of main graph nodes, weight shapes and shape-deciding values may differ. Whatever's shape is not
known to be equal in all models is ragged: the later stages keep it once per model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load.infer import infer
from netfuse_onnx.match import differ
from netfuse_onnx.match.fixed import Fixed
from netfuse_onnx.match.flat import Flat
from netfuse_onnx.match.positional import Pairing
from netfuse_onnx.match.sameness import identical_attributes, same_attributes
from netfuse_onnx.types import Correspondence, Dim, Source, ValueType

Other = tuple[Source, Flat, Pairing]

FILES = 6
"""Most files that a hint names."""


def described(family: Correspondence, ours: Flat, fixed: Fixed, others: Sequence[Other]) -> Correspondence:
    """The family with its differing attributes and ragged values.

    A ragged value's type has only the dims that all models share. Raises NotEquivalent for what can't be
    done once per model: a weight of another type, an attribute inside of a body.
    """
    for _, flat, pairing in others:
        _same_types(ours, flat, pairing)
    attrs = attributes(ours, others)
    inferred = [infer(source) for source, _, _ in others]
    types = dict(family.graph.types)
    ragged = {name for name, found in family.weights.items() if len({w.shape for w in found}) > 1}
    for i, step in enumerate(ours.steps):
        if step.scope:
            continue
        node = family.graph.nodes[step.main]
        tainted = step.main in attrs or not ragged.isdisjoint(node.reads)
        tainted |= any(fixed.differs(i, flat, pairing) for _, flat, pairing in others)
        for k, name in enumerate(step.outs):
            kinds = [types.get(name, ValueType())]
            for (_, flat, pairing), source in zip(others, inferred, strict=True):
                twins = flat.steps[pairing.steps[i]].outs
                kinds.append(source.graph.types.get(twins[k] if k < len(twins) else "", ValueType()))
            if name and _unequal([kind.dims for kind in kinds], tainted):
                ragged.add(name)
                types[name] = _common(kinds)
    graph = replace(family.graph, types=types)
    said = tuple(_differences(ours, fixed, ((flat, pairing) for _, flat, pairing in others)))
    return replace(family, graph=graph, attrs=attrs, ragged=frozenset(ragged), differences=said)


def mergeable(ours: Flat, flat: Flat, pairing: Pairing) -> bool:
    """False where --partial would refuse another source."""
    try:
        _same_types(ours, flat, pairing)
    except NotEquivalent:
        return False
    steps = zip(ours.steps, pairing.steps, strict=True)
    return not any(step.scope and not same_attributes(step, flat.steps[j], ours, flat) for step, j in steps)


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
                yield f"{differ.places(ours, i, flat, j)}: {what} ({ours.path} and {flat.path})."
                break


def _same_types(ours: Flat, flat: Flat, pairing: Pairing) -> None:
    for (i, k), twin in zip(ours.uses, pairing.uses, strict=True):
        name = ours.steps[i].ins[k]
        mine, theirs = ours.weights[name], flat.weights[twin]
        if mine.dtype != theirs.dtype:
            what = differ.weight_difference(name, mine, twin, theirs)
            raise NotEquivalent(
                f"{ours.path} and {flat.path} differ at "
                f"{differ.places(ours, i, flat, pairing.steps[i])}: input {k}: {what}.",
                "Export all models with one precision.",
            )


def attributes(ours: Flat, others: Sequence[Other]) -> dict[int, tuple[Mapping[str, Any], ...]]:
    """For each node whose attributes differ: those of each model."""
    found: dict[int, tuple[Mapping[str, Any], ...]] = {}
    for i, step in enumerate(ours.steps):
        twins = [flat.steps[pairing.steps[i]] for _, flat, pairing in others]
        unlike = [
            flat
            for (_, flat, _), twin in zip(others, twins, strict=True)
            if not identical_attributes(step, twin, ours, flat)
        ]
        if unlike and step.scope:
            raise NotEquivalent(
                f"{ours.path} and {unlike[0].path} differ in an attribute of {differ.place(ours, i)}.",
                "--partial can't tell the models apart inside of a body.",
            )
        if unlike:
            found[step.main] = (step.node.attrs, *(twin.node.attrs for twin in twins))
    return found


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
