"""Own sessions of many models at once on CUDA, each on its own stream, as the other way to run a merged call.

Where a merged call runs all models and few are wanted, or its products are slower than those of the models
(grouped convolutions), starting each model's own CUDA graph and waiting once takes less time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence

from netfuse_onnx.runtime.costs import FormTimes, MeasuredCosts, size_of
from netfuse_onnx.runtime.cuda import OnCuda
from netfuse_onnx.runtime.curves import Curve
from netfuse_onnx.runtime.packing import Packing
from netfuse_onnx.runtime.placed import USES
from netfuse_onnx.runtime.samples import MadeUp
from netfuse_onnx.runtime.timing import doubled
from netfuse_onnx.runtime.types import Kind, Outputs, Request

TRIED = 4
"""Models whose sessions are opened to measure what one more costs."""
ROUNDS = 3
MUST_BEAT = 0.9
"""Own sessions are taken only where they are expected to take less than this part of the merged call."""


class SteadyCosts(MeasuredCosts):
    """Costs that only steady calls teach. A call that opens a session, captures a graph or runs before its
    form has places takes many times as long as those after it; `changes` counts such events."""

    def __init__(self, costs: MeasuredCosts, times: FormTimes, changes: Callable[[], int]) -> None:
        """Take the form of measured costs, and the times that it has from now on."""
        super().__init__(times.io, times.models, dict.fromkeys(costs.forms(), times), size_of)
        self._changes, self._known = changes, changes()

    def saw(
        self, form: Hashable, kind: Kind, rows: Mapping[int, int], seconds: float, *, wide: bool = False
    ) -> None:
        changes = self._changes()
        if changes == self._known:
            super().saw(form, kind, rows, seconds, wide=wide)
        self._known = changes


class Streams:
    """Runs requests of several models on their own sessions at once, where that is expected to pay."""

    def __init__(
        self, calls: OnCuda, packing: Packing, costs: MeasuredCosts, made_up: MadeUp, max_rows: int
    ) -> None:
        """Measure calls of one model and of TRIED, and compare them with the merged call's time."""
        self._calls, self._packing = calls, packing
        count = min(len(packing.contract.models), calls.own.fitting)
        few = min(TRIED, count)
        one, several = (self._measured(made_up, models) for models in (1, few))
        each = max((several - one) / (few - 1), 0.0) if few > 1 else one
        times = costs.of(made_up.form)
        at_once = [one + k * each for k in range(count)]
        self.most = max(
            (k for k, own in enumerate(at_once, 1) if own < MUST_BEAT * times.merged(k, 1, k)), default=0
        )
        """Models in a call up to which own sessions are expected to be faster. It is decided once: later the
        mean of the merged call's times has those of both ways in it."""
        self.costs = SteadyCosts(
            costs, with_streams(times, at_once[: self.most], max_rows), lambda: calls.changes
        )
        """The costs with these calls in the place of merged ones. Their times follow from the two that were
        measured: to time more models, their sessions would have to be opened first, seconds for each."""

    def pays(self, requests: Sequence[Request]) -> bool:
        """Return True where the own sessions are expected to be faster than a merged call."""
        models = len({request.model for request in requests})
        return models <= self.most and (models == len(requests) or self._packing.contract.side_by_side)

    def run(self, requests: Sequence[Request]) -> list[Outputs]:
        """Run requests of one form. Raises CallFailed."""
        groups: dict[int, list[Request]] = {}
        for request in requests:
            groups.setdefault(request.model, []).append(request)
        packed = [(model, self._packing.alone(group)) for model, group in groups.items()]
        found = self._calls.together(packed)
        by_request = {
            id(request): outputs
            for group, given in zip(groups.values(), found, strict=True)
            for request, outputs in zip(group, given, strict=True)
        }
        return [by_request[id(request)] for request in requests]

    def _measured(self, made_up: MadeUp, count: int) -> float:
        """Return the time of a call of so many models, the shortest of a few, once graphs are
        captured."""
        requests = made_up.requests(dict.fromkeys(range(count), 1))
        for _ in range(USES):  # the last of them captures the graphs
            self.run(requests)
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            self.run(requests)
            times.append(time.perf_counter() - start)
        return min(times)


def with_streams(times: FormTimes, at_once: Sequence[float], max_rows: int) -> FormTimes:
    """Return the times of calls where own sessions start at once, with one row of each of as many models as
    `at_once` has times for, and merged calls serve more models. More rows of each take longer by the ratio of
    the own sessions."""
    if not at_once:
        return times
    models, most = times.models, len(at_once)
    together: dict[int, Curve] = {}
    for rows in sorted({1, max_rows}):
        ratio = times.alone(rows) / times.alone(1)
        points = {k: seconds * ratio for k, seconds in enumerate(at_once, 1)}
        points |= {
            k: times.merged(k, rows, k * rows) for k in {most + 1, *doubled(models)} if most < k <= models
        }
        together[rows] = Curve(points)
    return FormTimes("selected", models, times.own, together)
