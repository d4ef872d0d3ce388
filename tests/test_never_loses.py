"""In simulation, serving a merged file is never worse than its sources' sessions, one by one or in batches of each
model: the bar of every cell is the better of the two."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
from simulated import FORM, Cell, Noisy, OneByOne, Ours, PerModel, Served, arrivals, recorded, simulate

from netfuse_onnx.runtime.costs import MeasuredCosts

FAMILIES = ("policy", "bert", "mobilenet", "lora", "frozen")
KINDS = ("uniform", "zipf", "two")
LOADS = (0.3, 0.7, 0.9, 1.1, 1.3)
OVERLOAD = 3.0
SEEDS, COUNT = (1, 2, 3), 600
SLACK = 1e-4
"""Seconds by which a 99th percentile may be worse, beside a tenth."""


def bar(found: dict[str, Served]) -> tuple[float, float]:
    """Return the better load and the better 99th percentile of the rivals."""
    rivals = [served for name, served in found.items() if name != "ours"]
    return max(rival.load for rival in rivals), min(rival.percentile(99) for rival in rivals)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_load_is_served_worse(family: str, kind: str) -> None:
    worse = []
    for workers, load in itertools.product((1, 2), LOADS):
        found = Cell(family, workers, kind, load).compared(COUNT, SEEDS)
        rate, late = bar(found)
        ours = found["ours"]
        if ours.load < 0.99 * rate or ours.percentile(99) > 1.1 * late + SLACK:
            worse.append((workers, load, ours.load / rate, ours.percentile(99) / late))
    assert not worse


@pytest.mark.parametrize("family", ["policy", "lora", "frozen", "bert"])
def test_requests_of_several_rows_and_forms_are_served_no_worse(family: str) -> None:
    worse = []
    for workers, load in itertools.product((1, 2), (0.7, 1.1)):
        found = Cell(family, workers, "zipf", load, mixed=True).compared(COUNT, SEEDS)
        rate, late = bar(found)
        ours = found["ours"]
        if ours.load < 0.99 * rate or ours.percentile(99) > 1.1 * late + SLACK:
            worse.append((workers, load, ours.load / rate, ours.percentile(99) / late))
    assert not worse


@pytest.mark.parametrize("family", ["policy", "bert", "mobilenet", "lora", "frozen"])
def test_wrong_costs_are_mended_by_the_calls_that_run(family: str) -> None:
    """At the start a merged call seems to cost as little as one request. The calls that follow tell its price, in
    spite of noise, which the rivals' calls have too, and after 500 requests nobody loses by it any more."""
    true = recorded(family)
    own = true.alone(FORM, 1)
    for load in (0.7, 1.1):
        ends: list[list[float]] = [[], [], []]
        for seed in (6, 7, 8, 9):
            requests = arrivals(load / own, 3000, "uniform", true.models, seed)
            ours = Ours(_too_cheap(family), true=true, noise=_noise(seed))
            rivals = [Noisy(rival, _noise(seed)) for rival in (OneByOne(true), PerModel(true))]
            for latencies, server in zip(ends, (ours, *rivals), strict=True):
                latencies += simulate(requests, server, 1).latencies[500:]
        late, *others = [float(np.percentile(latencies, 99)) for latencies in ends]
        assert late <= 1.2 * min(others) + SLACK, load


def _too_cheap(family: str) -> MeasuredCosts:
    """Return costs in which merged calls are cheaper than they are, all by one factor."""
    costs = recorded(family)
    times = costs.of(FORM)
    factor = times.alone(1) / times.merged(costs.models, 1, costs.models)
    times.together = {rows: curve.scaled(factor) for rows, curve in times.together.items()}
    return costs


def _noise(seed: int) -> Callable[[], float]:
    draw = random.Random(seed)
    return lambda: draw.choice([0.9, 1.0, 1.0, 1.2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_overload_is_refused_and_the_rest_is_served(family: str, kind: str) -> None:
    for workers in (1, 2):
        found = Cell(family, workers, kind, OVERLOAD).compared(2000, SEEDS[:1])
        rate, late = bar(found)
        ours = found["ours"]
        assert ours.load >= max(0.99 * rate, 0.95 * workers / recorded(family).alone(FORM, 1))
        assert ours.percentile(99) <= 1.1 * late + SLACK
        assert len(ours.latencies) + ours.refused == 2000


@pytest.mark.parametrize("family", ["policy", "lora", "lora-selected"])
def test_many_waiting_models_are_served_faster_than_by_any_rival(family: str) -> None:
    """The bar could be met without merged calls. Where they pay, much load ends earlier than any rival serves it."""
    found = Cell(family, 1, "uniform", 1.3).compared(COUNT, SEEDS)
    assert found["ours"].percentile(99) < 0.8 * bar(found)[1]
