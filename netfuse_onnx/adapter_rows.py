"""The list of what the adapters of a family change in their base, for reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx.types import Adapted, Source


@dataclass(frozen=True, slots=True)
class AdaptedRow:
    """One weight of the base that adapters change: the adapters' name of the module or tensor, the weight in
    the file, the node that applies it, and what told that the two belong together. `ranks` has the rank of
    each model's product, 0 where it leaves the weight as it is. `replaced` names models that have a whole
    tensor of their own in its place."""

    module: str
    weight: str
    node: str
    evidence: str
    ranks: tuple[int, ...]
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adapters:
    """The adapters of a family: their base, the file of each by model, and the weights that they change. A
    tensor of an adapter that matches nothing is an error, so the rows have all."""

    base: str
    files: tuple[str, ...]
    rows: tuple[AdaptedRow, ...]
    notes: tuple[str, ...] = ()


def listed(sources: Sequence[Source], names: Sequence[str]) -> Adapters | None:
    """Return the list for the models of a family; None where they are no adapters."""
    about = [source.adapted for source in sources if source.adapted]
    if not about:
        return None
    firsts: dict[str, tuple[str, str, str]] = {}
    for one in about:
        for change in one.changes:
            firsts.setdefault(change.weight, (change.module, change.node, change.evidence))
    changed = [{change.weight: change for change in one.changes} for one in about]
    rows = []
    for weight, (module, node, evidence) in firsts.items():
        changes = [by_weight.get(weight) for by_weight in changed]
        ranks = tuple(change.a.shape[0] if change and change.a else 0 for change in changes)
        whole = tuple(n for n, change in zip(names, changes, strict=True) if change and change.replaced)
        rows.append(AdaptedRow(module, weight, node, evidence, ranks, whole))
    return Adapters(about[0].base, _paths(sources), tuple(rows), _notes(about))


def _paths(sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(source.path for source in sources)


def _notes(about: Sequence[Adapted]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(note for one in about for note in one.notes))
