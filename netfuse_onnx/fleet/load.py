"""The load of a group: the processor seconds per second that it takes where its latency target is just met.

**Gathering.** Under load, requests wait while calls run, and the scheduler serves those that wait together. A
request comes in the middle of one such round and ends with the next, so rounds may take t = GATHER * p99
seconds. In t seconds, model m gets a Poisson number of requests with the mean rate[m] * t. To serve these
takes S(t) seconds, and the load is S(t) / t + rate * overhead. The load of a machine is the sum over its
groups, with the t of the tightest target on it. It may be as much as its workers, times a factor near 1 that
is measured by simulation (calibrate.py).

**Seconds of a round.** Either each model's requests run in batches on its own session, or R requests of each
model run in merged calls and what is beyond on own sessions; R is the best of ROWS. The scheduler merges only
where own sessions take GAIN times as long, so a group in which merging gains just as much is loaded as if it
gained nothing.

All of it depends on sums over the models of a group, which are kept, so that adding a model is quick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from netfuse_onnx.fleet.types import Family, Fleet, Floats
from netfuse_onnx.runtime.ways import GAIN

GATHER = 0.4
"""The seconds of a round, as a part of the latency target."""
ROWS = (1, 2, 4, 8, 16, 32)
"""The rows of each model that merged calls of a round may take: in several calls where they are more than one
takes."""
FRONT = 0.7
"""The front of a process, one thread of Python, is busy for at most this part of the time."""
OWN, WAITING, BEYOND = 0, 1, 2
"""The places of the sums in a row: own calls in seconds per second; models that wait at the end of a round;
own calls for what is beyond ROWS[0], ROWS[1] and so on."""


class Loads:
    """The loads of all models of a fleet, by the seconds of a round and the share of the rate."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.rounds = tuple(sorted({GATHER * family.p99 for family in fleet.families}))
        self.round_of = [self.rounds.index(GATHER * family.p99) for family in fleet.families]
        self._rows: dict[tuple[int, int, int, int], list[tuple[float, ...]]] = {}

    def of(self, family: int, share: int, place: int, halved: int = 0) -> list[tuple[float, ...]]:
        """Return a row of sums for each model, which gets 1 / `share` of its rate, for a round by place whose
        seconds are halved so many times."""
        key = family, share, place, halved
        if key not in self._rows:
            found = self.fleet.families[family]
            rows = _sums(found, found.rate_array / share, self.rounds[place] / 2**halved)
            self._rows[key] = [tuple(row) for row in rows.tolist()]
        return self._rows[key]


def _sums(family: Family, rates: Floats, seconds: float) -> Floats:
    """Return the sums of each model by itself, a row each."""
    mean = rates * seconds
    some = -np.expm1(-mean)
    each = np.divide(mean, some, out=np.ones_like(mean), where=some > 0)
    own = some * family.times.served(np.maximum(each, 1.0)) / seconds
    part = np.divide(
        _beyond(mean), mean[:, None], out=np.zeros((len(mean), len(ROWS))), where=mean[:, None] > 0
    )
    return np.column_stack([own, some, own[:, None] * part])


def _beyond(mean: Floats) -> Floats:
    """Return how many of a Poisson number of requests are beyond each of ROWS, in the mean: E[max(N - R,
    0)]."""
    beyond, chance, below = np.empty((len(mean), len(ROWS))), np.exp(-mean), np.exp(-mean)
    left = mean - 1 + below  # E[max(N - 1, 0)] = mean - 1 + P(N = 0), and each step adds P(N <= rows) - 1
    for rows in range(1, ROWS[-1] + 1):
        if rows in ROWS:
            beyond[:, ROWS.index(rows)] = left
        chance = chance * mean / rows
        below = below + chance
        left = left - 1 + below
    return np.maximum(beyond, 0.0)


