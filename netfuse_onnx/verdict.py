"""The verdict on a merged file: is it better than the N sessions of its models? One row per question.

A ratio is the sessions' figure over the merged file's, so that 2 is twice as good, for times and bytes alike.
The verdict of a row comes from the figures that the row shows: the ratio, and where it was measured in rounds
the quartiles of the ratios of the rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from netfuse_onnx.compared import Basis, Compared, Outcome, Question
from netfuse_onnx.sentences import SENTENCES, mostly_replicated, predicted_mark

if TYPE_CHECKING:
    from netfuse_onnx.measure.report import BenchReport, Row
    from netfuse_onnx.measure.rounds import Quartiles

__all__ = [
    "Basis", "Compared", "Outcome", "Question", "Verdict", "VerdictRow", "judge", "mostly_replicated",
    "of_bench", "of_rounds", "pays_from", "predicted",
]  # fmt: skip

ROUNDS = 3
"""The fewest rounds whose ratios have quartiles to speak of."""


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
    all is replicated. `notes` are sentences on what the figures depend on."""

    label: str
    models: int
    rows: tuple[VerdictRow, ...]
    pays_from: int | None = None
    warning: str = ""
    notes: tuple[str, ...] = ()

    def row(self, question: Question) -> VerdictRow | None:
        return next((row for row in self.rows if row.question == question), None)


def judge(
    models: int,
    *,
    memory: Compared | None = None,
    load: Compared | None = None,
    files: Compared | None = None,
    some: Mapping[int, Compared] | None = None,
    label: str = "merged",
    warning: str = "",
    whole: bool = False,
) -> Verdict:
    """Return the verdict on a merged file. A figure that is not known has no row. `whole`: no call wants only
    some of the models, because outputs combine all.

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
    pays = None if whole else pays_from(models, some)
    if models > 1 and models in some and not whole:
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
    some = _waiting_calls(report, label)
    some[len(report.models)] = of_rounds(own.median, best.median, speedup.times, best.label)
    sequence = next(iter(_ran(report.rows, "sequence")), None)
    return judge(
        len(report.models),
        memory=_both(_memory_of(own), _memory_of(sequence)) if sequence else None,
        load=_both(own.load, sequence.load) if sequence else None,
        files=_both(own.file, sequence.file, Basis.COUNTED) if sequence else None,
        some=some,
        label=label,
        whole=bool(report.combined),
    )


def _waiting_calls(report: BenchReport, label: str) -> dict[int, Compared]:
    """The calls that want some of the models, by their number."""
    return {
        row.models: replace(
            of_rounds(row.merged.median, row.seconds.median, row.times, row.best), chosen=row.chosen
        )
        for row in report.waiting
        if row.label == label
    }


def of_rounds(merged: float, sessions: float, times: Quartiles, against: str) -> Compared:
    """Compare two medians. Quartiles of fewer than ROUNDS ratios say nothing."""
    low, high = (times.low, times.high) if times.samples >= ROUNDS else (None, None)
    return Compared(merged, sessions, low, high, against)


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


# --------------------------------------------------------------------------- rows

NEVER = {
    Outcome.EQUAL: "It makes no difference, even where all {models} models wait",
    Outcome.WORSE: "It does not pay, even where all {models} models wait",
    Outcome.INCONCLUSIVE: "No number of waiting models, up to all {models}, surely makes it pay",
}
"""The sentences for no number of waiting models from which on it pays, by the verdict on a call of all."""


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
    else:
        outcome, sentence = one.outcome, NEVER[one.outcome].format(models=models)
    return VerdictRow(
        Question.WAITING, one.merged, one.sessions, one.ratio, one.low, one.high, pays or models, one.against,
        one.basis, outcome, f"{sentence}{predicted_mark(one)}.",
    )  # fmt: skip


def _before(pays: int, some: Mapping[int, Compared]) -> int:
    """The largest number below `pays` that has figures; 0 where there is none."""
    return max((k for k in some if k < pays), default=0)


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]} was"
    return f"{numbers[0]} to {numbers[-1]} were"
