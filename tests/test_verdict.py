"""The verdict on a merged file: every row, every outcome, and figures that are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from netfuse_onnx.measure.report import BenchReport, Row, Waiting
from netfuse_onnx.measure.rounds import Quartiles, ratio
from netfuse_onnx.measure.speedups import speedups
from netfuse_onnx.verdict import (
    Basis,
    Compared,
    Outcome,
    Question,
    judge,
    mostly_replicated,
    of_bench,
    predicted,
)

BETTER, WORSE, EQUAL, INCONCLUSIVE = Outcome.BETTER, Outcome.WORSE, Outcome.EQUAL, Outcome.INCONCLUSIVE


# --------------------------------------------------------------------------- one comparison


@pytest.mark.parametrize(
    ("merged", "sessions", "low", "high", "outcome"),
    [
        (1.0, 2.0, None, None, BETTER),
        (2.0, 1.0, None, None, WORSE),
        (1.0, 1.09, None, None, EQUAL),  # single figures are uncertain
        (1.0, 1.11, None, None, BETTER),
        (1.0, 1.05, 1.03, 1.07, BETTER),
        (1.0, 2.0, 1.5, 2.5, BETTER),
        (1.0, 2.0, 0.9, 2.5, INCONCLUSIVE),
        (2.0, 1.0, 0.4, 1.2, INCONCLUSIVE),
        (2.0, 1.0, 0.4, 0.9, WORSE),
        (1.0, 1.0, 0.99, 1.01, EQUAL),
        (1.0, 1.0, 0.9, 1.01, INCONCLUSIVE),
        (1.0, 1.3, 0.8, 0.9, INCONCLUSIVE),  # the medians and the rounds disagree
        (0.0, 0.0, None, None, EQUAL),
        (0.0, 1.0, None, None, BETTER),
    ],
)
def test_the_outcome_is_that_of_the_ratio_and_its_quartiles(
    merged: float, sessions: float, low: float | None, high: float | None, outcome: Outcome
) -> None:
    assert Compared(merged, sessions, low, high).outcome is outcome


def test_nothing_against_something_is_infinitely_better() -> None:
    assert math.isinf(Compared(0.0, 1.0).ratio)


# --------------------------------------------------------------------------- rows


def times(merged: float, sessions: float) -> Compared:
    return Compared(merged, sessions, sessions / merged * 0.95, sessions / merged * 1.05, "a pool")


def test_a_row_for_each_question() -> None:
    verdict = judge(
        8,
        memory=Compared(100e6, 310e6),
        load=Compared(0.5, 0.25),
        files=Compared(1000, 1000),
        some={8: times(2e-3, 4e-3), 1: times(2e-3, 0.5e-3), 5: times(2e-3, 2.5e-3), 4: times(2e-3, 2e-3)},
    )
    assert [(row.question, row.outcome) for row in verdict.rows] == [
        (Question.MEMORY, BETTER),
        (Question.LOAD, WORSE),
        (Question.FILES, EQUAL),
        (Question.ALL, BETTER),
        (Question.ONE, WORSE),
        (Question.WAITING, BETTER),
    ]
    assert verdict.pays_from == 5
    assert [row.sentence for row in verdict.rows] == [
        "Memory: 100 MB, 8 sessions 310 MB, 3.1 times less.",
        "Time to load and run once: 500 ms, 8 sessions 250 ms, 2 times as much.",
        "Files: 1 kB, 8 models 1 kB.",
        "A call of all 8 models: 2 ms, 2.00 times as fast as the best alternative "
        "(a pool, 4 ms; quartiles 1.90 and 2.10).",
        "A call that wants one model: 2 ms, as all 8 run, its session 500 us: 4 times as long.",
        "It pays from 5 of 8 waiting models on.",
    ]
    assert [row.models for row in verdict.rows] == [8, 8, 8, 8, 1, 5]


def test_figures_that_are_missing_have_no_row() -> None:
    assert judge(2).rows == ()
    (row,) = judge(2, files=Compared(1, 2)).rows
    assert row.question is Question.FILES
    assert judge(2, some={1: times(1.0, 2.0)}).row(Question.WAITING) is None
    assert judge(2, some={1: times(1.0, 2.0)}).row(Question.ALL) is None


def test_one_model_has_no_row_for_one_of_many() -> None:
    verdict = judge(1, some={1: times(1.0, 2.0)})
    assert [row.question for row in verdict.rows] == [Question.ALL]


def waiting(some: dict[int, Compared], models: int = 8) -> tuple[int | None, Outcome, str]:
    verdict = judge(models, some=some)
    row = verdict.row(Question.WAITING)
    assert row is not None
    return verdict.pays_from, row.outcome, row.sentence


def test_from_how_many_waiting_models_it_pays() -> None:
    each = {k: times(2.5e-3, k * 1e-3) for k in range(1, 9)}
    assert waiting(each) == (3, BETTER, "It pays from 3 of 8 waiting models on.")
    some = {k: each[k] for k in (1, 4, 8)}
    assert waiting(some) == (4, BETTER, "It pays from 4 of 8 waiting models on (2 to 3 were not measured).")
    some = {k: each[k] for k in (2, 4, 8)}
    assert waiting(some)[2] == "It pays from 4 of 8 waiting models on (3 was not measured)."
    cheap = {k: times(0.5e-3, k * 1e-3) for k in (1, 8)}
    assert waiting(cheap) == (1, BETTER, "It pays from 1 of 8 waiting models on.")


def test_a_number_that_may_pay_does_not_count() -> None:
    some = {8: times(1.0, 3.0), 4: Compared(1.0, 1.2, 0.9, 1.4), 2: times(1.0, 1.3)}
    assert waiting(some)[0] == 8


def test_it_never_pays() -> None:
    some = {k: times(9e-3, k * 1e-3) for k in (1, 8)}
    assert waiting(some) == (None, WORSE, "It does not pay, even where all 8 models wait.")


def test_it_makes_no_difference() -> None:
    found = waiting({8: Compared(1.0, 1.01, 0.99, 1.015)})
    assert found == (None, EQUAL, "It makes no difference, even where all 8 models wait.")


def test_bytes_are_not_uncertain() -> None:
    assert Compared(100, 105, basis=Basis.COUNTED).outcome is BETTER
    assert Compared(100, 101, basis=Basis.COUNTED).outcome is EQUAL
    assert Compared(100, 105, basis=Basis.PREDICTED).outcome is EQUAL


def test_it_can_not_be_told_if_it_pays() -> None:
    pays, outcome, sentence = waiting({8: Compared(1.0, 1.1, 0.9, 1.3)})
    assert (pays, outcome) == (None, INCONCLUSIVE)
    assert sentence == "No number of waiting models, up to all 8, surely makes it pay."


# --------------------------------------------------------------------------- predicted


def test_predicted_rows_say_so() -> None:
    verdict = predicted(4, call=2e-6, one_by_one=4e-6, weights=(10, 30), files=(100, 400))
    assert verdict.pays_from == 3
    assert {row.question: row.basis for row in verdict.rows} == {
        Question.MEMORY: Basis.COUNTED,
        Question.FILES: Basis.PREDICTED,
        Question.ALL: Basis.PREDICTED,
        Question.ONE: Basis.PREDICTED,
        Question.WAITING: Basis.PREDICTED,
    }
    assert all("predicted" in row.sentence for row in verdict.rows if row.basis is Basis.PREDICTED)
    assert "by the bytes of the weights" in verdict.rows[0].sentence


def test_nothing_is_predicted_of_what_is_not_known() -> None:
    assert predicted(4, call=2e-6).rows == ()
    assert predicted(4, weights=(0, 0)).rows == ()  # trees: what is learned is in attributes
    (row,) = predicted(4, files=(100, 100), written=True).rows
    assert row.basis is Basis.COUNTED


# --------------------------------------------------------------------------- replicated


@pytest.mark.parametrize(
    ("nodes", "warned"),
    [
        ({"replicated": 4}, "All nodes"),
        ({"replicated": 9, "batched": 1, "shared": 50}, "9 of the 10 nodes"),
        ({"replicated": 2, "batched": 1, "grouped": 1}, ""),
        ({"batched": 4}, ""),
        ({"shared": 4}, ""),
        ({}, ""),
    ],
)
def test_it_warns_where_nearly_all_is_replicated(nodes: dict[str, int], warned: str) -> None:
    warning = mostly_replicated(nodes, 4, 199)
    assert warned in warning and bool(warning) == bool(warned)
    if warned:
        assert "the graph has 199 nodes, a source 4" in warning


# --------------------------------------------------------------------------- measured


def row(label: str, samples: Sequence[float], kind: str = "", merged: bool = False, **more: object) -> Row:
    found = Row(kind, label, merged, seconds=Quartiles.of(samples), samples=tuple(samples), **more)  # type: ignore[arg-type]
    return found


def report(rows: Sequence[Row], some: Sequence[Waiting] = (), paired: bool = True) -> BenchReport:
    found = tuple(speedups(rows, paired=paired))
    return BenchReport(("a", "b"), "n=1", "cpu", tuple(rows), found, waiting=tuple(some))


SEQUENCE = row("in sequence", (4.0, 4.0, 4.0), "sequence", load=2.0, resident=300, file=70)
POOL = row("concurrent", (3.0, 3.0, 3.0), "concurrent", load=1.0, resident=900, file=70)
MERGED = row("merged", (2.0, 2.0, 2.0), "merged", True, load=4.0, resident=100, file=70)


def test_the_verdict_has_the_figures_of_the_table() -> None:
    verdict = of_bench(report([SEQUENCE, POOL, MERGED]))
    assert verdict is not None
    shown = {one.question: (one.merged, one.sessions, one.outcome) for one in verdict.rows}
    assert shown == {
        Question.MEMORY: (100, 300, BETTER),
        Question.LOAD: (4.0, 2.0, WORSE),
        Question.FILES: (70, 70, EQUAL),
        Question.ALL: (2.0, 3.0, BETTER),
        Question.WAITING: (2.0, 3.0, BETTER),
    }
    every = verdict.row(Question.ALL)
    assert every and every.against == "concurrent"


def test_quartiles_that_straddle_one_are_inconclusive() -> None:
    """The medians alone would say 1.3 times as fast; single rounds say both."""
    alternative = row("concurrent", (23.0, 23.0, 40.0, 9.0, 23.0))
    own = row("merged", (17.7, 30.0, 15.0, 17.7, 17.7), merged=True)
    verdict = of_bench(report([alternative, own]))
    assert verdict is not None
    (every, *_) = verdict.rows
    assert every.ratio == pytest.approx(23.0 / 17.7)
    assert every.low is not None and every.low < 1.0 < every.ratio
    assert every.outcome is INCONCLUSIVE


def test_two_rounds_have_no_quartiles() -> None:
    """A single sample would be its own quartiles, and every difference sure."""
    for rounds, outcome in ((2, EQUAL), (3, BETTER)):
        other, own = row("concurrent", (1.05,) * rounds), row("merged", (1.0,) * rounds, merged=True)
        verdict = of_bench(report([other, own]))
        assert verdict is not None
        every = verdict.row(Question.ALL)
        assert every and every.outcome is outcome and (every.low is None) == (rounds < 3)


def test_calls_that_want_some_models() -> None:
    one = Quartiles.of((1.0, 1.0))
    some = Waiting("merged", 1, "in sequence", one, MERGED.seconds or one, Quartiles(0.5, 0.4, 0.6, 2))
    other = Waiting("other", 1, "in sequence", one, one, Quartiles(1.0, 1.0, 1.0, 2))
    verdict = of_bench(report([SEQUENCE, MERGED], [some, other]))
    assert verdict is not None
    found = verdict.row(Question.ONE)
    assert found and (found.merged, found.sessions, found.outcome) == (2.0, 1.0, WORSE)
    assert verdict.pays_from == 2


def test_there_is_no_verdict_without_both_sides() -> None:
    broken = Row("merged", "merged", True, problem="no memory")
    assert of_bench(report([SEQUENCE, broken])) is None
    assert of_bench(report([MERGED])) is None
    assert of_bench(report([SEQUENCE, MERGED]), "other") is None


def test_without_a_sequence_there_are_no_rows_of_memory() -> None:
    verdict = of_bench(report([POOL, MERGED]))
    assert verdict is not None
    assert [one.question for one in verdict.rows] == [Question.ALL, Question.WAITING]


def test_memory_on_cuda_is_that_of_the_gpu() -> None:
    """On CUDA a way has a row for each of its settings; the fastest stands for it."""
    slow = row("merged", (9.0, 9.0), "merged", True, load=1.0, resident=5, gpu=7, file=1)
    fast = row("merged", (1.0, 1.0), "merged", True, load=2.0, resident=6, gpu=8, file=1)
    stacked = row("merged, stacked", (0.5, 0.5), "merged", True, load=3.0, resident=7, gpu=9, file=1)
    own = row("in sequence", (4.0, 4.0), "sequence", load=2.0, resident=300, gpu=80, file=70)
    both = report([own, slow, fast, stacked], paired=False)
    verdict, other = of_bench(both), of_bench(both, "merged, stacked")
    assert verdict and other
    memory, call = verdict.row(Question.MEMORY), other.row(Question.ALL)
    assert memory and (memory.merged, memory.sessions) == (8, 80)
    assert call and (call.merged, call.ratio) == (0.5, 8.0)


def test_the_ratio_is_that_of_the_medians() -> None:
    found = ratio([3.0, 2.0, 9.0], [1.0, 2.0, 9.0])
    assert (found.median, found.low, found.high, found.samples) == (1.5, 1.0, 2.0, 3)
