"""The verdict on a merged file: is it better than the N sessions of its models? One row per question.

A ratio is the sessions' figure over the merged file's, so that 2 is twice as good, for times and bytes alike.
The verdict of a row comes from the figures that the row shows: the ratio, and where it was measured in rounds
the quartiles of the ratios of the rounds.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netfuse_onnx.units import duration, size

if TYPE_CHECKING:
    from netfuse_onnx.measure.report import BenchReport, Row

EQUAL = 1.02
"""Figures that differ by up to 2 % count as equal."""
MOSTLY = 0.75
"""The part of the nodes that differ between models from which on nearly all count as replicated."""


class Outcome(enum.StrEnum):
    """The verdict of one row, on the merged file."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "equal"
    INCONCLUSIVE = "inconclusive"


class Question(enum.StrEnum):
    """A question that a verdict answers: the memory, the time to load and run once, the bytes of the files,
    a call that wants all models, a call that wants one, and the number of waiting models that make one
    merged call pay."""

    MEMORY = "memory"
    LOAD = "load"
    FILES = "files"
    ALL = "all"
    ONE = "one"
    WAITING = "waiting"


class Basis(enum.StrEnum):
    """The origin of the figures of a row: measured here, predicted by the costs of a target, or counted in
    bytes of files and weights."""

    MEASURED = "measured"
    PREDICTED = "predicted"
    COUNTED = "counted"


@dataclass(frozen=True, slots=True)
class Compared:
    """The figures of both sides, in seconds or bytes. `low` and `high` are the quartiles of the ratio over
    the rounds, None where the figures are single ones. `against` names the way that the sessions run."""

    merged: float
    sessions: float
    low: float | None = None
    high: float | None = None
    against: str = ""
    basis: Basis = Basis.MEASURED

    @property
    def ratio(self) -> float:
        """The sessions' figure over the merged one's: more than 1 is better."""
        if self.merged <= 0.0:
            return 1.0 if self.sessions <= 0.0 else float("inf")
        return self.sessions / self.merged

    @property
    def outcome(self) -> Outcome:
        """Better or worse only where the ratio and both quartiles say so."""
        three = [self.ratio, *(end for end in (self.low, self.high) if end is not None)]
        if all(1.0 / EQUAL <= one <= EQUAL for one in three):
            return Outcome.EQUAL
        if min(three) > 1.0:
            return Outcome.BETTER
        return Outcome.WORSE if max(three) < 1.0 else Outcome.INCONCLUSIVE


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """The answer to one question. `merged` and `sessions` are in bytes or seconds; `ratio` is `sessions` over
    `merged`, so that more than 1 is better, and `low` and `high` are its quartiles over the rounds, null
    where there were none. `outcome` is the verdict, `sentence` says all of it. In the row `waiting` the
    sessions run as many models as `models` says, else all, or the one of the row `one`."""

    question: Question
    merged: float
    sessions: float
    ratio: float
    low: float | None
    high: float | None
    models: int
    against: str
    basis: Basis
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A merged file against the sessions of its models. `label` names the merged file where there are
    several. `pays_from` is the smallest number of waiting models for which one merged call takes less time
    than their sessions; null where there is none, or it is not known. `warning` is not empty where nearly
    all is replicated."""

    label: str
    models: int
    rows: tuple[VerdictRow, ...]
    pays_from: int | None = None
    warning: str = ""

    def row(self, question: Question) -> VerdictRow | None:
        return next((row for row in self.rows if row.question is question), None)


def judge(
    models: int,
    *,
    memory: Compared | None = None,
    load: Compared | None = None,
    files: Compared | None = None,
    some: Mapping[int, Compared] | None = None,
    label: str = "merged",
    warning: str = "",
) -> Verdict:
    """Return the verdict on a merged file. A figure that is not known has no row.

    `some` compares one merged call with the best way to run k of the models, by k. The key `models` is a call
    that wants all, the key 1 a call that wants one. A k without figures was not measured.
    """
    some = dict(sorted((some or {}).items()))
    given = {
        Question.MEMORY: memory,
        Question.LOAD: load,
        Question.FILES: files,
        Question.ALL: some.get(models),
    }
    if models > 1:
        given[Question.ONE] = some.get(1)
    rows = [_row(question, models, models, one) for question, one in given.items() if one is not None]
    pays = pays_from(models, some)
    if models > 1 and models in some:
        rows.append(_waiting(models, pays, some))
    return Verdict(label, models, tuple(rows), pays, warning)


def of_bench(report: BenchReport, label: str = "") -> Verdict | None:
    """Return the verdict on a merged file of a comparison, by default the first that ran; None where it did
    not run, or nothing ran beside it. All figures are those of the report's rows."""
    merged = [row for row in report.rows if row.merged and row.ran and label in ("", row.label)]
    if not merged:
        return None
    label = merged[0].label
    own = min((row for row in merged if row.label == label), key=lambda row: row.median)
    speedup = next((one for one in report.speedups if one.merged == label), None)
    best = next((row for row in _ran(report.rows) if speedup and row.label == speedup.best), None)
    if speedup is None or best is None:
        return None
    times, some = speedup.times, _waiting_calls(report, label)
    some[len(report.models)] = Compared(own.median, best.median, times.low, times.high, best.label)
    sequence = next(iter(_ran(report.rows, "sequence")), None)
    return judge(
        len(report.models),
        memory=_both(_memory_of(own), _memory_of(sequence)) if sequence else None,
        load=_both(own.load, sequence.load) if sequence else None,
        files=_both(own.file, sequence.file, Basis.COUNTED) if sequence else None,
        some=some,
        label=label,
    )


