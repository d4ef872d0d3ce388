"""Inputs that say more: other scales and draws, until every output is alive and every threshold reached.

The sizes are those that were found before; only values change. The search is bounded in calls, and what it
does not find is reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from netfuse_onnx.prove.compare import finite
from netfuse_onnx.prove.reach import Reach
from netfuse_onnx.run import symbols
from netfuse_onnx.run.inputs import FLOATS, Case, InputSpec
from netfuse_onnx.run.runtime import Value

SCALES = (3.0, 10.0, 50.0, 1000.0, 100_000.0)
"""Floats are drawn around 1; images in bytes and sensors in volts are not."""
SALTS = (1, 2, 3)
"""Other draws at the usual scale."""
MOST = 4
"""Cases that are added at most: each is run by every model."""
BUDGET, LEAST = 1 << 22, 2
"""Elements of inputs that are drawn for candidates, and candidates that are tried whatever their size."""


def candidates(specs: Sequence[InputSpec], base: Case) -> Iterator[Case]:
    """Other values at the sizes of `base`, the most promising first; fewer of them where inputs are large."""
    floats = any(spec.dtype and spec.numpy.kind in FLOATS and not spec.accepts.mask for spec in specs)
    found = [replace(base, scale=scale) for scale in SCALES if floats]
    found += [replace(base, salt=salt) for salt in SALTS]
    elements = sum(math.prod(symbols.sizes(spec.dims or (), base.sizes)) for spec in specs)
    yield from found[: max(LEAST, BUDGET // max(1, elements))]


class Widening:
    """The first source's showing so far: live outputs, and the sides of thresholds that were reached."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.missing = set(reach.wanted)
        self.seen: dict[str, list[Value]] = {}

    @property
    def done(self) -> bool:
        """True where there is nothing left to look for."""
        return not self.missing and not self._dull()

    def gains(self, feeds: Mapping[str, Value], outputs: Mapping[str, Value]) -> bool:
        """Take one run into account: does it show something that none before did?"""
        dull, missing = self._dull(), len(self.missing)
        self.missing -= self.reach.of(feeds)
        for name, value in outputs.items():
            self.seen.setdefault(name, []).append(value)
        return len(self.missing) < missing or (bool(dull) and self._dull() < dull)

    def _dull(self) -> set[str]:
        """The outputs that have shown one number only, or none."""
        return {name for name, values in self.seen.items() if not alive(values)}


def alive(values: Iterable[Value]) -> bool:
    """True where an output has shown two different finite numbers; what is not a tensor counts as alive."""
    first = None
    for value in values:
        if not isinstance(value, np.ndarray):
            return True
        if not finite(value):
            continue
        flat = value.reshape(-1)
        first = flat[0] if first is None else first
        if (flat != first).any():
            return True
    return False
