"""Own sessions of many models at once on CUDA, each on its own stream, as the other way to run a merged call.

Where a merged call runs all models and few are wanted, or its products are slower than those of the models
(grouped convolutions), starting each model's own CUDA graph and waiting once takes less time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from netfuse_onnx.runtime.cuda import OnCuda
from netfuse_onnx.runtime.packing import Packing
from netfuse_onnx.runtime.samples import MadeUp
from netfuse_onnx.runtime.types import Costs, Outputs, Request

TRIED = 4
"""Models whose sessions are opened to measure what one more costs."""
ROUNDS = 3
MUST_BEAT = 0.9
"""Own sessions are taken only where they are expected to take less than this part of the merged call."""


class Streams:
    """Runs requests of several models on their own sessions at once, where that is expected to pay."""

    def __init__(self, calls: OnCuda, packing: Packing, costs: Costs, made_up: MadeUp) -> None:
        """Measure calls of one model and of TRIED, and compare them with the merged call's time."""
        self._calls, self._packing = calls, packing
        models, form = len(packing.contract.models), made_up.form
        most = min(models, calls.own.most)
        few = min(TRIED, most)
        one, several = (self._measured(made_up, count) for count in (1, few))
        each = max((several - one) / (few - 1), 0.0) if few > 1 else one
        merged = [costs.merged(form, dict.fromkeys(range(count), 1)) for count in range(1, most + 1)]
        self.most = max(
            (k + 1 for k, time in enumerate(merged) if one + k * each < MUST_BEAT * time), default=0
        )
        """Models in a call up to which own sessions are expected to be faster. It is decided once: later the
        mean of the merged call's times has those of both ways in it."""

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
        """Return the time of a call of so many models, the shortest of a few."""
        requests = made_up.requests(dict.fromkeys(range(count), 1))
        self.run(requests)
        times = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            self.run(requests)
            times.append(time.perf_counter() - start)
        return min(times)
