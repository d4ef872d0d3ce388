"""Compares the merged models of a comparison with its best alternative."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from netfuse_onnx.measure.report import Row, Speedup
from netfuse_onnx.measure.rounds import Quartiles, apart, ratio


def speedups(rows: Sequence[Row], *, paired: bool = True) -> Iterator[Speedup]:
    """Compare each merged model, with its fastest settings, with the alternative that has the lowest median.
    `paired` says that all ways took turns, so that samples belong together."""
    others = [row for row in rows if row.ran and not row.merged]
    best = min(others, key=lambda row: row.median, default=None)
    if best is None:
        return
    labels = dict.fromkeys(row.label for row in rows if row.merged and row.ran)
    for label in labels:
        own = [row for row in rows if row.label == label and row.ran]
        row = min(own, key=lambda row: row.median)
        times = ratio(best.samples, row.samples) if paired else apart(best.seconds, row.seconds)
        yield Speedup(label, best.label, times, *_on_device(others, own))


def _on_device(others: Sequence[Row], own: Sequence[Row]) -> tuple[str, Quartiles | None]:
    """Compare calls whose inputs and outputs stay on the device: the best alternative and the ratio."""
    best = min((row for row in others if row.device), key=_device_median, default=None)
    row = min((row for row in own if row.device), key=_device_median, default=None)
    if best is None or row is None:
        return "", None
    return best.label, apart(best.device, row.device)


def _device_median(row: Row) -> float:
    return row.device.median if row.device else math.inf
