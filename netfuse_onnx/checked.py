"""The answer of `check`: one architecture and what merging it gives, or the families among the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from netfuse_onnx import families, sources
from netfuse_onnx.errors import FileFault, NotEquivalent
from netfuse_onnx.lowered import Merged
from netfuse_onnx.match.apart import surely_apart
from netfuse_onnx.report import CheckReport, FamilyRow, UnreadableRow
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Source

Lower = Callable[[Correspondence], Merged]


def answer(
    paths: Sequence[str], names: Sequence[str], match: families.Match, lower: Lower, *, exact: bool
) -> CheckReport:
    """The report on models with these names. `lower` merges them as merge does; nothing is written.

    Raises FileFault where a file can't be read, with a report on all in its `report`.
    """
    found = sources.read_each(paths)
    readable = [(one, name) for one, name in zip(found, names, strict=True) if isinstance(one, Source)]
    faults = [(i, one) for i, one in enumerate(found) if isinstance(one, FileFault)]
    if faults:
        report = _unreadable(paths, names, readable, faults, match, exact)
        error = report.fault or faults[0][1]
        error.report = report
        raise error
    models = [source for source, _ in readable]
    try:
        if exact:
            _refuse_apart(models, names, match)
        family = match(models, names)
    except NotEquivalent as error:
        return _families(paths, names, models, match, error, exact)
    return _equivalent(paths, family, lower(family))


def _refuse_apart(models: Sequence[Source], names: Sequence[str], match: families.Match) -> None:
    """Raises NotEquivalent for a model that is surely apart from the first. These two alone are matched: that
    is quick, and matching all of many takes its time."""
    for model, name in zip(models[1:], names[1:], strict=True):
        if surely_apart(models[0], model):
            match([models[0], model], [names[0], name])


@contextmanager
def explained(
    models: Sequence[Source], names: Sequence[str], match: families.Match, *, exact: bool
) -> Iterator[None]:
    """A NotEquivalent that is raised inside gets the families of the models, in brief in the hint, and in its
    `report`."""
    try:
        yield
    except NotEquivalent as error:
        report = _families([source.path for source in models], names, models, match, error, exact)
        makers = {row.producers for row in report.families}
        if len(report.families) > 1 and (len(models) > 2 or len(makers) > 1):
            error.hint = f"{error.hint} There are {families.brief(report.families)}."
        error.report = report
        raise


def _families(
    paths: Sequence[str],
    names: Sequence[str],
    models: Sequence[Source],
    match: families.Match,
    error: NotEquivalent,
    exact: bool,
) -> CheckReport:
    """The report on models that are not all one architecture, for this reason."""
    if len(models) == 2:
        rows = families.pair(models, names, error)
    else:
        rows = families.rows(models, names, match, exact=exact)
    told = next((row.difference for row in rows if row.difference), None)
    told = told or families.difference(error, models[0].path, models[1].path)
    return CheckReport(tuple(paths), tuple(names), False, rows, difference=told)


def _equivalent(paths: Sequence[str], family: Correspondence, merged: Merged) -> CheckReport:
    return CheckReport(
        sources=tuple(paths),
        models=family.names,
        equivalent=True,
        families=(families.whole(family),),
        nodes=family.sources[0].node_count,
        weights=len(family.weights),
        shared_weights=sum(1 for parts in family.weights.values() if len(parts) == 1),
        bytes=sum(weights.nbytes(w) for source in family.sources for w in source.graph.weights.values()),
        distinct_bytes=weights.stored(merged.model),
        inputs=family.graph.inputs,
        outputs=family.graph.outputs,
        opsets=family.opsets,
        differences=family.differences,
        warnings=family.warnings,
    )


# --------------------------------------------------------------------------- files that can't be read


def _unreadable(
    paths: Sequence[str],
    names: Sequence[str],
    readable: Sequence[tuple[Source, str]],
    faults: Sequence[tuple[int, FileFault]],
    match: families.Match,
    exact: bool,
) -> CheckReport:
    """The report on files that can't all be read, with the families of the others."""
    rows: tuple[FamilyRow, ...] = ()
    if readable:
        models, labels = zip(*readable, strict=True)
        rows = families.rows(models, labels, match, exact=exact)
    unread = tuple(UnreadableRow(names[i], paths[i], fault.message, fault.hint) for i, fault in faults)
    return CheckReport(tuple(paths), tuple(names), False, rows, unread)
