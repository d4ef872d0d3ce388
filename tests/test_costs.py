"""The times of calls: measured within a time, interpolated, and moved by calls that run."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from netfuse_onnx.runtime.costs import MOST_FORMS, FormTimes, MeasuredCosts, given, size_of
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.timing import GUESS, measured
from netfuse_onnx.runtime.types import Io, Kind
from netfuse_onnx.runtime.ways import GAIN


class Form(NamedTuple):
    sizes: tuple[int, ...]
    once: bytes = b""


FORM = Form((4,))


class Machine:
    """A machine with a clock of its own: calls take what `seconds` says, and every seventh ten times as much."""

    def __init__(self, seconds: Callable[[Kind, Mapping[int, int]], float], noisy: bool = False) -> None:
        self.now, self.seconds, self.noisy = 100.0, seconds, noisy
        self.ran: list[tuple[Kind, Hashable, dict[int, int]]] = []

    def run(self, kind: Kind, form: Hashable, rows: Mapping[int, int]) -> None:
        self.ran.append((kind, form, dict(rows)))
        slow = self.noisy and len(self.ran) % 7 == 1
        self.now += self.seconds(kind, rows) * (10 if slow else 1)

    def clock(self) -> float:
        return self.now


def seconds_of(io: Io, own: float = 1e-3, models: int = 8) -> Callable[[Kind, Mapping[int, int]], float]:
    """Return a machine's times: half a call of overhead, half for each row or model that runs."""

    def seconds(kind: Kind, rows: Mapping[int, int]) -> float:
        if kind == "alone":
            units: float = sum(rows.values())
        elif io == "index":
            units = sum(rows.values()) / 2
        else:
            units = max(rows.values()) * (len(rows) if io == "selected" else models) / 2
        return own * (0.5 + 0.5 * units)

    return seconds


@pytest.mark.parametrize("io", ["stacked", "selected", "index", "slots", "separate"])
def test_times_are_found_for_any_rows(io: Io) -> None:
    machine = Machine(seconds_of(io), noisy=True)
    costs = measured(machine.run, [FORM], io, 8, seconds=100.0, clock=machine.clock)
    draw = random.Random(1)
    for _ in range(50):
        rows = draw.randint(1, 64)
        assert costs.alone(FORM, rows) == pytest.approx(machine.seconds("alone", {0: rows}))
        rows_of = {m: draw.randint(1, 8) for m in draw.sample(range(8), draw.randint(1, 8))}
        assert costs.merged(FORM, rows_of) == pytest.approx(machine.seconds("merged", rows_of))


@pytest.mark.parametrize("io", ["stacked", "selected", "index"])
@pytest.mark.parametrize("own", [1e-5, 1e-3, 0.05, 0.4])
def test_measuring_ends_in_time_and_begins_with_what_is_cheap(io: Io, own: float) -> None:
    machine = Machine(seconds_of(io, own))
    costs = measured(machine.run, [FORM], io, 8, seconds=1.0, clock=machine.clock)
    assert machine.now - 100.0 <= 1.0
    assert machine.ran[0] == ("alone", FORM, {0: 1})
    assert costs.alone(FORM, 1) == pytest.approx(own)
    if own < 0.4:
        assert {kind for kind, _, _ in machine.ran} == {"alone", "merged"}


def test_a_merged_call_that_was_never_timed_is_tried_when_most_models_wait() -> None:
    machine = Machine(seconds_of("stacked", own=2.0))
    costs = measured(machine.run, [FORM], "stacked", 8, seconds=1.0, clock=machine.clock)
    assert len(machine.ran) == 1
    assert costs.merged(FORM, {0: 1}) == pytest.approx(GUESS * 8 * 2.0)


def test_no_model_has_all_rows_where_rows_are_routed() -> None:
    machine = Machine(seconds_of("index"))
    measured(machine.run, [FORM], "index", 4, max_batch=8, seconds=9.0, clock=machine.clock)
    assert ("merged", FORM, {0: 2, 1: 2, 2: 2, 3: 2}) in machine.ran
    assert ("merged", FORM, {0: 1, 1: 1}) in machine.ran


