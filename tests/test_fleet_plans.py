"""Plans of fleets: valid, near the optimum, the optimum right, loads and simulations right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fleets import MB, brute_force, family, gap, medium, small, times, valid
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import FORM, Ours, arrivals, recorded
from simulated import simulate as simulated

from netfuse_onnx import plan_fleet
from netfuse_onnx.errors import NoPlan
from netfuse_onnx.fleet import bounds, checking, exact, heuristic, load, simulation
from netfuse_onnx.fleet.load import Group, Loads
from netfuse_onnx.fleet.rules import Rules
from netfuse_onnx.fleet.types import Fleet, Kind
from netfuse_onnx.runtime.limits import Limits
from netfuse_onnx.runtime.ways import GAIN

KIND = Kind("m", 1000 * MB, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_plans_place_every_model_within_memory_and_load_and_are_deterministic(seed: int) -> None:
    rules = Rules(small(seed, 9))
    try:
        shares = bounds.shares(rules)
        plan = heuristic.made(heuristic.Packer(rules, shares), 60)
    except (NoPlan, heuristic.NoRoom):
        return
    valid(plan)
    assert plan.price >= bounds.lowest(rules) - 1e-9
    again = heuristic.made(heuristic.Packer(Rules(small(seed, 9)), shares), 60)
    assert [(g.family, g.share, g.members) for g in plan.groups.values()] == [
        (g.family, g.share, g.members) for g in again.groups.values()
    ]


@pytest.mark.parametrize("seed", range(12))
def test_the_solver_finds_what_brute_force_finds(seed: int) -> None:
    fleet = small(seed, 4)
    fleet = dataclasses.replace(fleet, kinds=fleet.kinds[:1], priced=False)
    rules = Rules(fleet)
    try:
        shares = bounds.shares(rules)
    except NoPlan:
        return
    best = exact.solve(rules, shares)
    assert best.plan is not None and best.optimal
    valid(best.plan)
    assert brute_force(rules, shares, int(best.plan.price)) == best.plan.price


def test_the_heuristic_is_near_the_optimum() -> None:
    """bench/fleet.py does so with 200 fleets."""
    gaps = [found for seed in range(40) if (found := gap(seed, 5)) is not None]
    assert len(gaps) >= 25
    assert sum(one > 0.05 for one in gaps) <= len(gaps) // 20


@pytest.mark.parametrize("seed", range(8))
def test_more_memory_or_machines_never_need_more_machines(seed: int) -> None:
    """The best plans have this property; a heuristic has no such guarantee."""
    fleet = small(seed, 5)
    kind = fleet.kinds[0]

    def price(**more: object) -> float:
        rules = Rules(Fleet(fleet.families, (dataclasses.replace(kind, **more),)))  # type: ignore[arg-type]
        best = exact.solve(rules, bounds.shares(rules))
        return best.plan.price if best.plan else float("inf")

    try:
        first = price()
    except NoPlan:
        return
    assert price(memory=2 * kind.memory) <= first
    assert price(memory=kind.memory + MB) <= first
    if first < float("inf"):
        assert price(count=int(first)) == first
        assert price(count=int(first) + 1) == first
    if 1 < first < float("inf"):
        assert price(count=int(first) - 1) == float("inf")


# --------------------------------------------------------------------------- load


def _group(rates: list[float], **more: object) -> Group:
    one = family("f", rates, **more)  # type: ignore[arg-type]
    return Group.of(Loads(Fleet((one,), (KIND,))), 0, 1, range(len(rates)))


def test_little_load_is_that_of_calls_of_one_row() -> None:
    group = _group([0.01] * 4, overhead=0.001)
    assert group.load(0, 2) == pytest.approx(0.04 * (times("lora").alone(1) + 0.001), rel=1e-3)


def test_much_load_is_that_of_merged_calls() -> None:
    """32 models with one request each in a round: one merged call, for which the scheduler counts GAIN times."""
    seconds = load.GATHER * 0.05
    group = _group([2 / seconds] * 32)
    own = sum(group._sums[0][load.OWN] for _ in range(1))
    call = times("lora").merged(32, 4) / seconds
    assert group.load(0, 1) < own / GAIN
    assert call <= group.load(0, 1) <= 1.4 * call


@given(st.lists(st.floats(0.0, 500.0), min_size=2, max_size=12), st.integers(0, 3))
def test_a_group_that_grows_is_the_group_of_all(rates: list[float], halved: int) -> None:
    loads = Loads(Fleet((family("f", rates),), (KIND,)))
    grown = Group.of(loads, 0, 1, (0,))
    for model in range(1, len(rates)):
        grown = grown.plus(model)
    whole = Group.of(loads, 0, 1, range(len(rates)))
    assert grown.load(0, 2**halved) == pytest.approx(whole.load(0, 2**halved))
    assert (grown.memory, grown.members) == (whole.memory, whole.members)


@given(st.floats(1e-3, 60.0))
def test_what_is_beyond_the_rows_of_a_round_is_the_mean_of_a_poisson_number(mean: float) -> None:
    chances = [np.exp(-mean)]
    for n in range(1, 400):
        chances.append(chances[-1] * mean / n)
    for rows, found in zip(load.ROWS, load._beyond(np.array([mean]))[0], strict=True):
        assert found == pytest.approx(
            sum(max(n - rows, 0) * p for n, p in enumerate(chances)), rel=1e-6, abs=1e-9
        )


def test_memory_counts_the_base_once_and_again_for_each_open_session() -> None:
    one = family("f", [1.0, 1.0, 1.0], base=100, process=7)
    one = dataclasses.replace(one, weights=(1, 2, 3))
    assert one.memory(1, 2) == 7 + 100 + 2
    assert one.memory(3, 6) == (7 + 100 + 6) + (3 * 100 + 6)
    assert dataclasses.replace(one, own_sessions=1).memory(3, 6) == (7 + 100 + 6) + 103
    assert dataclasses.replace(one, own_sessions=0).memory(3, 6) == 7 + 100 + 6


# --------------------------------------------------------------------------- simulation


@pytest.mark.parametrize("name", ["lora", "policy", "bert"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_machine_with_one_process_is_simulated_like_a_session(name: str, workers: int) -> None:
    """The simulation of tests/simulated.py, which has one process, gives the same latencies."""
    costs = recorded(name)
    requests = arrivals(1.2 * workers / costs.alone(FORM, 1), 1500, "zipf", costs.models, 3)
    came = [(request.arrived, 0, request.model) for request in requests]
    process = simulation.Process([1.0] * costs.models, costs, Limits())
    (found,) = simulation.Simulation([process], workers).run(came)
    served = simulated(requests, Ours(costs, workers=workers), workers)
    assert found.refused == served.refused
    assert sorted(one for one in found.latencies if one < 1e9) == pytest.approx(sorted(served.latencies))


def test_processes_share_the_cores_alike() -> None:
    """Two processes with one request each on one core: each call takes twice as long."""
    costs = times("bert").costs(1)
    one = simulation.Process([1.0], costs, Limits())
    found = simulation.Simulation([one, one], 1).run([(0.0, 0, 0), (0.0, 1, 0)])
    assert [served.latencies[0] for served in found] == pytest.approx([2 * costs.alone(FORM, 1)] * 2)
    found = simulation.Simulation([one, one], 2).run([(0.0, 0, 0), (0.0, 1, 0)])
    assert [served.latencies[0] for served in found] == pytest.approx([costs.alone(FORM, 1)] * 2)


def test_the_front_takes_one_request_after_the_other() -> None:
    costs = times("bert").costs(1)
    one = simulation.Process([1.0], costs, Limits(), overhead=1.0)
    (found,) = simulation.Simulation([one], 4).run([(0.0, 0, 0), (0.0, 0, 0), (0.0, 0, 0)])
    assert found.latencies == pytest.approx([k + 1 + costs.alone(FORM, 1) for k in range(3)])


def test_a_full_queue_refuses_and_counts_as_a_missed_target() -> None:
    costs = times("bert").costs(1)
    one = simulation.Process([1.0], costs, Limits())
    (found,) = simulation.Simulation([one], 1).run([(0.0, 0, 0)] * 300)
    assert found.refused == 300 - 257
    assert found.percentile(99) == float("inf")


@pytest.mark.parametrize("seed", range(4))
def test_plans_meet_their_targets_in_simulation(seed: int) -> None:
    """Also with other requests than those by which they were made."""
    report = plan_fleet(medium(seed), compare=False, seconds=5)
    assert report.ok and report.worst is not None and report.worst <= 1.2
    assert len(report.machines) >= report.bound


def test_a_factor_is_the_load_at_which_the_target_is_just_met() -> None:
    one = family("f", [5.0] * 16, p99=0.03)
    kind = Kind("m", 8000 * MB, 2)
    found = checking.factor(one, kind)
    for part, meets in ((0.9, True), (1.25, False)):
        groups = checking._loaded(one, kind, range(16), [5.0] * 16, part * found)
        assert (max(checking.simulate(kind, groups, 9).p99) <= 0.03) == meets