class Group:
    """Models of one family in one process, each with 1 / `share` of its rate. It never changes."""

    def __init__(
        self,
        loads: Loads,
        family: int,
        share: int,
        members: tuple[int, ...],
        sums: Sequence[Sequence[float]],
        rate: float,
        weights: int,
    ) -> None:
        self.loads, self.family, self.share, self.members = loads, family, share, members
        self._sums, self.rate, self.weights = sums, rate, weights
        self._known: dict[tuple[int, int], float] = {}

    @classmethod
    def of(cls, loads: Loads, family: int, share: int, members: Sequence[int]) -> Group:
        """Return the group of these models."""
        about = loads.fleet.families[family]
        sums = [
            [math.fsum(column) for column in zip(*(rows[m] for m in members), strict=True)]
            for rows in (loads.of(family, share, i) for i in range(loads.round_of[family] + 1))
        ]
        rate = math.fsum(about.rates[m] for m in members) / share
        return cls(loads, family, share, tuple(members), sums, rate, sum(about.weights[m] for m in members))

    def plus(self, model: int) -> Group:
        """Return the group with one more model."""
        about, loads = self.about, self.loads
        sums = [
            [a + b for a, b in zip(row, loads.of(self.family, self.share, i)[model], strict=True)]
            for i, row in enumerate(self._sums)
        ]
        return Group(
            loads, self.family, self.share, (*self.members, model), sums,
            self.rate + about.rates[model] / self.share, self.weights + about.weights[model],
        )  # fmt: skip

    @property
    def about(self) -> Family:
        return self.loads.fleet.families[self.family]

    @property
    def replicas(self) -> int:
        """The machines that it is on: as many as share the rate, and the spare ones."""
        return self.share + self.about.spare

    @property
    def round(self) -> int:
        """The place of the seconds of a round that its own target allows."""
        return self.loads.round_of[self.family]

    @cached_property
    def memory(self) -> int:
        """The bytes of its process."""
        return self.about.memory(len(self.members), self.weights)

    def load(self, place: int, workers: int) -> float:
        """Return the processor seconds per second on a machine of speed 1 with so many workers, with rounds
        by place, which are not longer than its own target allows.

        Several workers take requests as they come, so where there are fewer models than workers, each call
        has those of a part of the round."""
        models = len(self.members)
        halved = (-(-workers // models) - 1).bit_length() if models < workers else 0
        known = self._known.get((place, halved))
        if known is None:
            known = self._calls(place, halved) + self.rate * self.about.overhead
            self._known[place, halved] = known
        return known

    def longer(self, workers: int, times: int = 4) -> float:
        """Return the load if its rounds might be so many times as long as its own target allows."""
        fleet = Fleet((replace(self.about, p99=times * self.about.p99),), ())
        return Group.of(Loads(fleet), 0, self.share, self.members).load(0, workers)

    def merges(self, place: int) -> bool:
        """Return True where the load is that of merged calls."""
        sums = self._sums[place]
        return len(self.members) > 1 and self._merged(self.loads.rounds[place], sums) * GAIN <= sums[OWN]

    def _calls(self, place: int, halved: int) -> float:
        """Return the processor seconds per second of all calls."""
        sums = self._sums[place]
        if halved:
            rows = self.loads.of(self.family, self.share, place, halved)
            sums = [math.fsum(column) for column in zip(*(rows[m] for m in self.members), strict=True)]
        own, times = sums[OWN], self.about.times
        if len(self.members) == 1 and times.has_own:
            return own
        merged = self._merged(self.loads.rounds[place] / 2**halved, sums)
        if not times.has_own or self.about.own_sessions == 0:
            return merged
        if own <= GAIN * merged:
            return own
        return merged * (1 + (GAIN - 1) * (GAIN * merged / own) ** 2)

    def _merged(self, seconds: float, sums: Sequence[float]) -> float:
        """Return the processor seconds per second where merged calls serve the first rows of each model, in
        rounds of so many seconds."""
        times = self.about.times
        some = -math.expm1(-self.rate * seconds)
        if some <= 0.0:
            return 0.0
        models = len(self.members)
        if not times.runs_all:
            models = max(1, round(sums[WAITING] / some))
        most = times.limits.max_rows if times.limits.rows_apart else 1
        best = float("inf")
        for i, rows in enumerate(ROWS):
            calls = -(-rows // most)
            taken = times.merged(models, min(rows, most)) * calls * some / seconds
            if taken >= best:
                break
            best = min(best, taken + sums[BEYOND + i])
        return best