def _waiting_calls(report: BenchReport, label: str) -> dict[int, Compared]:
    """The calls that want some of the models, by their number."""
    return {
        row.models: Compared(row.merged.median, row.seconds.median, row.times.low, row.times.high, row.best)
        for row in report.waiting
        if row.label == label
    }


def predicted(
    models: int,
    *,
    call: float | None = None,
    one_by_one: float | None = None,
    weights: tuple[int, int] | None = None,
    files: tuple[int, int] | None = None,
    written: bool = False,
    against: str = "one after the other",
    warning: str = "",
) -> Verdict:
    """Return the verdict before anything is measured. `call` has the seconds of a merged call, `one_by_one`
    those of all models' sessions one after the other; `weights` and `files` the bytes on the merged side and
    on the other. `written` says that the merged file is there, so that its bytes are counted."""
    some = dict[int, Compared]()
    if call is not None and one_by_one is not None:
        for k in range(1, models + 1):
            each = one_by_one * k / models
            some[k] = Compared(call, each, against=against, basis=Basis.PREDICTED)
    return judge(
        models,
        memory=_both(*weights, Basis.COUNTED) if weights else None,
        files=_both(*files, Basis.COUNTED if written else Basis.PREDICTED) if files else None,
        some=some,
        warning=warning,
    )


def _ran(rows: Sequence[Row], kind: str = "") -> list[Row]:
    """The ways that are not merged and ran, the fastest first; those of one kind where it is given."""
    return sorted(
        (row for row in rows if row.ran and not row.merged and kind in ("", row.kind)),
        key=lambda row: row.median,
    )


def _memory_of(row: Row) -> int:
    """The bytes that a way added: on the GPU where it has some there, else in its processes."""
    return row.gpu or row.resident


def _both(merged: float, sessions: float, basis: Basis = Basis.MEASURED) -> Compared | None:
    """Compare single figures; None where one is 0, which is how a figure says that it is not known."""
    return Compared(merged, sessions, basis=basis) if merged and sessions else None


def pays_from(models: int, some: Mapping[int, Compared]) -> int | None:
    """Return the smallest number of waiting models from which on every measured number is better for the
    merged call; None where there is none."""
    found = None
    for k in sorted(some, reverse=True):
        if some[k].outcome is not Outcome.BETTER:
            break
        found = k
    return found


def mostly_replicated(nodes: Mapping[str, int], before: int, after: int) -> str:
    """Return a warning where nearly all nodes that differ between the models run once per model, else ''.
    `nodes` counts nodes by what became of them; `before` and `after` are the nodes of one source and of the
    merged graph."""
    apart = nodes.get("replicated", 0)
    differing = apart + nodes.get("batched", 0) + nodes.get("grouped", 0)
    if not apart or apart < MOSTLY * differing:
        return ""
    all_but = "All" if apart == differing else f"{apart} of the {differing}"
    return (
        f"Nearly nothing is merged. {all_but} nodes that differ between the models run once per model: the "
        f"graph has {after} nodes, a source {before}. This is the sources side by side in one file."
    )


