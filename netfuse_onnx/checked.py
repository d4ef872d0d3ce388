"""The answer of `check`: one architecture and the result of merging it, or the families among the models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from netfuse_onnx import apart, expected, families, hints, sharing, sources, spelling_rows
from netfuse_onnx.errors import FileFault, NotEquivalent
from netfuse_onnx.lowered import Merged
from netfuse_onnx.match.matcher import ONLY
from netfuse_onnx.match.signature import surely_different
from netfuse_onnx.merge_rows import PartialRow
from netfuse_onnx.report import CheckReport, FamilyRow, UnreadableRow
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Source

Lower = Callable[[Correspondence], Merged]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A way to compare models. With `exact`, models that surely differ are not matched; with --partial they
    may fit."""

    match: families.Match
    exact: bool
    partial: families.Match | None = None
    """A match with --partial, which tells what that would merge."""

    def answer(self, paths: Sequence[str], names: Sequence[str], lower: Lower) -> CheckReport:
        """Return the report on models with these names. `lower` merges them as merge does; it writes nothing.

        Raises FileFault where a file can't be read, with a report on all files in its `report`.
        """
        loaded = sources.read_each(paths)
        readable = [(one, name) for one, name in zip(loaded, names, strict=True) if isinstance(one, Source)]
        models, readable_names = [source for source, _ in readable], [name for _, name in readable]
        faults = [(i, one) for i, one in enumerate(loaded) if isinstance(one, FileFault)]
        if faults:
            rows = self._rows(models, readable_names) if models else ()
            unread = tuple(
                UnreadableRow(names[i], paths[i], fault.message, fault.hint) for i, fault in faults
            )
            report = CheckReport(tuple(paths), tuple(names), False, rows, unread)
            error = report.fault or faults[0][1]
            error.report = report
            raise error
        try:
            self._refuse_different(models, names)
            family = self.match(models, names)
        except NotEquivalent as error:
            report = self._families(models, names, error)
            return replace(report, partial=tuple(self._with_partial(models, names, lower)))
        target = expected.provider()
        made_for = self.match(models, names, made_for=target) if target == "cuda" else family
        merged = lower(family)
        verdict = expected.of_check(family, merged, target, made_for)
        return replace(_equivalent(paths, family, merged), verdict=verdict)

    @contextmanager
    def explained(self, models: Sequence[Source], names: Sequence[str]) -> Iterator[None]:
        """Add the families of the models to a NotEquivalent raised inside: to its hint, and as `report`."""
        try:
            yield
        except NotEquivalent as error:
            report = self._families(models, names, error)
            makers = {row.producers for row in report.families}
            if len(report.families) > 1 and (len(models) > 2 or len(makers) > 1):
                error.hint = f"{error.hint} There are {families.brief(report.families)}."
            error.report = report
            raise

    def _refuse_different(self, models: Sequence[Source], names: Sequence[str]) -> None:
        """Raise NotEquivalent for a model that surely differs from the first. Only these two are matched:
        that is quick, and matching many takes long."""
        for model, name in zip(models[1:], names[1:], strict=True) if self.exact else ():
            if surely_different(models[0], model):
                self.match([models[0], model], [names[0], name])

    def _families(self, models: Sequence[Source], names: Sequence[str], error: NotEquivalent) -> CheckReport:
        """Return the report on models that are not all one architecture, for this reason."""
        paths = tuple(source.path for source in models)
        rows = families.pair(models, names, error) if len(models) == 2 else self._rows(models, names)
        difference = next((row.difference for row in rows if row.difference), None)
        difference = difference or families.difference(error, *paths[:2])
        return CheckReport(paths, tuple(names), False, rows, difference=difference)

    def _with_partial(
        self, models: Sequence[Source], names: Sequence[str], lower: Lower
    ) -> Iterator[PartialRow]:
        """Yield what --partial would make of all models together, else of each group that it would merge."""
        if self.partial is None:
            return
        try:
            yield _merged_partly(self.partial(models, names), lower)
            return
        except NotEquivalent as error:
            fault = error
        if len(models) == 2:
            yield PartialRow(tuple(names), reason=_reason(fault.message, fault.hint))
            return
        for row in families.rows(models, names, self.partial, exact=False):
            some = [models[names.index(name)] for name in row.models]
            if len(some) > 1:
                yield _merged_partly(self.partial(some, row.models), lower)
            elif row.difference:
                yield PartialRow(row.models, reason=_reason(row.difference.message, row.difference.hint))

    def _rows(self, models: Sequence[Source], names: Sequence[str]) -> tuple[FamilyRow, ...]:
        return families.rows(models, names, self.match, exact=self.exact)


def _merged_partly(family: Correspondence, lower: Lower) -> PartialRow:
    return PartialRow(family.names, apart.of(family, lower(family), {}), family.differences)


def _reason(message: str, hint: str) -> str:
    """Return why --partial refuses models: what ends their common part, where that is known."""
    return hint.removeprefix(ONLY) if hint.startswith(ONLY) else message


def _equivalent(paths: Sequence[str], family: Correspondence, merged: Merged) -> CheckReport:
    return CheckReport(
        sources=tuple(paths),
        models=family.names,
        equivalent=True,
        families=(families.whole(family),),
        nodes=family.sources[0].node_count,
        weights=len(family.weights),
        shared_weights=sum(1 for parts in family.weights.values() if len(parts) == 1),
        bytes=expected.bytes_of_weights(family),
        distinct_bytes=weights.stored(merged.model),
        inputs=family.graph.inputs,
        outputs=family.outputs,
        opsets=family.opsets,
        differences=family.differences,
        warnings=family.warnings,
        merged_nodes=merged.report.merged_nodes,
        became=Counter(row.became for row in merged.report.nodes),
        hints=hints.of_check(family, merged),
        sharing=sharing.of(family, merged, {}),
        adapters=sources.changes(family),
        spelling=spelling_rows.of(family),
        apart=apart.of(family, merged, {}),
    )
