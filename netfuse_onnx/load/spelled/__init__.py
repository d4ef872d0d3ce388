"""One spelling for what exporters write in several ways: rules that rewrite sources which do not match.

A rule is a `form`, in the file of its topic. `of_family` applies forms to all sources, at the opset that has
what they write. docs/spellings.md lists what is brought together, and what it means for the bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.load import opset
from netfuse_onnx.load.lift import Unconvertible
from netfuse_onnx.load.spelled import (  # noqa: F401  forms register: first come those that need more
    activations,
    attention,
    batchnorm,
    contrib,
    cuts,
    folded,
    leftovers,
    linear,
    neutral,
    norms,
    one_size,
    pools,
    scalars,
)  # fmt: skip
from netfuse_onnx.load.spelled.engine import FORMS, PASSES, Form, Forms, Types, all_forms
from netfuse_onnx.respelling import Respelled, Respelling
from netfuse_onnx.types import Source, Weight

ALL = frozenset(one.name for one in all_forms())
EXACT = frozenset(one.name for one in all_forms() if one.exact)
"""The forms that change no bit of a result."""
FIRST = frozenset({"slice-of-one"})
"""The forms of views that no longer stand there once sizes have one spelling."""
ROUNDS = 4
"""Sizes are written in one way first, then forms apply, which may leave sizes to be written again."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """A source in the one spelling: how often each form was applied, and the weights that were computed."""

    source: Source
    counts: Mapping[str, int]
    made: frozenset[Weight] = frozenset()


def respelled(source: Source, chosen: frozenset[str] | None = None) -> Spelling:
    """Return the source with every form in its one spelling; the same object where nothing changes. `chosen`
    are the forms that apply, where not all do."""
    chosen = ALL if chosen is None else chosen
    counts, made = Counter[str](), set[Weight]()
    current = _formed(source, chosen & FIRST, counts, made)
    for _ in range(ROUNDS):
        graph, count, constants = one_size.respelled(current)
        counts[one_size.NAME] += count
        made |= constants
        sized = current if graph is current.graph else replace(current, graph=graph)
        current = _formed(sized, chosen, counts, made)
        if current is sized:
            break
    return Spelling(current, +counts, frozenset(made))


def _formed(source: Source, chosen: frozenset[str], counts: Counter[str], made: set[Weight]) -> Source:
    """Apply the chosen forms until none applies any more."""
    types = Types()
    for _ in range(PASSES):
        forms = Forms(source, types, chosen)
        graph = forms.run()
        if graph is source.graph:
            break
        counts.update(forms.counts)
        made |= forms.made
        source = replace(source, graph=graph)
    return source


def of_family(sources: Sequence[Source], chosen: frozenset[str] = ALL) -> list[Spelling]:
    """Return all sources in the one spelling. They are raised to an opset that has an operator which one of
    them spells out or has in another domain, if that can be done."""
    now = sources[0].opsets.get("", 1)
    for version in sorted(_newer(sources, now, chosen), reverse=True):
        try:
            raised = [opset.converted(source, version) for source in sources]
        except Unconvertible:
            continue
        spellings = [respelled(source, chosen) for source in raised]
        used = {name for spelling in spellings for name in spelling.counts}
        if any(one.name in used and one.opset == version for one in all_forms()):
            return spellings
    return [respelled(source, chosen) for source in sources]


def needed(spellings: Sequence[Spelling]) -> frozenset[str]:
    """Return the forms that were not applied equally often to all models: without the others, the models may
    match as well."""
    names = {name for spelling in spellings for name in spelling.counts}
    return frozenset(
        name for name in names if len({spelling.counts.get(name, 0) for spelling in spellings}) > 1
    )


def record(spellings: Sequence[Spelling], names: Sequence[str], given: Sequence[Source]) -> Respelled:
    """Return the record of a family, which matched in these spellings. `given` are the sources before."""
    forms = {one.name: (one.says, one.exact) for one in all_forms()} | {one_size.NAME: (one_size.SAYS, True)}
    rows = [
        Respelling(model, name, forms[name][0], count, forms[name][1])
        for model, spelling in zip(names, spellings, strict=True)
        for name, count in sorted(spelling.counts.items())
    ]
    version = spellings[0].source.opsets.get("", 1)
    raised = version if version != given[0].opsets.get("", 1) else 0
    return Respelled(tuple(rows), opset=raised, models=len(names))


def _newer(sources: Sequence[Source], now: int, chosen: frozenset[str]) -> set[int]:
    """Return the opsets to which the family may be raised for the sake of a form."""
    operators = {node.key for source in sources for node in source.graph.nodes}
    return {
        one.opset
        for key, some in FORMS.items()
        for one in some
        if key in operators and one.opset > now and one.name in chosen and _wanted(one, operators)
    }


def _wanted(one: Form, operators: set[str]) -> bool:
    return not one.needs or not one.needs.isdisjoint(operators)