# --------------------------------------------------------------------------- rows


def _row(question: Question, models: int, wanted: int, one: Compared) -> VerdictRow:
    wanted = 1 if question is Question.ONE else wanted
    return VerdictRow(
        question, one.merged, one.sessions, one.ratio, one.low, one.high, wanted, one.against, one.basis,
        one.outcome, SENTENCES[question](models, one),
    )  # fmt: skip


def _waiting(models: int, pays: int | None, some: Mapping[int, Compared]) -> VerdictRow:
    """The row that says from how many waiting models on one merged call pays."""
    one = some[models if pays is None else pays]
    if pays is not None:
        outcome, sentence = Outcome.BETTER, f"It pays from {pays} of {models} waiting models on"
        unknown = range(_before(pays, some) + 1, pays)
        if unknown:
            sentence += f" ({_range(unknown)} not measured)"
    elif one.outcome is Outcome.INCONCLUSIVE:
        outcome, sentence = (
            one.outcome,
            f"No number of waiting models, up to all {models}, surely makes it pay",
        )
    else:
        outcome, sentence = Outcome.WORSE, f"It does not pay, even where all {models} models wait"
    return VerdictRow(
        Question.WAITING, one.merged, one.sessions, one.ratio, one.low, one.high, pays or models, one.against,
        one.basis, outcome, f"{sentence}{_predicted(one)}.",
    )  # fmt: skip


def _before(pays: int, some: Mapping[int, Compared]) -> int:
    """The largest number below `pays` that has figures; 0 where there is none."""
    return max((k for k in some if k < pays), default=0)


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]} was"
    return f"{numbers[0]} to {numbers[-1]} were"


# --------------------------------------------------------------------------- sentences


def _memory(models: int, one: Compared) -> str:
    how = ", by the bytes of the weights" if one.basis is Basis.COUNTED else ""
    return (
        f"Memory: {size(round(one.merged))}, {models} sessions {size(round(one.sessions))}{_more(one)}{how}."
    )


def _load(models: int, one: Compared) -> str:
    merged, sessions = duration(one.merged), duration(one.sessions)
    return f"Time to load and run once: {merged}, {models} sessions {sessions}{_more(one)}."


def _files(models: int, one: Compared) -> str:
    merged, sources = size(round(one.merged)), size(round(one.sessions))
    return f"Files: {merged}, {models} models {sources}{_more(one)}{_predicted(one)}."


def _all(models: int, one: Compared) -> str:
    merged, sessions = duration(one.merged), duration(one.sessions)
    against = f" ({one.against})" if one.against else ""
    return (
        f"A call of all {models} models: {merged}, sessions {sessions}{against}: {one.ratio:.2f} times as "
        f"fast{_quartiles(one)}{_predicted(one)}."
    )


def _one(models: int, one: Compared) -> str:
    merged, sessions = duration(one.merged), duration(one.sessions)
    times = f"{1.0 / one.ratio:.2g} times as long" if one.ratio > 0.0 else "longer"
    return (
        f"A call that wants one model: {merged}, as all {models} run, its session {sessions}: "
        f"{times}{_predicted(one)}."
    )


SENTENCES = {
    Question.MEMORY: _memory,
    Question.LOAD: _load,
    Question.FILES: _files,
    Question.ALL: _all,
    Question.ONE: _one,
}


def _more(one: Compared) -> str:
    """Say how the merged figure compares: `, 2.1 times less` or `, 1.3 times as much`."""
    if one.outcome is Outcome.EQUAL or one.merged <= 0.0 or one.sessions <= 0.0:
        return ""
    if one.ratio >= 1.0:
        return f", {one.ratio:.3g} times less"
    return f", {1.0 / one.ratio:.3g} times as much"


def _quartiles(one: Compared) -> str:
    return "" if one.low is None or one.high is None else f" (quartiles {one.low:.2f} and {one.high:.2f})"


def _predicted(one: Compared) -> str:
    return ", predicted" if one.basis is Basis.PREDICTED else ""
