"""The inputs and outputs of another source that stand for those of the first.

The proposal is by name, else by position: names that both sources have pair unless their types contradict;
the rest pairs in order, skipping types that can't be one. Where the graphs do not correspond by the proposal,
inputs and outputs without a common name pair as the graphs say. Names that both sources have stay pairs: two
files that give one name to two roles are no family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from netfuse_onnx.match.flat import Flat
from netfuse_onnx.match.isomorph import correspondence
from netfuse_onnx.match.refine import Level
from netfuse_onnx.match.signature import contradiction, type_text
from netfuse_onnx.types import Edge, Graph, Source, ValueType

SHOWN = 8
"""The largest number of pairs that one warning names."""

Fits = Callable[[str, str], bool]
Side = tuple[Source, Flat]


def propose(first: Graph, other: Graph) -> Edge:
    """Return the pairs by name, else by position. Where the numbers differ, the rest pairs with nothing."""

    def inputs_fit(name: str, twin: str) -> bool:
        return not contradiction(first.types.get(name, ValueType()), other.types.get(twin, ValueType()))

    def outputs_fit(name: str, twin: str) -> bool:  # files declare wrong sizes of outputs, but no wrong types
        mine, its = first.types.get(name, ValueType()), other.types.get(twin, ValueType())
        return not mine.dtype or not its.dtype or mine.dtype == its.dtype

    return Edge(
        _pairs(first.inputs, other.inputs, inputs_fit), _pairs(first.outputs, other.outputs, outputs_fit)
    )


def recorded(sources: Sequence[Source], names: Sequence[Edge] | None) -> tuple[Edge, ...] | None:
    """Return edges that a merged file recorded, if they are of these sources; else None."""
    if names is None or len(names) != len(sources):
        return None
    for source, edge in zip(sources, names, strict=True):
        for pairs, first, own in (
            (edge.inputs, sources[0].graph.inputs, source.graph.inputs),
            (edge.outputs, sources[0].graph.outputs, source.graph.outputs),
        ):
            if tuple(pairs) != first or sorted(pairs.values()) != sorted(own):
                return None
    return tuple(names)


def warnings(names: Sequence[str], edges: Sequence[Edge]) -> Iterator[str]:
    """Yield a sentence on the inputs, and one on the outputs, that have other names in some models."""
    for what, sides in (("Input", [e.inputs for e in edges]), ("Output", [e.outputs for e in edges])):
        pairs = [
            f"{name!r} of {names[0]} is {twin!r} of {model}"
            for model, side in zip(names, sides, strict=True)
            for name, twin in side.items()
            if name != twin
        ]
        if pairs:
            more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
            yield (
                f"{what}s without a name in common were paired by position, where the graphs allow it: "
                f"{', '.join(pairs[:SHOWN])}{more}."
            )


def _pairs(first: Sequence[str], other: Sequence[str], fits: Fits) -> dict[str, str]:
    """Return the names of the other source by those of the first, in the first one's order."""
    common = {name for name in set(first) & set(other) if fits(name, name)}
    rest = [name for name in first if name not in common]
    left = [name for name in other if name not in common]
    others = _in_order(rest, left, fits) or _regardless(rest, left)
    return {
        name: name if name in common else others[name] for name in first if name in common or name in others
    }


def _in_order(rest: Sequence[str], left: Sequence[str], fits: Fits) -> dict[str, str]:
    """Pair each name with the first one left that fits. A name that finds none takes that of another, which
    moves on to its next. Empty where some name finds none at all."""
    holder: dict[str, str] = {}

    def assign(name: str, seen: set[str]) -> bool:
        fitting = [twin for twin in left if fits(name, twin)]
        for twin in sorted(fitting, key=lambda twin: twin in holder):
            if twin not in seen:
                seen.add(twin)
                if twin not in holder or assign(holder[twin], seen):
                    holder[twin] = name
                    return True
        return False

    if len(rest) != len(left) or not all(assign(name, set()) for name in rest):
        return {}
    return {name: twin for twin, name in holder.items()}


def _regardless(rest: Sequence[str], left: Sequence[str]) -> dict[str, str]:
    """Pair names that can't correspond, for the message that says so: by name, then in order."""
    common = set(rest) & set(left)
    others = zip([n for n in rest if n not in common], [n for n in left if n not in common], strict=False)
    return {name: name for name in common} | dict(others)


# --------------------------------------------------------------------------- pairs by the graphs


def search(ours: Side, other: Side, proposed: Edge, levels: Sequence[Level]) -> Edge | None:
    """Return pairs by which the graphs correspond, or None; the proposed pairs where there is a choice."""
    sides = (proposed.inputs, proposed.outputs)
    common = Edge(*({name: twin for name, twin in side.items() if name == twin} for side in sides))
    return _by_graphs(ours, other, proposed, common, levels)


def crossed(ours: Side, other: Side, proposed: Edge, levels: Sequence[Level]) -> str:
    """Return the hint to rename, for sources that correspond only if one name stands for two things."""
    pairs = _by_graphs(ours, other, proposed, Edge({}, {}), levels)
    if pairs is None:
        return ""
    (_, a), (_, b) = ours, other
    for side, own in ((pairs.inputs, b.inputs), (pairs.outputs, b.outputs)):
        for name, twin in side.items():
            if name != twin and name in own:
                return (
                    f"'{name}' of {a.path} does what '{twin}' of {b.path} does, which has a '{name}' of its "
                    "own: rename the inputs and outputs of one file, so that a name means one thing in all."
                )
    return ""


def _by_graphs(ours: Side, other: Side, proposed: Edge, fixed: Edge, levels: Sequence[Level]) -> Edge | None:
    """Return the pairs by which the graphs correspond at one of the levels; those in `fixed` stay pairs."""
    if fixed == proposed:
        return None
    a = _opened(*ours, set(fixed.inputs), set(fixed.outputs))
    b = _opened(*other, set(fixed.inputs.values()), set(fixed.outputs.values()))
    for level in levels:
        pairing = correspondence(a, b, level)
        if pairing is not None:
            inputs = _completed({**fixed.inputs, **pairing.inputs}, proposed.inputs)
            outputs = {**fixed.outputs, **pairing.outputs}
            return Edge(inputs, {name: outputs[name] for name in proposed.outputs})
    return None


def _opened(source: Source, flat: Flat, inputs: set[str], outputs: set[str]) -> Flat:
    """Return the steps with all inputs and outputs open but those named."""
    types = source.graph.types
    open_inputs = {
        name: type_text(types.get(name, ValueType())) for name in flat.inputs if name not in inputs
    }
    return replace(flat, open_inputs=open_inputs, open_outputs=frozenset(flat.outputs) - outputs)


def _completed(pairs: dict[str, str], proposed: Mapping[str, str]) -> dict[str, str]:
    """Return all inputs in the first source's order: unread ones pair as proposed, else in order."""
    taken = set(pairs.values())
    for name, twin in proposed.items():
        if name not in pairs and twin not in taken:
            pairs[name] = twin
            taken.add(twin)
    rest = iter([twin for twin in proposed.values() if twin not in taken])
    return {name: pairs[name] if name in pairs else next(rest) for name in proposed}
