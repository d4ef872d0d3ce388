"""tune/: the cost by measured times, what is measured, and the plans that follow. No real time is looked at."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from families import model, save
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import LEVELS, ask, materialise, session
from oracle import family as family_of
from test_plan import family as drawn_family
from test_plan import graphs, price
from test_tune_probes import NETWORKS, network, priced

from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.costs import cost as cost_for
from netfuse_onnx.plan.search import solved
from netfuse_onnx.run.runtime import RunFailed, Runtime
from netfuse_onnx.tune import frame, tuner
from netfuse_onnx.tune.clock import Clock, in_turns
from netfuse_onnx.tune.keys import REACHES, reach
from netfuse_onnx.tune.measuring import Measurer
from netfuse_onnx.tune.probes import probe
from netfuse_onnx.tune.survey import Survey, shares
from netfuse_onnx.tune.tuned import Scales, Tuned, place
from netfuse_onnx.tune.tuner import Times, measure, tuned
from netfuse_onnx.types import Became, Correspondence, Plan

SIZES = {"batch": 2, "words": 3}
MODELS = 3


def silent(what: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Pretended(Clock):
    """A clock on which each node takes the time that `says` gives for it, and a call nothing."""

    runtime: Runtime = field(default_factory=lambda: Runtime("cpu"))
    says: Callable[[onnx.NodeProto], float] = lambda node: 1.0
    seen: list[Counter[str]] = field(default_factory=list)

    def ready(self, model: bytes, feeds: Any) -> Callable[[], float]:
        graph = onnx.load_from_string(model).graph
        outputs = {output.name for output in graph.output}
        nodes = [node for node in graph.node if not outputs.intersection(node.output)]
        if graph.name != "frame":
            self.seen.append(Counter(node.op_type for node in nodes))
        taken = sum(map(self.says, nodes))
        return lambda: taken


def measured(survey: Survey, clock: Clock, seconds: float = 1e6) -> Times:
    times = Times(dict.fromkeys(frame.NAMES, 0.0))
    measure(survey, times, clock, time.monotonic() + seconds, silent)
    return times


def ways(plan: Plan) -> list[tuple[str, str]]:
    return [(low.site.node.op, low.rule or str(low.became)) for low in plan.lowerings]


# --------------------------------------------------------------------------- plans


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("cheap", ["apart", "batched"])
def test_the_plan_takes_what_is_measured_to_be_cheap(tmp_path: Path, io: str, cheap: str) -> None:
    """A product of all models takes 1 us or 1 s, one of a single model takes 1 us or 1 s."""
    corr = network("words", tmp_path)

    def says(node: onnx.NodeProto) -> float:
        product = node.op_type in ("MatMul", "Conv", "Gemm")
        apart = "/PER_MODEL/" in "".join(node.input)
        return 1e6 if product and apart == (cheap == "batched") else 1.0

    survey = priced(corr, io)
    times = measured(survey, Pretended(says=says))
    plan = planning.plan(corr, io=io, cost=survey.tuned(times.known))
    products = [low.became for low in plan.lowerings if low.site.node.op == "MatMul"]
    assert products and all((became is Became.REPLICATED) == (cheap == "apart") for became in products)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from([2, 3]), st.sampled_from(["separate", "stacked"]), st.randoms())
def test_no_combination_is_cheaper_by_random_times(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int, int]],
    models: int,
    io: str,
    rng: Any,
) -> None:
    corr = drawn_family(steps, tmp_path_factory.mktemp("tune"), models)
    survey = priced(corr, io)
    keys = sorted({key for keys in survey.choices for key in keys})
    times = {key: rng.uniform(1.0, 100.0) for key in keys if rng.random() < 0.7}
    cost = survey.tuned(times)
    found = planning.candidates(corr, io=io, share=frozenset(), cost=cost)
    assume(math.prod(len(offers) for offers in found.options) <= 3000)
    plan = planning.plan(corr, io=io, cost=cost)
    best = min(price(corr, found, chosen, cost) for chosen in itertools.product(*found.options))
    assert plan.exact
    assert plan.cost == pytest.approx(price(corr, found, plan.lowerings, cost))
    assert plan.cost == pytest.approx(best)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_no_seconds_give_the_plan_of_the_target(tmp_path: Path, name: str, io: str) -> None:
    corr = network(name, tmp_path)
    cost = tuned(corr, io=io, runtime=Runtime("cpu"), dims=SIZES, seconds=0, cache=False)
    own, target = (
        planning.plan(corr, io=io, cost=cost),
        planning.plan(corr, io=io, cost=cost_for("cpu", corr, SIZES)),
    )
    assert ways(own) == ways(target)
    assert [low.takes for low in own.lowerings] == [low.takes for low in target.lowerings]
    assert own.cost == pytest.approx(target.cost) and own.prediction == target.prediction
    assert cost.summary.measured == cost.summary.cached == 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_a_plan_by_any_times_computes_what_the_models_compute(tmp_path: Path, name: str, io: str) -> None:
    """With everything on offer that is right, also what plans for the CPU do without."""
    corr = network(name, tmp_path)
    survey = priced(corr, io)
    rng = np.random.default_rng(0)
    for _ in range(12):
        keys = sorted({key for keys in survey.choices for key in keys})
        cost = survey.tuned({key: rng.uniform(1.0, 100.0) for key in keys})
        merged = lower(corr, planning.plan(corr, io=io, cost=cost), io=io)
        compare(corr, materialise(merged), io, rng)


def compare(corr: Correspondence, merged: bytes, io: str, rng: np.random.Generator) -> None:
    (fed,), (given,) = corr.graph.inputs, corr.graph.outputs
    shape = [SIZES.get(str(dim), dim) for dim in corr.graph.types[fed].dims or ()]
    each = [rng.standard_normal([int(d or 0) for d in shape]).astype(np.float32) for _ in corr.names]
    feeds = (
        {fed: np.stack(each)}
        if io == "stacked"
        else {f"{n}/{fed}": x for n, x in zip(corr.names, each, strict=True)}
    )
    have = ask(session(merged, LEVELS[-1]), feeds)
    for m, (source, x) in enumerate(zip(corr.sources, each, strict=True)):
        want = ask(session(source.path, LEVELS[0]), {fed: x})[given]
        mine = have[given][m] if io == "stacked" else have[f"{corr.names[m]}/{given}"]
        np.testing.assert_allclose(mine, want, rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------------------- what is measured


def test_nothing_is_measured_where_there_is_no_choice(tmp_path: Path) -> None:
    """All models share what they compute with; the outputs are given to each."""
    made = model("g (float[2, 4] x) => (float[2, 4] y) { h = MatMul(x, w)\n y = Relu(h) }", {"w": (4, 4)})
    paths = [Path(save(tmp_path / f"m{k}.onnx", made)) for k in range(2)]
    corr = family_of(paths)
    clock = Pretended()
    share = frozenset({"x"})
    survey = tuner.surveyed(corr, "stacked", share, cost_for("cpu", corr, {}))  # type: ignore[arg-type]
    assert not survey.choices
    times = measured(survey, clock)
    assert not clock.seen and times.fresh == {}


def test_all_lowerings_of_the_dearest_node_come_first(tmp_path: Path) -> None:
    text = "g (float[64, 64] x) => (float[64, 4] y) { h = MatMul(x, big)\n s = Softmax(h)\n y = MatMul(s, small) }"
    shapes = {"big": (64, 64), "small": (64, 4)}
    corr = family_of([Path(save(tmp_path / f"m{k}.onnx", model(text, shapes, seed=k))) for k in range(3)])
    survey = priced(corr)
    clock = Pretended()
    measured(survey, clock)
    ranked = sorted(survey.choices.values(), key=lambda group: group.stake, reverse=True)
    assert "64x64 64x64" in ranked[0].keys[0]
    first = clock.seen[: len(ranked[0].keys)]
    assert all(set(seen) & {"MatMul", "Conv"} for seen in first)


def test_the_time_ends_it(tmp_path: Path) -> None:
    survey = priced(network("layers", tmp_path))
    times = Times(dict.fromkeys(frame.NAMES, 0.0))
    clock = Pretended()
    measure(survey, times, clock, time.monotonic() - 1.0, silent)
    assert not clock.seen and not times.fresh


def test_what_plans_use_is_measured_in_the_end(tmp_path: Path) -> None:
    survey = priced(network("layers", tmp_path), "stacked")
    times = measured(survey, Pretended(says=lambda node: 1.0 + len(node.op_type)))
    cost = survey.tuned(times.known, open=True)
    plan = solved(survey.priced, survey.found, cost)
    assert not [group for group in tuner.wanted(survey, plan, cost) if times.lacks(group)]


def test_a_probe_that_fails_is_left_out(tmp_path: Path) -> None:
    class Failing(Pretended):
        def ready(self, model: bytes, feeds: Any) -> Callable[[], float]:
            graph = onnx.load_from_string(model).graph
            if any(node.op_type == "Conv" for node in graph.node):
                raise RunFailed("no kernel")
            return super().ready(model, feeds)

    corr = network("layers", tmp_path)
    survey = priced(corr)
    times = measured(survey, Failing())
    assert times.failed and times.fresh
    planning.plan(corr, cost=survey.tuned(times.known))


def test_cached_times_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    corr = network("one row", tmp_path)

    def run() -> Tuned:
        return tuned(corr, io="stacked", runtime=Runtime("cpu"), dims=SIZES, seconds=60, threads=1)

    first = run()
    monkeypatch.setattr(Clock, "ready", lambda *_: pytest.fail("a probe was loaded"))
    second = run()
    assert first.summary.measured > 0 and second.summary.measured == 0
    assert second.summary.cached == first.summary.measured
    plans = [planning.plan(corr, io="stacked", cost=cost) for cost in (first, second)]
    assert plans[0].cost == pytest.approx(plans[1].cost, rel=1e-3)
    assert ways(plans[0]) == ways(plans[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_is_for_cuda_has_a_probe(tmp_path: Path, name: str) -> None:
    """The probes are built and loaded as on a machine with a GPU; no GPU runs them."""
    corr = network(name, tmp_path)
    base = cost_for("cuda", corr, SIZES)
    survey = tuner.surveyed(corr, "stacked", frozenset(), base)  # type: ignore[arg-type]
    times = measured(survey, Pretended(runtime=Runtime("cuda")))
    assert times.fresh and not times.failed
    plan = planning.plan(corr, io="stacked", cost=survey.tuned(times.known))
    assert plan.provider == "cuda"
    compare(corr, materialise(lower(corr, plan, io="stacked")), "stacked", np.random.default_rng(2))


def test_copies_have_as_many_weights_as_the_family(tmp_path: Path) -> None:
    """Those of a small family stay in a cache, those of a large one come from memory."""
    shapes = {"w": (64, 64)}
    text = "g (float[1, 64] x) => (float[1, 64] y) { y = MatMul(x, w) }"
    paths = [Path(save(tmp_path / f"m{k}.onnx", model(text, shapes, seed=k))) for k in range(2)]
    survey = priced(family_of(paths))
    one = next(iter(survey.entries.values()))
    made = probe(one.case)
    counts = []
    for size in REACHES:
        around = frame.Frame(dict.fromkeys(frame.NAMES, 0.0))
        counts.append(Measurer(Pretended(), around, "cpu", size).copies(made, 1.0))
    assert counts == sorted(counts) and counts[0] * 2 * 64 * 64 * 4 <= REACHES[0]
    assert {reach(held) for held in (0, *(1 << n for n in range(19, 31)))} == set(REACHES)
    assert all("weights by 1 MiB" in key for key in survey.entries)


# --------------------------------------------------------------------------- prices


def test_what_was_not_measured_is_scaled_by_its_kind(tmp_path: Path) -> None:
    survey = priced(network("words", tmp_path))
    entries = survey.entries
    known = {key: 3.0 * entry.predicted for key, entry in entries.items() if entry.case.kind[0] == "MatMul"}
    scales = Scales.of((entries[key].case, t, entries[key].predicted) for key, t in known.items())
    for key, entry in entries.items():
        assert scales.factor(entry.case) == pytest.approx(3.0), key
    faster = next(key for key in known if "once per model" in key)
    known[faster] = entries[faster].predicted
    scales = Scales.of((entries[key].case, t, entries[key].predicted) for key, t in known.items())
    same = [e for e in entries.values() if e.case.kind == entries[faster].case.kind]
    others = [e for e in entries.values() if e.case.kind[0] != "MatMul"]
    assert same and others
    assert scales.factor(same[0].case) < 3.0
    assert 1.0 < scales.factor(others[0].case) < 3.0


def test_a_measured_price_is_the_time_itself(tmp_path: Path) -> None:
    corr = network("one row", tmp_path)
    survey = priced(corr)
    times = {key: 7.0 for keys in survey.choices for key in keys}
    cost = survey.tuned(times)
    whole = {divided.key for divided in survey.divided}
    for site, offers in zip(survey.found.sites, survey.found.options, strict=True):
        for offer in offers if len(offers) > 1 else []:
            case = cost.case(offer, site)
            if case and survey.keys.of(case) in times and place(offer) not in cost.shares:
                assert cost.lowering(offer, site) == 7.0
    assert whole


@pytest.mark.parametrize("name", ["layers", "words"])
def test_the_shares_of_a_chain_add_up_to_its_time(tmp_path: Path, name: str) -> None:
    survey = priced(network(name, tmp_path))
    rng = np.random.default_rng(3)
    times = {divided.key: rng.uniform(50.0, 100.0) for divided in survey.divided}
    parts = shares(survey.divided, times)
    assert survey.divided
    for divided in survey.divided:
        assert sum(parts[where] for where, _ in divided.parts) == pytest.approx(times[divided.key])
        assert all(parts[where] >= 0.0 for where, _ in divided.parts)


def test_options_of_unknown_speed_are_on_offer_once_they_are_measured(tmp_path: Path) -> None:
    corr = network("words", tmp_path)
    base = cost_for("cpu", corr, SIZES)
    survey = priced(corr)

    def rules(cost: Any) -> set[str]:
        found = planning.candidates(corr, io="separate", share=frozenset(), cost=cost)
        return {offer.rule for offers in found.options for offer in offers}

    more = rules(survey.tuned({}, open=True)) - rules(base)
    assert "linear_rows" in more
    assert rules(survey.tuned({})) == rules(base)
    every = {key: 1.0 for keys in survey.choices for key in keys}
    assert "linear_rows" in rules(survey.tuned(every))


# --------------------------------------------------------------------------- the clock


def test_the_shortest_time_counts_and_turns_alternate() -> None:
    order: list[str] = []

    def run(name: str, taken: Iterator[float]) -> Callable[[], float]:
        def once() -> float:
            order.append(name)
            return next(taken)

        return once

    best = in_turns([run("a", iter([3.0, 1.0, 2.0])), run("b", iter([5.0, 6.0, 4.0]))], 3)
    assert best == [1.0, 4.0] and order == ["a", "b"] * 3
    assert in_turns([run("a", iter([3.0, 1.0]))], 2, until=time.monotonic() - 1.0) == [3.0]


def test_a_frame_is_measured_and_taken_away() -> None:
    made = frame.measured(Clock(Runtime("cpu"), 1))
    assert set(made.times) == set(frame.NAMES)
    assert made.times[frame.CALL] > 0.0 and all(t >= 0.0 for t in made.times.values())


def test_a_real_clock_times_a_real_network(tmp_path: Path) -> None:
    corr = network("layers", tmp_path)
    cost = tuned(corr, io="stacked", runtime=Runtime("cpu"), dims=SIZES, seconds=20, threads=1, cache=False)
    assert cost.summary.measured > 0 and all(t > 0.0 for t in cost.times.values())
    plan = planning.plan(corr, io="stacked", cost=cost)
    compare(corr, materialise(lower(corr, plan, io="stacked")), "stacked", np.random.default_rng(1))
    parts = dict(plan.prediction.parts) if plan.prediction else {}
    assert parts.pop("call") > 0.0
    assert sum(parts.values()) == pytest.approx(plan.cost, rel=0.01)
