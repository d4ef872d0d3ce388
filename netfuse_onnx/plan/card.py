"""The constants of a GPU, and how long a launch takes there.

A launch takes as long as the slowest of three things: its bytes through the memory, the bytes that its
tiles read through the cache, and its operations at the rate that the filled part of the card gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from netfuse_onnx.plan.constants import Constants
from netfuse_onnx.plan.launches import CONVOLUTION, GROUPED, LINK, MEMORY, PRODUCT, TRANSPOSED, Launch
from netfuse_onnx.plan.work import Work

TENSOR_CORE_CHANNELS = 8
"""A group with fewer input channels has no use for tensor cores."""

MODEL = "card"
"""The value of `model` in a file of constants of a GPU."""

_PRECISION: Mapping[int, str] = {
    TensorProto.FLOAT16: "half", TensorProto.BFLOAT16: "half", TensorProto.INT8: "half",
    TensorProto.UINT8: "half", TensorProto.DOUBLE: "double",
}  # fmt: skip


@dataclass(frozen=True)
class Card(Constants):
    """Times in microseconds, rates in bytes or operations per microsecond."""

    provider = "cuda"

    launch: float
    """The start and the end of a kernel, in a CUDA graph."""
    issue: float
    """The host's work for a launch without a CUDA graph."""
    wait: float
    """The host sees the end of what it has issued, and starts issuing anew."""
    cache: float
    """Bytes out of the second-level cache."""
    host: float
    """Bytes that the host reads and writes for an operator that has no kernel on the device."""
    bytes_over: Mapping[str, float]
    """Bytes through MEMORY, in a Transpose there, and between host and device over the LINK."""
    operations: Mapping[str, Mapping[str, float]]
    """The rates of PRODUCT and CONVOLUTION, by precision, when the whole card is busy."""
    grouped: Mapping[int, Mapping[str, float]]
    """The same of GROUPED convolutions, by the least input channels of a group that reach the rate."""
    processors: int
    tiles: Mapping[int, float]
    """The side of a tile of results that a multiprocessor works on, and the share of the rate it reaches."""
    split: int
    splits: int
    """A sum may be cut into `splits` pieces, none of which has less than `split` products."""

    def microseconds(self, launch: Launch) -> float:
        """A launch, its start included: the mean of a run in a CUDA graph and one without.

        A plan is made once and runs in both ways. Without a graph the host issues a kernel while the one
        before runs, so that a short one takes as long as its issue. Whoever plans by one of the two alone
        pays up to 3 us per launch in the other; by the mean, half of that.
        """
        taken = self.launch + self.work(launch)
        return (taken + max(taken, self.issue)) / 2 + (self.wait if launch.waits else 0.0)

    def work(self, launch: Launch) -> float:
        """A launch without its start."""
        taken = launch.moved / self.bytes_over[launch.over]
        if (work := launch.work) is None:
            return taken
        tiles = launch.cached / self.cache if work.kernel == PRODUCT else 0.0
        return max(taken, tiles, 2.0 * work.count * work.m * work.n * work.k / self._rate(launch, work))

    def _rate(self, launch: Launch, work: Work) -> float:
        """Operations per microsecond. Groups with too few channels for tensor cores do not work in tiles."""
        precision = _PRECISION.get(launch.element, "tf32")
        if work.kernel != GROUPED:
            return self.operations[work.kernel][precision] * self.fill(work)
        least = max((least for least in self.grouped if least <= launch.channels), default=min(self.grouped))
        rate = self.grouped[least][precision]
        return rate * self.fill(work) if launch.channels >= TENSOR_CORE_CHANNELS else rate

    def fill(self, work: Work) -> float:
        """The share of the card's rate that products get.

        Each multiprocessor works on one tile of results at a time, and the last wave of tiles takes as long
        as a full one. Libraries take the better size of tile, and cut long sums into pieces where there are
        few tiles.
        """
        count, m, n, k = (max(1, size) for size in (work.count, work.m, work.n, work.k))
        shares = []
        for side, speed in self.tiles.items():
            tiles = count * math.ceil(m / side) * math.ceil(n / side)
            for pieces in range(1, self.splits + 1):
                waves = math.ceil(tiles * pieces / self.processors)
                slowest = min(m, side) * min(n, side) * max(k / pieces, min(k, self.split))
                shares.append(speed * count * m * n * k / (waves * self.processors * slowest))
        return max(shares)


def parsed(name: str, value: Mapping[str, Any]) -> Card:
    """KeyError, TypeError or ValueError where the value is no account of a card."""
    numbers = {key: constant["value"] for key, constant in value["constants"].items()}
    times = {key: float(numbers[key]) for key in ("launch", "issue", "wait", "cache", "host")}
    return Card(
        name,
        value["provenance"],
        **times,
        bytes_over={way: float(numbers[way]) for way in (MEMORY, TRANSPOSED, LINK)},
        operations={kind: _rates(numbers[kind]) for kind in (PRODUCT, CONVOLUTION)},
        grouped={int(least): _rates(rates) for least, rates in numbers[GROUPED].items()},
        processors=int(numbers["processors"]),
        tiles={int(side): float(share) for side, share in numbers["tiles"].items()},
        split=int(numbers["split"]),
        splits=int(numbers["splits"]),
    )


def _rates(value: Mapping[str, Any]) -> dict[str, float]:
    return {precision: float(value[precision]) for precision in ("tf32", "half", "double")}
