"""The choice of the next call: a pure function of what waits, of costs and of the time."""

from __future__ import annotations

import copy
import random
from collections.abc import Hashable, Sequence

import pytest
from simulated import FORM, OneByOne, Ours, arrivals, recorded, simulate

from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts, given, size_of
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.merges import merges_from
from netfuse_onnx.runtime.schedule import BEHIND, Later, Limits, Load, Waiting, choose, merges_all
from netfuse_onnx.runtime.types import Call, Io, Request
from netfuse_onnx.runtime.ways import GAIN

CHEAP = given("stacked", 4, {1: 1.0, 64: 64.0}, {1: 1.5, 8: 12.0})
"""Rows cost as much in a batch as one by one, and a merged call as much as one and a half rows."""


def waiting(*requests: tuple[int, float], rows: int = 1, form: Hashable = FORM) -> Waiting:
    """Requests as (model, arrival), in the order of arrival."""
    queue = Waiting()
    for model, arrived in sorted(requests, key=lambda request: request[1]):
        queue.add(Request(model, (), rows, form, arrived))
    return queue


def depths(*rows: int) -> Waiting:
    """Requests of one row: so many of each model, in turns."""
    turns = [(m, turn) for turn in range(max(rows)) for m, depth in enumerate(rows) if turn < depth]
    return waiting(*((model, float(place)) for place, (model, _) in enumerate(turns)))


# --------------------------------------------------------------------------- single choices


def test_nothing_waits() -> None:
    assert choose(Waiting(), CHEAP, 0.0, Limits()) is None


def test_one_request_runs_on_its_own_session() -> None:
    assert choose(waiting((2, 0.0)), CHEAP, 0.0, Limits()) == Call("alone", FORM, ((2, 1),))


def test_enough_models_share_a_call() -> None:
    call = choose(waiting((0, 0.0), (1, 0.1), (3, 0.2)), CHEAP, 1.0, Limits())
    assert call == Call("merged", FORM, ((0, 1), (1, 1), (3, 1)))


def test_workers_side_by_side_make_own_sessions_worth_more() -> None:
    queue = depths(1, 1, 1)
    assert choose(queue, CHEAP, 9.0, Limits(), load=Load(1)).kind == "merged"
    assert choose(queue, CHEAP, 9.0, Limits(), load=Load(2)).kind == "alone"
    assert choose(depths(*[1] * 8), CHEAP, 9.0, Limits(), load=Load(2)).kind == "merged"


def test_a_model_that_is_kept_out_runs_by_itself_only() -> None:
    queue = depths(1, 1, 1, 1)
    assert choose(queue, CHEAP, 9.0, Limits(), kept_out={0}) == Call("alone", FORM, ((0, 1),))
    assert choose(queue, CHEAP, 9.0, Limits(), kept_out={2}) == Call("merged", FORM, ((0, 1), (1, 1), (3, 1)))
    assert choose(queue, CHEAP, 9.0, Limits(), kept_out={1, 2, 3}) == Call("alone", FORM, ((0, 1),))


def test_without_own_sessions_every_call_is_merged() -> None:
    limits = Limits(own_sessions=False)
    assert choose(waiting((2, 0.0)), CHEAP, 0.0, limits) == Call("merged", FORM, ((2, 1),))
    wide = waiting((1, 0.0), rows=4)
    assert choose(wide, CHEAP, 0.0, limits) == Call("merged", FORM, ((1, 1),))
    assert choose(depths(1, 1), CHEAP, 0.0, limits, kept_out={0}) == Call("alone", FORM, ((0, 1),))


def test_only_requests_of_the_oldest_form_run() -> None:
    queue = depths(1, 1, 1)
    for model in range(3):
        queue.add(Request(model, (), 1, ("other",), -1.0 + model / 8))
    call = choose(queue, CHEAP, 9.0, Limits())
    assert call.form == ("other",) and call.kind == "merged"


