"""Measures cases: each becomes a graph with many copies, and all cases of one group run in turns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.errors import InternalError
from netfuse_onnx.run.runtime import RunFailed
from netfuse_onnx.storage import weights
from netfuse_onnx.tune.cases import Case
from netfuse_onnx.tune.clock import Clock, Run, in_turns
from netfuse_onnx.tune.filling import filled, is_drawn
from netfuse_onnx.tune.frame import Frame
from netfuse_onnx.tune.probes import Probe, Unprobed, probe, repeated

LONG = 1000.0
"""The microseconds that the copies of one graph take together, by the prediction, where there may be so
many."""
MOST, MOST_NODES = 32, 400
"""The most copies in a graph, and the most nodes."""
HEAVY = 64 << 20
"""Bytes of weights of one graph: more than a cache holds, so that they come from memory as in a network."""
TOO_HEAVY = 600 << 20
"""Bytes of weights of one node, beyond which it is not measured."""
LONGEST = 10_000.0
"""The microseconds of one graph, by the prediction, for the sake of weights that come from memory."""
FEWEST, ROUNDS, SPENT = 4, 200, 0.04
"""The fewest and the most rounds of a group, and the seconds that the rounds of one case take together."""
SHORTEST = 0.01
"""The least microseconds that are taken for a time: a difference may come out as nothing."""


@dataclass(frozen=True)
class Measurer:
    """Measures on one clock. `held`: the bytes of weights of the whole family; a graph has no more of its
    own, for those of a small family stay in the processor's cache."""

    clock: Clock
    frame: Frame
    provider: str
    held: int

    def group(self, cases: Sequence[Case], predicted: Sequence[float], until: float) -> list[float]:
        """The microseconds of each case, NaN for one that could not be measured."""
        ready = [self._ready(case, guess) for case, guess in zip(cases, predicted, strict=True)]
        runs = [run for _, run in ready if run is not None]
        best = in_turns(runs, 2)
        rounds = max(FEWEST, min(ROUNDS, int(SPENT * 1e6 * len(runs) / max(sum(best), 1.0))))
        best = [min(pair) for pair in zip(best, in_turns(runs, rounds, until), strict=True)]
        times = iter(best)
        return [math.nan if run is None else self._own(made, next(times)) for made, run in ready]

    def _own(self, made: Probe, taken: float) -> float:
        return max((taken - self.frame.around(made)) / made.copies, SHORTEST)

    def _ready(self, case: Case, guess: float) -> tuple[Any, Run | None]:
        try:
            one = probe(case, self.provider)
            made = repeated(one, self.copies(one, guess))
            return made, self.clock.ready(*filled(made))
        except (Unprobed, InternalError, RunFailed, MemoryError):
            return None, None

    def copies(self, one: Probe, guess: float) -> int:
        """The number of copies, given the probe with one, and the prediction in microseconds."""
        guess = max(guess, 1.0)
        size = sum(weights.recipe_nbytes(recipe) for recipe in one.recipes.values() if is_drawn(recipe))
        if size > TOO_HEAVY:
            raise Unprobed("its weights are too many")
        wanted = LONG / guess
        if size:
            most = HEAVY / size
            wanted = min(max(wanted, min(self.held, HEAVY) / size), most, LONGEST / guess)
        return max(1, min(math.ceil(wanted), MOST, MOST_NODES // max(one.nodes, 1)))
