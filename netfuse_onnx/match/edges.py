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
from netfuse_onnx.match.isomorph import isomorphism
from netfuse_onnx.match.refine import Colours, Level, refine
from netfuse_onnx.match.signature import kind_text, unlike
from netfuse_onnx.types import Edge, Graph, Source, ValueType

SHOWN = 8
"""Most pairs that one warning names."""

Fits = Callable[[str, str], bool]
Side = tuple[Source, Flat]


def propose(first: Graph, other: Graph) -> Edge:
    """The pairs by name, else by position. Where the numbers differ, what is left over pairs with nothing."""

    def inputs_fit(name: str, twin: str) -> bool:
        return not unlike(first.types.get(name, ValueType()), other.types.get(twin, ValueType()))

    def outputs_fit(name: str, twin: str) -> bool:  # files declare wrong sizes of outputs, but no wrong types
        mine, its = first.types.get(name, ValueType()), other.types.get(twin, ValueType())
        return not mine.dtype or not its.dtype or mine.dtype == its.dtype

    return Edge(
        _pairs(first.inputs, other.inputs, inputs_fit),
        _pairs(first.outputs, other.outputs, outputs_fit),
    )


def common(edge: Edge) -> Edge:
    """The pairs of an edge that have one name: these the graphs do not change."""
    return Edge(
        {name: twin for name, twin in edge.inputs.items() if name == twin},
        {name: twin for name, twin in edge.outputs.items() if name == twin},
    )


def recorded(sources: Sequence[Source], names: Sequence[Edge] | None) -> tuple[Edge, ...] | None:
    """Edges that were written down, where they are of these sources; else None."""
    if names is None or len(names) != len(sources):
        return None
    for source, edge in zip(sources, names, strict=True):
        for known, first, own in (
            (edge.inputs, sources[0].graph.inputs, source.graph.inputs),
            (edge.outputs, sources[0].graph.outputs, source.graph.outputs),
        ):
            if tuple(known) != first or sorted(known.values()) != sorted(own):
                return None
    return tuple(names)


def told(names: Sequence[str], edges: Sequence[Edge]) -> Iterator[str]:
    """A sentence on the inputs, and one on the outputs, that have other names in some models."""
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
    """Names of the first source -> names of the other, in the first one's order."""
    alike = {name for name in set(first) & set(other) if fits(name, name)}
    rest = [name for name in first if name not in alike]
    left = [name for name in other if name not in alike]
    found = _in_order(rest, left, fits) or _regardless(rest, left)
    return {name: name if name in alike else found[name] for name in first if name in alike or name in found}


def _in_order(rest: Sequence[str], left: Sequence[str], fits: Fits) -> dict[str, str]:
    """Each name with the first one left that fits; what would find none takes another's, which moves on.
    Empty where some find none at all."""
    holder: dict[str, str] = {}

    def settle(name: str, seen: set[str]) -> bool:
        fitting = [twin for twin in left if fits(name, twin)]
        for twin in sorted(fitting, key=lambda twin: twin in holder):
            if twin not in seen:
                seen.add(twin)
                if twin not in holder or settle(holder[twin], seen):
                    holder[twin] = name
                    return True
        return False

    if len(rest) != len(left) or not all(settle(name, set()) for name in rest):
        return {}
    return {name: twin for twin, name in holder.items()}


def _regardless(rest: Sequence[str], left: Sequence[str]) -> dict[str, str]:
    """Pairs that can't be, by name, then in order: for the sentence that says so."""
    alike = set(rest) & set(left)
    others = zip([n for n in rest if n not in alike], [n for n in left if n not in alike], strict=False)
    return {name: name for name in alike} | dict(others)


# --------------------------------------------------------------------------- pairs by the graphs


def search(ours: Side, other: Side, proposed: Edge, levels: Sequence[Level]) -> Edge | None:
    """Pairs by which the graphs correspond, or None. Of pairs that the graphs take for interchangeable, the
    proposed ones count."""
    return _found(ours, other, proposed, common(proposed), levels)


def crossed(ours: Side, other: Side, proposed: Edge, levels: Sequence[Level]) -> str:
    """The hint, where the graphs correspond only if one name stands for two things; for sources of which it
    is known that they do not correspond otherwise."""
    found = _found(ours, other, proposed, Edge({}, {}), levels)
    return "" if found is None else _crossed(ours[1], other[1], found)


def _found(ours: Side, other: Side, proposed: Edge, kept: Edge, levels: Sequence[Level]) -> Edge | None:
    if kept == proposed:
        return None
    a = _opened(*ours, set(kept.inputs), set(kept.outputs))
    b = _opened(*other, set(kept.inputs.values()), set(kept.outputs.values()))
    for level in levels:
        colours = refine(a, b, level)
        if isinstance(colours, Colours):
            found = isomorphism(a, b, (colours.a, colours.b), level)
            if found is not None:
                outputs = {**kept.outputs, **found.outputs}
                return Edge(
                    _completed({**kept.inputs, **found.inputs}, proposed.inputs),
                    {name: outputs[name] for name in proposed.outputs},
                )
    return None


def _opened(source: Source, flat: Flat, inputs: set[str], outputs: set[str]) -> Flat:
    """The graph with all inputs and outputs open but those named."""
    types = source.graph.types
    free = {name: kind_text(types.get(name, ValueType())) for name in flat.inputs if name not in inputs}
    return replace(flat, open_inputs=free, open_outputs=frozenset(flat.outputs) - outputs)


def _completed(found: dict[str, str], proposed: Mapping[str, str]) -> dict[str, str]:
    """All inputs in the first source's order: what nothing reads pairs as proposed, else in order."""
    taken = set(found.values())
    for name, twin in proposed.items():
        if name not in found and twin not in taken:
            found[name] = twin
            taken.add(twin)
    rest = iter([twin for twin in proposed.values() if twin not in taken])
    return {name: found[name] if name in found else next(rest) for name in proposed}


def _crossed(a: Flat, b: Flat, found: Edge) -> str:
    sides = ((found.inputs, b.inputs), (found.outputs, b.outputs))
    for pairs, own in sides:
        for name, twin in pairs.items():
            if name != twin and name in own:
                return (
                    f"'{name}' of {a.path} does what '{twin}' of {b.path} does, which has a '{name}' of its "
                    "own: rename the inputs and outputs of one file, so that a name means the same in all."
                )
    return ""
