"""A fleet as it is asked for: families of models with rates, and kinds of machines. All values are
checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.fleet.times import Times

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of machine. Calls take 1 / `speed` of the seconds of the cost tables. `count` is None where any
    number may be had."""

    name: str
    memory: int
    workers: int
    count: int | None = None
    price: float = 1.0
    speed: float = 1.0


@dataclass(frozen=True)
class Family:
    """Models of one architecture: what may be merged.

    `rates` are requests per second of each model, and `weights` the bytes of weights that are its own; `base`
    are bytes that all share. `p99` is the latency target in seconds. The target is kept with any `spare`
    machines missing. `overhead` are processor seconds of a request outside of calls, `process` the bytes of a
    process that serves nothing. At most `own_sessions` models of a process have an open session beside the
    merged one (None: all), each with a copy of its weights and of the base. A group has at most `max_models`.
    """

    name: str
    models: tuple[str, ...]
    rates: tuple[float, ...]
    weights: tuple[int, ...]
    times: Times
    p99: float
    base: int = 0
    spare: int = 0
    overhead: float = 0.0
    process: int = 0
    own_sessions: int | None = None
    max_models: int = 128
    path: str = "{model}.onnx"

    @cached_property
    def rate_array(self) -> Floats:
        return np.array(self.rates, np.float64)

    @cached_property
    def largest_session(self) -> int:
        """The bytes of the own session of the largest model."""
        return self.base + max(self.weights)

    def memory(self, count: int, weights: int) -> int:
        """Return the bytes of a process that serves so many models with so many bytes of weights in all. One
        model is served by its own session alone."""
        once = self.process + self.base + weights
        if count == 1:
            return once
        opened = count * self.base + weights
        if self.own_sessions is not None:
            opened = min(opened, self.own_sessions * self.largest_session)
        return once + opened


@dataclass(frozen=True)
class Fleet:
    """All families and kinds of machines. `priced` says that the sum of prices is to be least, not the number
    of machines."""

    families: tuple[Family, ...]
    kinds: tuple[Kind, ...]
    priced: bool = False
    file: str = ""

    @property
    def models(self) -> int:
        """The number of models."""
        return sum(len(family.models) for family in self.families)

    def price(self, kinds: Sequence[int]) -> float:
        """Return what is to be least, for machines of these kinds."""
        return float(sum(self.kinds[k].price if self.priced else 1.0 for k in kinds))
