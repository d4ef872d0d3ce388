"""Chooses the next call: a pure function of what waits, what calls cost, and the time.

A free worker asks once. It runs one of

    the own session    requests of the model whose request is oldest, up to max_batch rows
    a merged call      requests of all waiting models of the oldest request's form, up to max_rows rows of
    each

**Which of them.** Compared are ways to serve all requests of that form which wait: r rows of each model in
each of some merged calls, the rest on own sessions. The way whose last answer comes first is chosen, where
the seconds of merged calls count GAIN times. With several workers the last answer comes after the longest
call at the earliest, so a merged call must beat own sessions that run side by side. A comparison of requests
per second alone can't see that: in simulation it had a p99 up to 1.4 times that of batches of each model
with two workers, and up to 1.8 times where one model has most of the requests, whose batch costs little more
than one of them.

**How many rows on an own session.** The most of 1, 2, 4 and so on with which those who wait behind gain more
time together than those in the batch lose (`_batch`). Where rows cost little that is all of them; where a
batch costs as much as its rows one by one it is one, and nobody waits for the rows of others.

**On how many cores.** Calls run side by side, each on a few cores, because that serves most. A call that has
the machine for itself ends sooner on all of them. So an own call that starts while no other runs is *wide*
where that shortens the sum of all waiting times (`_is_wide`): as a rule where little waits and few arrive.
For one caller who waits for all answers the last one counts.

**Oldest first.** Every call takes the oldest request of all, and no worker is idle while one waits, but
beside a wide call. So a request starts after at most as many calls as there were requests before it, as if
they were served one by one: with Q before it, calls of at most T seconds and w workers within
max_wait + (Q / w + 1) T seconds, and 2 T more where calls are wide.

The queue hands over `Waiting`: a line for each form and model that waits, and nothing for the others, so
that a choice costs as much for 20 waiting models of 1,000 as for 20 of 20.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

from netfuse_onnx.runtime.limits import NO_LOAD, Limits, Load
from netfuse_onnx.runtime.types import Call, Costs, FormCosts
from netfuse_onnx.runtime.waiting import Line, Waiting
from netfuse_onnx.runtime.ways import GAIN, Ways

__all__ = ["Later", "Limits", "Load", "Waiting", "choose"]

BEHIND = 2
"""A row that waits behind a batch stands for so many that gain from its early end: itself, and one that comes
meanwhile."""


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing runs now. Ask again at this time, or when a request arrives."""

    at: float


def choose(
    waiting: Waiting,
    costs: Costs,
    now: float,
    limits: Limits,
    *,
    kept_out: Collection[int] = (),
    load: Load = NO_LOAD,
) -> Call | Later | None:
    """Return the call that a free worker runs now, the time at which to look again, or None where nothing
    waits.

    `now` is in seconds of the clock of `Request.arrived`. `kept_out` has the models that take no part in
    merged calls.
    """
    if not waiting.lines:
        return None
    form, model = _oldest(waiting.lines)
    lines, times = waiting.lines[form], costs.of(form)
    line = lines[model]
    if model not in kept_out and (line.first <= limits.max_rows or not limits.own_sessions):
        if _is_too_little(waiting.rows, times, limits):
            most = 0
        else:
            most = _merged_rows(line, Ways(lines, times, limits, kept_out, load.workers), limits)
        if most:
            most = max(most, line.first)  # more only where there are no own sessions
            return Call("merged", form, _together(lines, most, limits, kept_out))
        if limits.max_wait > 0 and now < line.arrived + limits.max_wait:
            return Later(line.arrived + limits.max_wait)
    most = max(_batch(line.rows, waiting.rows, times, limits.max_batch), line.first)
    wide = limits.own_sessions and _is_wide(waiting, most, times, load)
    return Call("alone", form, ((model, line.fitting(most, limits.rows_apart)),), wide)


def _is_too_little(rows: int, times: FormCosts, limits: Limits) -> bool:
    """Return True where even one row after the other on own sessions ends before the smallest merged call
    would: most choices are made when little waits, and this takes a tenth of the time of all ways."""
    if not (limits.own_sessions and limits.rows_apart and times.runs_all):
        return False
    return rows * times.alone(1) <= GAIN * times.merged(0, 1, 0)


