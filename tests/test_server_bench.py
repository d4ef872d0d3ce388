"""The script that measures serving over the network: it compares answers, counts refusals, and judges figures."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if not all(map(importlib.util.find_spec, ("tritonclient", "uvicorn", "aiohttp"))):
    pytest.skip("servers and clients are missing: pip install -e .[serve,dev]", allow_module_level=True)

from bench import rivals, server_load, server_load_plot, server_ways
from bench.served import CASES, Served, prepared
from bench.server_client import GRPC, HTTP, Sample, Sender
from bench.server_ways import MERGED, OWN, PER_MODEL, Setting


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return prepared(CASES["tiny"], tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def cells(tiny: Served) -> list[dict[str, Any]]:
    """A short run measures each way in a process of its own."""
    given = argparse.Namespace(
        ways=[MERGED, OWN, PER_MODEL], protocols=[HTTP, GRPC], mixes=["2 active"], loads=[0.3], seconds=0.2, turns=2
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rivals, "settings", lambda: [(1, 1)])
        return list(server_load.family(tiny, given))


def test_a_run_has_all_figures(cells: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [cell["protocol"] for cell in cells] == [HTTP, GRPC]
    for cell in cells:
        assert cell["capacity"] > 20 and list(cell["ways"]) == [MERGED, OWN, PER_MODEL]
        for one in cell["ways"].values():
            assert (
                one["offered"] > 0 and one["refused"] == 0 and one["server_us"] > 0 and one["client_us"] > 0
            )
            assert one["p99_of_turns"][0] <= one["p99"] <= one["p99_of_turns"][1]
    server_load_plot.load_plot.draw(
        [cell | {"contenders": server_load_plot._named(cell["ways"])} for cell in cells[:1]],
        tmp_path / "plot.svg",
    )
    assert (tmp_path / "plot.svg").read_text().count("<svg") == 1
    assert server_load_plot.table(cells).count("\n") == 3


@pytest.mark.parametrize("setting", [Setting(MERGED), Setting(OWN, 1, 1)], ids=lambda one: one.way)
def test_wrong_answers_and_refusals_are_seen(
    tiny: Served, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that expects the answers of other models stops; a queue of two refuses most of what comes at once."""
    monkeypatch.setattr(rivals, "MAX_QUEUE", 2)
    exchanged = replace(tiny, answers=(tiny.answers[1], tiny.answers[0], tiny.answers[2]))
    with server_ways.server(tiny, setting) as tasks:
        ports: Any = tasks["ports"]()
        for protocol in (HTTP, GRPC):
            sender = Sender(exchanged, protocol, ports[protocol])
            with pytest.raises(SystemExit, match="A wrong answer of m"):
                sender.load("uniform", 100.0, 0.2, 0)
            sender.close()
            sender = Sender(tiny, protocol, ports[protocol])
            sample = sender.load("uniform", 20_000.0, 0.05, 0)
            sender.close()
            assert sample.refused > 0 and sample.refused + len(sample.latencies) == sample.offered
            assert len(sample.latencies) > 0 and sample.done <= len(sample.latencies)


def turn(done: int, milliseconds: float) -> server_load.Turn:
    return Sample(100, done, 0, 1.0, np.full(done, milliseconds / 1e3), np.zeros(100), 0.01), 0.1


@pytest.mark.parametrize(
    ("merged", "own", "short"),
    [((100, 5.0), (100, 5.0), False), ((88, 5.0), (100, 5.0), True), ((100, 5.6), (100, 5.0), True),
     ((92, 5.4), (100, 5.0), False)],
)  # fmt: skip
def test_the_bar(merged: tuple[int, float], own: tuple[int, float], short: bool) -> None:
    """At most 10 % fewer answers, and a p99 that is at most 10 % longer."""
    beside = server_load.ratios([turn(*merged)] * 3, [turn(*own)] * 3)
    assert server_load.is_short({"ratios": {OWN: beside}}) is short