@pytest.mark.parametrize("kind", ["alone", "merged"])
@pytest.mark.parametrize("io", ["stacked", "selected", "index"])
def test_estimates_follow_the_machine_and_no_outlier(kind: Kind, io: Io) -> None:
    machine = Machine(seconds_of(io))
    costs = measured(machine.run, [FORM], io, 8, seconds=100.0, clock=machine.clock)
    rows = {0: 4} if kind == "alone" else {0: 4, 1: 1}
    true = machine.seconds(kind, rows)
    asked = (lambda: costs.alone(FORM, 4)) if kind == "alone" else (lambda: costs.merged(FORM, rows))
    costs.saw(FORM, kind, rows, 1000 * true)
    assert asked() <= 1.06 * true
    for turn in range(400):
        costs.saw(FORM, kind, rows, true * (2.0 if turn % 20 else 50.0))
    assert asked() == pytest.approx(2 * true, rel=0.1)


def test_nonsense_moves_nothing() -> None:
    costs = given("stacked", 2, {1: 1.0}, {1: 1.0})
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        costs.saw(FORM, "alone", {0: 1}, seconds)
    costs.saw(FORM, "alone", {}, 5.0)
    assert costs.alone(FORM, 1) == 1.0


def test_merged_calls_that_seemed_too_slow_are_tried_again() -> None:
    """Merged calls were slow for a while, so the scheduler takes none; they are fast again. It finds out, and what
    it tries costs next to nothing where they stay slow."""
    for true, wanted in ((2.0, 2.0), (8.0, 8.0)):
        costs = given("stacked", 8, {1: 1.0}, {1: 2.0})
        for _ in range(100):
            costs.saw((), "merged", {0: 1}, 8.0)
        assert costs.merged((), {0: 1}) == pytest.approx(8.0, rel=0.1)
        tried = 0
        for _ in range(20_000):
            if GAIN * costs.merged((), {0: 1}) < 8 * costs.alone((), 1):
                costs.saw((), "merged", {0: 1}, true)
                tried += 1
            else:
                costs.saw((), "alone", {0: 1}, 1.0)
        assert (tried > 5000) if true == 2.0 else (1 <= tried < 20)
        costs.saw((), "merged", {0: 1}, true)
        assert costs.merged((), {0: 1}) == pytest.approx(wanted, rel=0.05)


def test_a_machine_that_changes_is_followed_at_once_but_not_for_one_slow_call() -> None:
    costs = given("stacked", 8, {1: 1.0}, {1: 2.0, 8: 16.0})
    for seconds in (20.0, 2.0, 20.0, 20.0, 2.0):
        costs.saw((), "merged", {0: 1}, seconds)
    assert costs.merged((), {0: 1}) < 2.4
    for _ in range(12):
        costs.saw((), "merged", {0: 1}, 20.0)
    assert costs.merged((), {0: 1}) == pytest.approx(20.0, rel=0.35)
    assert costs.merged((), {0: 8}) > 64.0 and costs.alone((), 1) == 1.0


def test_batches_that_seemed_too_slow_are_tried_again() -> None:
    """The machine was busy when batches were timed, so that none is taken. It finds out; where they are slow, what it
    tries is next to nothing."""
    for true, few in ((4.0, False), (12.0, True)):
        costs = given("stacked", 8, {1: 1.0, 8: 16.0, 64: 200.0}, {1: 1e9})
        tried = 0
        for _ in range(20_000):
            if costs.alone((), 8) < 8 * costs.alone((), 1):
                costs.saw((), "alone", {0: 8}, true)
                tried += 1
            else:
                costs.saw((), "alone", {0: 1}, 1.0)
        assert (1 <= tried < 30) if few else tried > 10_000
        assert few or costs.alone((), 8) == pytest.approx(true, rel=0.05)
        assert costs.alone((), 1) == pytest.approx(1.0) and costs.alone((), 64) >= costs.alone((), 8)


