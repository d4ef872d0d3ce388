"""The scripts that measure serving: they charge for waiting, notice wrong answers, and judge figures as they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import arrivals, calls, load, load_plot, rivals, soak
from bench.served import CASES, Served, prepared


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return prepared(CASES["tiny"], tmp_path_factory.mktemp("served"))


class Slow:
    """A server of one call at a time, whose first call stalls it for some time."""

    def __init__(self, served: Served, stall: float) -> None:
        self._served, self._stall = served, stall
        self._asked = {id(f): (m, k) for m, every in enumerate(served.feeds) for k, f in enumerate(every)}

    def submit(self, model: int, feeds: Mapping[str, Any]) -> Future[dict[str, Any]]:
        time.sleep(self._stall)
        self._stall = 0.0
        future: Future[dict[str, Any]] = Future()
        answers = self._served.answers[self._asked[id(feeds)][0]][self._asked[id(feeds)][1]]
        future.set_result(dict(zip(self._served.outputs, answers, strict=True)))
        return future


def test_a_stall_is_charged_to_all_requests_that_were_planned_in_it(tiny: Served) -> None:
    planned = arrivals.Plan([0.0, 0.05, 0.1, 0.3], [0, 1, 2, 0], [0, 0, 0, 0], 0.4)
    sample = arrivals.run(Slow(tiny, 0.2), tiny, planned, rivals.Full)
    assert sample.offered == sample.done == 4
    assert sample.latencies[:3].tolist() == pytest.approx([0.2, 0.15, 0.1], abs=0.04)
    assert sample.latencies[3] < 0.05


def test_a_request_that_is_not_done_counts_with_its_age(tiny: Served) -> None:
    planned = arrivals.Plan([0.0, 0.02], [0, 0], [0, 0], 0.1)
    sample = arrivals.run(Slow(tiny, 0.2), tiny, planned, rivals.Full)
    assert sample.done == 0 and sample.latencies.tolist() == pytest.approx([0.1, 0.08])


def test_answers_of_another_model_end_the_measurement(tiny: Served) -> None:
    exchanged = replace(tiny, answers=(tiny.answers[1], tiny.answers[0], tiny.answers[2]))
    planned = arrivals.plan(tiny, "uniform", 200.0, 0.1, 0)
    with pytest.raises(SystemExit, match="a wrong answer of m"):
        arrivals.run(Slow(exchanged, 0.0), tiny, planned, rivals.Full)


def test_equal_arguments_give_equal_plans_and_mixes_differ(tiny: Served) -> None:
    assert arrivals.plan(tiny, "Zipf", 500.0, 1.0, 3) == arrivals.plan(tiny, "Zipf", 500.0, 1.0, 3)
    asked = {mix: arrivals.plan(tiny, mix, 2000.0, 1.0, 0).model for mix in arrivals.MIXES}
    assert set(asked["2 active"]) == {0, 1}
    assert np.bincount(asked["Zipf"]).tolist() == pytest.approx([1091, 545, 364], rel=0.2)
    assert np.bincount(asked["uniform"]).tolist() == pytest.approx([667] * 3, rel=0.2)


@pytest.mark.parametrize("contender", load.CONTENDERS)
def test_each_contender_gives_right_answers_under_load(tiny: Served, contender: str) -> None:
    with load.contender(tiny, load.Setting(contender, 2, 1)) as tasks:
        sample: Any = tasks["load"]("uniform", 500.0, 0.3, 0)
        limit: Any = tasks["capacity"]("2 active", 0.3)
    assert sample.offered > 100 and sample.done
    assert limit > 0


@pytest.mark.parametrize("kind", [rivals.OneByOne, rivals.PerModel])
def test_a_rival_refuses_what_it_has_no_room_for(
    tiny: Served, kind: type[rivals.OneByOne] | type[rivals.PerModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "MAX_QUEUE", 0)
    server = kind(tiny.sources, 1, 1)
    with pytest.raises(rivals.Full):
        server.submit(0, tiny.feeds[0][0])
    server.close()


def test_requests_of_one_model_share_a_batch(tiny: Served) -> None:
    server = rivals.PerModel(tiny.sources, 0, 1)
    futures = [server.submit(model, tiny.feeds[model][k]) for k in range(5) for model in (1, 0)]
    rows = []
    real = server._sessions[1].run
    server._sessions[1] = type("Own", (), {
        "run": staticmethod(lambda names, feeds: (rows.append(len(feeds["input_ids"])), real(names, feeds))[1])
    })()  # fmt: skip
    worker = threading.Thread(target=server._work)
    worker.start()
    got = futures[8].result(timeout=30)["logits"]
    np.testing.assert_allclose(got, tiny.answers[1][4][0], rtol=1e-3, atol=1e-4)
    server.close()
    worker.join(timeout=30)
    assert rows == [5]


def test_single_calls_are_measured_and_checked(tiny: Served) -> None:
    for make in (calls.merged(tiny), calls.sources(tiny, 1)):
        with make as tasks:
            assert all(0 < tasks[shape](0.01) < 1 for shape in calls.SHAPES)
    wrong = replace(tiny, answers=(tiny.answers[1], tiny.answers[0], tiny.answers[2]))
    with calls.sources(wrong, 1) as tasks, pytest.raises(SystemExit, match="a wrong answer"):
        tasks["many"](0.01)


def test_the_bars_of_single_calls() -> None:
    served = Served("policy-8", ("m0",), (), "", (), (), ())
    samples = {"merged": [1.0, 1.0], "threads 1": [2.3, 2.4], "threads 2": [9.0, 9.0]}
    row = calls.figures(served, "many", samples)
    assert row["best"] == "threads 1" and row["holds"] and row["times"] == 2.35
    assert not calls.figures(served, "many", samples | {"threads 2": [2.1, 2.1]})["holds"]
    assert calls.figures(served, "row", {"merged": [129e-6], "threads 1": [100e-6]})["holds"]
    assert not calls.figures(served, "row", {"merged": [131e-6], "threads 1": [100e-6]})["holds"]
    assert not calls.figures(served, "rows", {"merged": [111e-6], "threads 1": [100e-6]})["holds"]


def cell(p99: float, goodput: float = 100.0) -> dict[str, Any]:
    other = {
        "offered": 100.0, "goodput": 100.0, "served": 1.0, "p50": 1.0, "p99": 1.0, "p99_of_turns": [1, 1],
        "processor_us": 50.0,
    }  # fmt: skip
    own = other | {"goodput": goodput, "served": goodput / 100, "p99": p99, "p99_of_turns": [1, p99]}
    contenders = {load.MERGED: own, load.ONE: other, load.PER_MODEL: other | {"p99": 3.0}}
    return {"family": "f", "models": 2, "mix": "uniform", "load": 0.5, "contenders": contenders}


def test_a_cell_is_compared_with_the_better_rival() -> None:
    assert load.beside(cell(1.2)) == pytest.approx((1.0, 1.2, 1.0))
    assert "Beyond the bound: 2 cells; by more than 15 %: 1." in load.summary(
        [cell(1.1), cell(1.3), cell(1.5)]
    )
    assert "by more than 15 %: 1." in load.summary([cell(1.0, goodput=80.0)])


def test_the_plot_of_load(tmp_path: Path) -> None:
    load_plot.draw([cell(1.2), cell(1.4) | {"load": 0.9}], tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(name in drawn for name in (*load.CONTENDERS, "offered", "p99, ms", "f, 2 models"))


def test_memory_that_grows_is_not_flat() -> None:
    flat = [soak.Sample(n, 100 * n, 100.0 + (n % 2), 90.0, 5, 20) for n in range(1, 31)]
    assert not soak.growth(flat)
    assert "slope" in soak.told(flat)[1]
    (grown,) = soak.growth([replace(one, anonymous=90.0 + one.seconds) for one in flat])
    assert grown.startswith("anonymous grows")
    assert soak.growth(flat[:3]) == ["3 rounds are too few to tell: serve for longer"]
    assert soak.growth([replace(one, threads=int(one.seconds)) for one in flat])
