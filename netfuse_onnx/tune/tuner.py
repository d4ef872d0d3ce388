"""Tunes the cost of a family: measures its lowerings where there is a choice, most expensive first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from netfuse_onnx.tune.survey import Group, Survey, alone, recall, surveyed, wanted
from netfuse_onnx.tune.tuned import Summary, Tuned
from netfuse_onnx.types import Correspondence, Plan

SECONDS = 60.0
"""The default budget of a tuning."""
SAVED = 10.0
"""The seconds after which new times are written to the cache, so that a run that is killed loses few."""
MOST_AT_STAKE = 0.98
"""The part of the predicted time whose lowerings are all measured. Of the others, those that plans use."""
HOPES = (0.5, 1.0)
"""A plan is chosen as if what was not measured took half the time that is expected, and what it uses is
measured, until it uses nothing else; then as if it took the expected time."""
SWEEPS, STEADY = 3, 0.97
"""The most times that measurements are repeated. They end when a plan takes no less than so much of what it
took by those before."""

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
    used = {key for key in survey.entries if key in times.known}
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
                shortest = min(taken, self.fresh.get(key, taken))
                self.known[key] = self.fresh[key] = shortest
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
    """Measure what matters, as far as the time goes. Nothing is measured where there is no choice at all."""
    if not survey.choices:
        return
    held = sum(nbytes(part) for parts in survey.family.weights.values() for part in parts)
    try:
        measurer = Measurer(clock, _frame(times, clock), clock.runtime.provider, held)
        tuning = _Tuning(survey, times, measurer, until, tell)
        tuning.measure(tuning.at_stake())
        tuning.converge()
        for _ in range(SWEEPS):
            if not tuning.sweep():
                break
            tuning.converge()
        tuning.measure(alone(survey))
    except RunFailed:
        return
    finally:
        times.save()


@dataclass
class _Tuning:
    """The measuring of one family, until the time `until`."""

    survey: Survey
    times: Times
    measurer: Measurer
    until: float
    tell: Progress

    def at_stake(self) -> list[Group]:
        """The groups of nodes that take most of the predicted time."""
        every = sorted(self.survey.choices.values(), key=lambda group: group.stake, reverse=True)
        left = MOST_AT_STAKE * sum(group.stake for group in every)
        groups = []
        for group in every:
            if left > 0:
                groups.append(group)
            left -= group.stake
        return groups

    def measure(self, groups: Sequence[Group], *, again: bool = False) -> None:
        """Measure groups that lack something, or all of them `again`."""
        todo = [group for group in groups if again or self.times.lacks(group)]
        for done, group in enumerate(todo):
            if time.monotonic() >= self.until:
                return
            self.tell("measuring lowerings", done, len(todo))
            entries = [self.survey.entries[key] for key in group.keys]
            predicted = [
                self.times.known.get(key, e.predicted) for key, e in zip(group.keys, entries, strict=True)
            ]
            taken = self.measurer.group([entry.case for entry in entries], predicted, self.until)
            self.times.learn(zip(group.keys, taken, strict=True))

    def converge(self) -> None:
        """Measure what plans use, until plans of all HOPES use nothing that was not measured. The next run
        then finds all that it wants in the cache."""
        while any(self._measured_for(hope) for hope in HOPES):
            pass

    def _measured_for(self, hope: float) -> bool:
        """Measure what a plan uses. Gives False where that was known, or the time is up."""
        if time.monotonic() >= self.until:
            return False
        guess, plan = self._plan(hope)
        groups = [group for group in wanted(self.survey, plan, guess) if self.times.lacks(group)]
        self.measure(groups)
        return bool(groups)

    def _plan(self, hope: float = 1.0) -> tuple[Tuned, Plan]:
        guess = self.survey.tuned(self.times.known, open=True, hope=hope)
        return guess, solved(self.survey.priced, self.survey.found, guess)

    def sweep(self) -> bool:
        """Measure once more what matters and was measured in this run: other processes only ever add to a
        time, and may do so for seconds. Gives True where the time of the plan became clearly shorter."""
        fresh = [group for group in self.at_stake() if not self.times.fresh.keys().isdisjoint(group.keys)]
        if not fresh or time.monotonic() >= self.until:
            return False
        before = self._plan()[1].cost
        self.measure(fresh, again=True)
        return self._plan()[1].cost < STEADY * before


def _frame(times: Times, clock: Clock) -> frame.Frame:
    if not all(name in times.known for name in frame.NAMES):
        times.learn(frame.measured(clock).times.items())
    return frame.Frame({name: times.known[name] for name in frame.NAMES})