def test_times_that_were_right_lately_do_not_move_with_the_others() -> None:
    """Batches take three times as long as it seemed; single rows are known well. Once they came first."""
    costs = given("stacked", 8, {1: 1.0, 8: 2.0, 64: 4.0}, {1: 100.0})
    for _ in range(20):
        costs.saw((), "alone", {0: 1}, 1.0)
    for turn in range(60):
        rows, seconds = ((8, 6.0), (64, 12.0))[turn % 2]
        costs.saw((), "alone", {0: rows}, seconds)
    assert costs.alone((), 1) == 1.0
    assert costs.alone((), 8) == pytest.approx(6.0, rel=0.35)
    assert costs.alone((), 64) == pytest.approx(12.0, rel=0.35)
    for _ in range(150):
        costs.saw((), "alone", {0: 8}, 6.0)
    for _ in range(8):
        costs.saw((), "alone", {0: 8}, 60.0)
    assert costs.alone((), 1) > 3.0, "that of single rows is old by now"


def test_a_new_form_is_estimated_by_its_size_and_learns_fast() -> None:
    times = {Form((16,)): FormTimes("stacked", 4, Curve({1: 1.0, 2: 2.0}), {1: Curve({1: 3.0})})}
    costs = MeasuredCosts("stacked", 4, times, size_of)
    assert costs.alone(Form((64,)), 2) == 8.0 and costs.merged(Form((8,)), {0: 1}) == 1.5
    for _ in range(15):
        costs.saw(Form((64,)), "alone", {0: 1}, 10.0)
    assert costs.alone(Form((64,)), 1) == pytest.approx(10.0, rel=0.05)
    assert costs.merged(Form((64,)), {0: 1}) == pytest.approx(30.0, rel=0.1)
    assert costs.alone(Form((16,)), 1) == 1.0


def test_bytes_that_all_requests_share_make_no_form_of_their_own() -> None:
    costs = given("stacked", 2, {1: 1.0}, {1: 1.0})
    for number in range(1000):
        costs.saw(Form((4,), bytes(number)), "alone", {0: 1}, 2.0)
    assert costs.alone(Form((4,), b"other"), 1) == pytest.approx(2.0, rel=0.05)


def test_forms_are_forgotten_but_the_measured_one() -> None:
    times = {Form((4,)): FormTimes("stacked", 4, Curve({1: 1.0}), {1: Curve({1: 3.0})})}
    costs = MeasuredCosts("stacked", 4, times, size_of)
    for size in range(5, 2000):
        costs.alone(Form((size,)), 1)
    assert len(costs._times) <= 256
    assert costs.alone(Form((4,)), 1) == 1.0


def test_lines_between_the_sizes_and_behind_them() -> None:
    curve = Curve({2: 2.0, 4: 3.0})
    assert [curve(size) for size in (1, 2, 3, 4, 6)] == [2.0, 2.0, 2.5, 3.0, 4.0]
    assert Curve({2: 2.0})(6) == 6.0
    assert Curve({1: 5.0, 2: 4.0})(4) == 8.0  # it can't become cheaper for ever


def test_rows_are_served_in_the_batches_that_cost_least() -> None:
    times = FormTimes("stacked", 2, Curve({1: 1.0, 2: 1.5, 4: 4.0}), {1: Curve({1: 1.0})})
    assert times.served(8, 64) == (6.0, 1.5)
    assert times.served(8, 1) == (8.0, 1.0)
    assert times.served(1, 64) == (1.0, 1.0)


def test_threads_may_ask_for_more_forms_than_are_kept() -> None:
    known = MeasuredCosts(
        "stacked", 4, {(1,): FormTimes("stacked", 4, Curve({1: 1e-3}), {1: Curve({1: 2e-3})})}, size_of
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(500):
            size = draw.randint(1, 3 * MOST_FORMS)
            assert known.of((size,)).alone(1) == pytest.approx(size * 1e-3)

    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(ask, range(4)))
    finally:
        sys.setswitchinterval(before)
    assert len(known.forms()) <= MOST_FORMS + 4