def test_rows_that_are_not_apart_never_share_a_batch() -> None:
    free = given("stacked", 4, {1: 1.0, 64: 1.01}, {1: 1.5, 8: 1.51})
    limits = Limits(rows_apart=False)
    assert choose(depths(5), free, 9.0, limits) == Call("alone", FORM, ((0, 1),))
    assert choose(depths(5, 3, 1), free, 9.0, limits) == Call("merged", FORM, ((0, 1), (1, 1), (2, 1)))
    wide = waiting((0, 0.0), (0, 1.0), (1, 2.0), (2, 3.0), rows=4)
    assert choose(wide, free, 9.0, limits) == Call("merged", FORM, ((0, 1), (1, 1), (2, 1)))
    wide = waiting((0, 0.0), (0, 1.0), (1, 2.0), (2, 3.0), rows=9)
    assert choose(wide, free, 9.0, limits) == Call("alone", FORM, ((0, 1),))


def test_a_request_with_more_rows_than_a_merged_call_takes_runs_on_its_own_session() -> None:
    queue = waiting((0, 0.0), rows=9)
    for model in (1, 2, 3):
        queue.add(Request(model, (), 1, FORM, float(model)))
    assert choose(queue, CHEAP, 9.0, Limits()) == Call("alone", FORM, ((0, 1),))
    queue.take(Call("alone", FORM, ((0, 1),)))
    queue.add(Request(0, (), 9, FORM, 4.0))
    assert choose(queue, CHEAP, 9.0, Limits()) == Call("merged", FORM, ((1, 1), (2, 1), (3, 1)))


def test_waiting_on_purpose_has_an_end() -> None:
    queue = waiting((1, 5.0))
    assert choose(queue, CHEAP, 5.25, Limits(max_wait=0.5)) == Later(5.5)
    assert choose(queue, CHEAP, 5.5, Limits(max_wait=0.5)) == Call("alone", FORM, ((1, 1),))
    assert choose(queue, CHEAP, 5.25, Limits(max_wait=0.5), kept_out={1}) == Call("alone", FORM, ((1, 1),))
    assert choose(depths(1, 1, 1), CHEAP, 0.1, Limits(max_wait=9.0)).kind == "merged"


def test_a_hot_model_runs_its_batch_before_the_others_share_a_call() -> None:
    """Rows cost nearly nothing in a batch: 30 of one model run first, and the merged call stays small."""
    costs = given("stacked", 8, {1: 1.0, 64: 1.5}, {1: 2.0, 8: 8.0})
    queue = depths(30, 1, 1, 1, 1, 1, 1, 1)
    first = choose(queue, costs, 99.0, Limits())
    assert first == Call("alone", FORM, ((0, 30),))
    queue.take(first)
    assert choose(queue, costs, 99.0, Limits()).taken == tuple((m, 1) for m in range(1, 8))


# --------------------------------------------------------------------------- brute force


def cost_tables(draw: random.Random, io: Io) -> MeasuredCosts:
    """Draw costs of up to four models: batches from free to as dear as their rows, merged calls of any price."""
    own = sorted(draw.uniform(1, 4) for _ in range(3))
    merged = sorted(draw.uniform(0.5, 9) for _ in range(3))
    sizes = (1, 2, 4)
    curves = {1: Curve(dict(zip(sizes, merged, strict=True)))}
    if io == "selected":
        curves[4] = Curve(dict(zip(sizes, sorted(draw.uniform(3, 20) for _ in sizes), strict=True)))
    times = FormTimes(io, 4, Curve(dict(zip(sizes, own, strict=True))), curves)
    return MeasuredCosts(io, 4, {FORM: times}, size_of)


def own_calls(costs: MeasuredCosts, rows: int, most: int) -> tuple[float, float]:
    """Return the seconds of an own session that serves so many rows in the batches that cost least by the row."""
    sizes = [size for size in (1, 2, 4, 8, rows) if size <= min(rows, most)]
    each = min(sizes, key=lambda size: costs.alone(FORM, size) / size)
    return rows * costs.alone(FORM, each) / each, costs.alone(FORM, each)


def last_answer(costs: MeasuredCosts, left: Sequence[int], rows: int, calls: int, workers: int) -> float:
    """Return when the last answer comes, call by call."""
    left, seconds = list(left), [0.0]
    total = 0.0
    for _ in range(calls):
        took = {m: min(rows, depth) for m, depth in enumerate(left) if depth}
        most = max(rows, *took.values()) if took else 0
        if took:
            times = costs.of(FORM).merged(len(took), most, sum(took.values())) * GAIN
            total, seconds = total + times, [*seconds, times]
            left = [depth - took.get(m, 0) for m, depth in enumerate(left)]
    for depth in left:
        if depth:
            own, each = own_calls(costs, depth, 64)
            total, seconds = total + own, [*seconds, each]
    return max(*seconds, total / workers)