def merges_all(times: FormCosts, models: int, rows: int, limits: Limits) -> bool:
    """Return True where `choose` with one worker takes requests of so many models, one of each and each of so
    many rows, in one merged call. It is quicker than to ask `choose`."""
    if rows > limits.max_rows:
        return False
    if not limits.own_sessions:
        return True
    own = times.served(rows, limits.max_batch)[0] if limits.rows_apart else times.alone(rows)
    return GAIN * times.merged(models, rows, models * rows) < models * own


def _oldest(lines: Mapping[Hashable, Mapping[int, Line]]) -> tuple[Hashable, int]:
    """Return the form and model of the oldest request; of several, the first."""
    arrived, found = float("inf"), None
    for form, of_form in lines.items():
        for model, line in of_form.items():
            if line.arrived < arrived or found is None:
                arrived, found = line.arrived, (form, model)
    assert found is not None
    return found


def _merged_rows(oldest: Line, ways: Ways, limits: Limits) -> int:
    """Return the most rows of a model in the merged call that runs now, or 0 where the own session of the
    oldest request does.

    It runs first where it must run anyway, and serves more rows per second than the merged calls.
    """
    way = ways.best()
    if not way.calls or not limits.own_sessions or not limits.rows_apart:
        return way.units * ways.unit if way.calls else 0
    if oldest.first > way.units:
        return 0
    if oldest.rows > way.units * way.calls and ways.serves_faster(oldest, way):
        return 0
    return way.units


def _batch(rows: int, waiting: int, times: FormCosts, most: int) -> int:
    """Return how many of a line's rows an own call takes: 1, 2, 4 and so on, or all that it may.

    A call of `more` rows, in place of calls of `few` and one of the rest after them, ends earlier by `saved`.
    That is what everyone behind gains. The first rows wait for the others. All sizes are looked at: times
    are measured, and one of a few rows that seems too long must hide none of many.
    """
    few = more = 1
    most = min(rows, most)
    while more < most:
        more = min(2 * more, most)
        calls, rest = divmod(more, few)
        each, last, both = times.alone(few), times.alone(rest) if rest else 0.0, times.alone(more)
        saved = calls * each + last - both
        ends = few * each * calls * (calls + 1) / 2 + rest * (calls * each + last)
        if BEHIND * saved * (waiting - more) >= more * both - ends:
            few = more
    return few


def _is_wide(waiting: Waiting, most: int, times: FormCosts, load: Load) -> bool:
    """Return True where calls of so many rows are better run one after the other on all cores than side by
    side.

    One after the other, the k-th of c calls ends after k wide ones. Where one caller waits for all, the last
    end counts; else all ends together. Requests that arrive meanwhile wait as well, which a free worker would
    have served at once: as many as arrive in the seconds of all calls, each for as long. (Half as long is
    right while they are few; as much makes up for those that arrive in clusters.)
    """
    wide, beside = times.wide(most), times.alone(most)
    if load.running or wide >= beside:
        return False
    every = [line for lines in waiting.lines.values() for line in lines.values()]
    calls = sum([-(-line.rows // max(most, line.first)) for line in every])
    rounds, rest = divmod(calls, load.workers)
    if load.one_caller:
        return calls * wide < (rounds + (rest > 0)) * beside
    ends_wide = wide * calls * (calls + 1) / 2
    ends_beside = beside * (load.workers * rounds * (rounds + 1) / 2 + rest * (rounds + 1))
    return ends_wide + load.rate * (calls * wide) ** 2 < ends_beside


def _together(
    lines: Mapping[int, Line], most: int, limits: Limits, kept_out: Collection[int]
) -> tuple[tuple[int, int], ...]:
    """Return the requests of a merged call with so many rows of each model: (model, requests)."""
    apart = limits.rows_apart
    return tuple(
        [
            (m, line.fitting(most, apart))
            for m, line in lines.items()
            if line.first <= most and m not in kept_out
        ]
    )
