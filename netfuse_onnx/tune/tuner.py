"""Tunes the cost of a family: measures its lowerings where there is a choice, most expensive first."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from netfuse_onnx.errors import InternalError
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.search import solved
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.run import hardware
from netfuse_onnx.run.runtime import RunFailed, Runtime
from netfuse_onnx.storage.weights import nbytes
from netfuse_onnx.tune import frame
from netfuse_onnx.tune.cache import Cache, about
from netfuse_onnx.tune.clock import Clock
from netfuse_onnx.tune.measuring import Measurer
from netfuse_onnx.tune.survey import Group, Survey, recall, surveyed, wanted
from netfuse_onnx.tune.tuned import Summary, Tuned
from netfuse_onnx.types import Correspondence

SECONDS = 60.0
"""The default budget of a tuning."""
SAVED = 10.0
"""The seconds after which new times are written to the cache, so that a run that is killed loses few."""
MOST_AT_STAKE = 0.98
"""The part of the predicted time whose lowerings are all measured. Of the others, those that plans use."""
HOPES = (0.5, 1.0)
"""A plan is chosen as if what was not measured took half the time that is expected, and what it uses is
measured, until it uses nothing else; then as if it took the expected time."""

Progress = Callable[[str, int, int], None]


def tuned(
    family: Correspondence,
    *,
    io: str = "separate",
    share: frozenset[str] = frozenset(),
    runtime: Runtime,
    dims: Mapping[str, int] | None = None,
    seconds: float = SECONDS,
    threads: int = 0,
    tell: Progress = lambda what, done, total: None,
    cache: bool = True,
    target: str = "",
) -> Tuned:
    """The cost of a plan for this machine; its `summary` says how much of it was measured.

    `threads`: those of a session, by default as many as there are cores. `seconds`: the time after which
    nothing more is measured. With `cache`, times of earlier runs are used and new ones kept. `target`: whose
    constants predict what is not measured, by default those of the provider.
    """
    start = time.monotonic()
    base = cost(target or runtime.provider, family, dims or {})
    if not isinstance(base, Timed):
        raise InternalError(f"the target {runtime.provider} has no cost in microseconds")
    threads = threads or hardware.cores()
    survey = surveyed(family, io, share, base)
    store = Cache(about(runtime, threads)) if cache else None
    times = Times(store.read() if store else {}, store)
    recall(survey, times.known)
    if seconds > 0:
        measure(survey, times, Clock(runtime, threads), start + seconds, tell)
    return _answer(survey, times, time.monotonic() - start)


def _answer(survey: Survey, times: Times, seconds: float) -> Tuned:
    used = {key: times.known[key] for key in survey.entries if key in times.known}
    fresh = sum(key in times.fresh for key in used)
    summary = Summary(fresh, len(used) - fresh, len(survey.entries) - len(used), round(seconds, 1))
    return survey.tuned(times.known, summary=summary)


@dataclass
class Times:
    """The times that are known, by their keys, those that are new among them, and the keys of what could not
    be measured. New ones go to the cache, where there is one."""

    known: dict[str, float]
    store: Cache | None = None
    fresh: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    _saved: float = field(default_factory=time.monotonic)

    def learn(self, times: Iterable[tuple[str, float]]) -> None:
        for key, taken in times:
            if math.isnan(taken):
                self.failed.add(key)
            else:
                self.known[key] = self.fresh[key] = taken
        if time.monotonic() - self._saved > SAVED:
            self.save()

    def save(self) -> None:
        if self.store:
            self.store.add(self.fresh)
        self._saved = time.monotonic()

    def lacks(self, group: Group) -> bool:
        """True where a case of the group may still be measured."""
        return any(key not in self.known and key not in self.failed for key in group.keys)


def measure(survey: Survey, times: Times, clock: Clock, until: float, tell: Progress) -> None:
    """Measure what matters, as far as the time goes. Nothing is measured where there is no choice."""
    todo = _at_stake(survey, times)
    try:
        if not (todo or survey.choices):
            return
        family = survey.family
        held = sum(nbytes(part) for parts in family.weights.values() for part in parts)
        measurer = Measurer(clock, _frame(times, clock), clock.runtime.provider, held)
        for group in _in_time(todo, until, tell):
            _measure_group(survey, times, measurer, group, until)
        while any(_measure_used(survey, times, measurer, hope, until, tell) for hope in HOPES):
            pass  # until plans by all times use nothing else, so that the next run finds all that it wants
    except RunFailed:
        return
    finally:
        times.save()


def _at_stake(survey: Survey, times: Times) -> list[Group]:
    """The groups that take most of the predicted time, and that have something to measure."""
    every = sorted(survey.choices.values(), key=lambda group: group.stake, reverse=True)
    left = MOST_AT_STAKE * sum(group.stake for group in every)
    groups = []
    for group in every:
        if left <= 0:
            break
        left -= group.stake
        groups.append(group)
    return [group for group in groups if times.lacks(group)]


def _measure_used(
    survey: Survey, times: Times, measurer: Measurer, hope: float, until: float, tell: Progress
) -> bool:
    """Measure what plans use, until a plan uses nothing that was not measured, or the time is up. Gives True
    where that is not yet so from the start."""
    for turn in itertools.count():
        if time.monotonic() >= until:
            return False
        guess = survey.tuned(times.known, open=True, hope=hope)
        plan = solved(survey.priced, survey.found, guess)
        groups = [group for group in wanted(survey, plan, guess) if times.lacks(group)]
        if not groups:
            return turn > 0
        for group in _in_time(groups, until, tell):
            _measure_group(survey, times, measurer, group, until)
    return False


def _in_time(groups: list[Group], until: float, tell: Progress) -> Iterator[Group]:
    for done, group in enumerate(groups):
        if time.monotonic() >= until:
            return
        tell("measuring lowerings", done, len(groups))
        yield group


def _measure_group(survey: Survey, times: Times, measurer: Measurer, group: Group, until: float) -> None:
    entries = [survey.entries[key] for key in group.keys]
    taken = measurer.group([e.case for e in entries], [e.predicted for e in entries], until)
    times.learn(zip(group.keys, taken, strict=True))


def _frame(times: Times, clock: Clock) -> frame.Frame:
    if not all(name in times.known for name in frame.NAMES):
        times.learn(frame.measured(clock).times.items())
    return frame.Frame({name: times.known[name] for name in frame.NAMES})