@pytest.mark.parametrize("io", ["stacked", "selected", "index"])
def test_the_choice_is_the_best_of_all_ways(io: Io) -> None:
    """Small states, all ways: a merged call is chosen exactly where the best way has one, with its rows."""
    draw, kinds = random.Random(5), set()
    for _ in range(400):
        costs, workers = cost_tables(draw, io), draw.choice([1, 2, 3])
        rows = [draw.randint(1, 3) for _ in range(draw.randint(1, 4))]
        call = choose(depths(*rows), costs, 99.0, Limits(), load=Load(workers))
        deepest = max(rows)
        ways = {(0, 0): last_answer(costs, rows, 0, 0, workers)}
        for units in sorted({1, min(2, deepest), deepest}):
            for calls in range(1, -(-deepest // units) + 1):
                ways[units, calls] = last_answer(costs, rows, units, calls, workers)
        best = min(ways.values())
        fitting = {way for way, end in ways.items() if end <= best * (1 + 1e-9)}
        if call.kind == "merged":
            most = max(count for _, count in call.taken)
            assert any(units >= most and calls for units, calls in fitting)
            assert {model for model, _ in call.taken} == set(range(len(rows)))
        else:
            assert any(not calls or units * calls < rows[0] for units, calls in fitting)
        kinds.add(call.kind)
    assert kinds == {"alone", "merged"}


@pytest.mark.parametrize("io", ["stacked", "selected", "index"])
def test_the_short_cut_answers_as_the_choice_does(io: Io) -> None:
    """It is for requests of one model each, with equal rows: `merges_all` and `choose` are one decision."""
    draw, found = random.Random(8), []
    for _ in range(400):
        costs, models, rows = cost_tables(draw, io), draw.randint(1, 4), draw.randint(1, 9)
        limits = Limits(rows_apart=draw.random() < 0.5, own_sessions=draw.random() < 0.8)
        queue = waiting(*((model, float(model)) for model in range(models)), rows=rows)
        call = choose(queue, costs, 9.0, limits)
        joined = merges_all(costs.of(FORM), models, rows, limits)
        if rows <= limits.max_rows:
            assert joined == (call.kind == "merged" and len(call.taken) == models)
        found.append(joined)
    assert 20 < sum(found) < 380


def test_a_batch_grows_while_those_behind_gain_more_than_it_loses() -> None:
    """Counted one by one: the end of each row in the batch, and of each that waits behind it."""
    draw, taken = random.Random(3), set()
    for _ in range(300):
        times = sorted(draw.uniform(1, 8) for _ in range(3))
        costs = given("stacked", 1, dict(zip((1, 2, 4), times, strict=True)), {1: 1e9})
        depth = draw.randint(1, 4)
        behind = draw.randint(0, 6)
        queue = depths(depth)
        for place in range(behind):
            queue.add(Request(1, (), 1, FORM, 100.0 + place))
        ((_, count),) = choose(queue, costs, 999.0, Limits()).taken
        few = more = 1
        while more < depth:
            more = min(2 * more, depth)
            both, others = costs.alone(FORM, more), BEHIND * (depth + behind - more)
            apart = now = 0.0
            for start in range(0, more, few):
                size = min(few, more - start)
                now += costs.alone(FORM, size)
                apart += size * now
            if more * both + others * both <= apart + others * now:
                few = more
        assert count == few
        taken.add(count)
    assert len(taken) >= 3


# --------------------------------------------------------------------------- any state


def random_queue(draw: random.Random) -> Waiting:
    queue = Waiting()
    for place in range(draw.randint(1, 30)):
        rows, form = draw.choice([1, 1, 1, 2, 5, 9]), draw.choice([("a", 4), ("b", 9)])
        queue.add(Request(draw.randrange(6), (), rows, form, place + draw.random()))
    return queue


@pytest.mark.parametrize("io", ["stacked", "selected", "index"])
def test_any_call_has_the_oldest_request_and_keeps_the_limits(io: Io) -> None:
    draw = random.Random(7)
    for _ in range(300):
        queue, costs = random_queue(draw), cost_tables(draw, io)
        limits = Limits(max_rows=draw.choice([1, 4, 8]), max_batch=draw.choice([4, 64]))
        kept_out = set(draw.sample(range(6), draw.randint(0, 3)))
        oldest = min(queue, key=lambda request: request.arrived)
        before = {id(request) for request in queue}
        lines = copy.copy({m: list(line.requests) for m, line in queue.lines[oldest.form].items()})
        asked = [
            choose(queue, costs, 50.0, limits, kept_out=kept_out, load=Load(draw.choice([1, 2])))
            for _ in "ab"
        ]
        call = asked[0]
        assert {id(request) for request in queue} == before, "a choice changes nothing"
        taken = queue.take(call)
        assert oldest in taken and all(request.form == call.form for request in taken)
        for model, count in call.taken:
            assert [r for r in taken if r.model == model] == lines[model][:count]
            most = limits.max_batch if call.kind == "alone" else limits.max_rows
            assert count == 1 or sum(r.rows for r in lines[model][:count]) <= most
        if call.kind == "merged":
            assert not kept_out & {model for model, _ in call.taken}
            assert max(request.rows for request in taken) <= limits.max_rows
        else:
            assert len(call.taken) == 1
        assert len(queue) == len(before) - len(taken) and queue.rows == sum(r.rows for r in queue)


@pytest.mark.parametrize(("family", "kind"), [("policy", "zipf"), ("lora", "uniform"), ("mobilenet", "zipf")])
@pytest.mark.parametrize(("workers", "max_wait"), [(1, 0.0), (2, 0.0), (2, 0.5)])
def test_the_time_that_a_request_waits_is_bounded_by_the_requests_before_it(
    family: str, kind: str, workers: int, max_wait: float
) -> None:
    costs = recorded(family)
    rate = 6 * workers / costs.alone(FORM, 1)
    requests = arrivals(rate, 1500, kind, costs.models, seed=4, mixed=True)
    served = simulate(requests, Ours(costs, Limits(max_wait=max_wait), workers), workers)
    assert len(served.ahead) == len(served.latencies) == len(requests) - served.refused
    assert all(calls <= ahead for calls, ahead in served.ahead)
    for latency, (_, ahead) in zip(served.latencies, served.ahead, strict=True):
        assert latency <= max_wait + (ahead / workers + 2) * served.longest
    assert any(ahead > 20 for _, ahead in served.ahead)


def test_what_is_asked_of_the_queue_does_not_grow_with_models_that_wait_for_nothing() -> None:
    queue = depths(*[2] * 1000)
    for model in range(20, 1000):
        queue.take(Call("alone", FORM, ((model, 2),)))
    assert list(queue.lines[FORM]) == list(range(20)) and len(queue) == queue.rows == 40


def test_a_cancelled_request_leaves_its_line() -> None:
    queue = waiting((0, 0.0), (0, 1.0), (1, 2.0))
    first, second, third = list(queue)
    assert queue.remove(first) and not queue.remove(first)
    assert choose(queue, CHEAP, 9.0, Limits(max_batch=1)) == Call("alone", FORM, ((0, 1),))
    assert queue.lines[FORM][0].arrived == 1.0
    assert queue.remove(third) and queue.remove(second)
    assert not queue.lines and not len(queue) and not queue.rows


# --------------------------------------------------------------------------- the report's figure


def test_from_how_many_waiting_models_on_a_merged_call_pays() -> None:
    """A call of all models has the work of one as well: it never counts as less than that."""
    own = {1: 1.0}
    for merged, wanted in ((0.5, 2), (1.4, 2), (3.0, 5), (6.0, None)):
        costs = given("stacked", 8, own, {1: merged})
        assert merges_from(costs, 8) == wanted
    assert merges_from(given("stacked", 8, own, {1: 3.0}), 8, workers=2) is None
    assert merges_from(given("index", 8, own, {1: 0.3, 8: 2.4}), 8) == 1


def test_a_simulation_by_hand() -> None:
    """Two requests at once, one after them: one by one they end after 1, 2 and 3 seconds."""
    costs = given("stacked", 4, {1: 1.0, 64: 64.0}, {1: 9.0})
    requests = [Request(m, (), 1, FORM, at) for m, at in ((0, 0.0), (1, 0.0), (2, 0.5))]
    served = simulate(requests, OneByOne(costs), 1)
    assert served.latencies == [1.0, 2.0, 2.5] and served.load == 1.0
    assert simulate(requests, OneByOne(costs), 2).latencies == [1.0, 1.0, 1.5]
