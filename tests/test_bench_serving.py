"""`bench` says from how many waiting models on a MergedSession takes a merged call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run
from families import family, merged
from netfuse_onnx.cli.render_bench import bench as print_bench
from netfuse_onnx.cli.screen import Screen

from netfuse_onnx.measure.report import BenchReport, Row, Serving, Waiting
from netfuse_onnx.measure.rounds import Quartiles
from netfuse_onnx.measure.serving import of_calls, serving
from netfuse_onnx.runtime.merges import merges_from
from netfuse_onnx.runtime.schedule import GAIN


@pytest.mark.parametrize(
    ("alone", "all_models", "wanted"),
    [(10.0, 14.0, 2), (10.0, 18.0, 3), (10.0, 29.0, 4), (10.0, 40.0, None), (10.0, 1.0, 2)],
)
def test_a_merged_call_must_serve_clearly_more(alone: float, all_models: float, wanted: int | None) -> None:
    """k requests are worth k own calls; the merged call costs that of all four models, and one own call at
    least, which is a part of its work."""
    assert merges_from(of_calls(4, alone, {4: all_models}), 4) == wanted
    first = next((k for k in range(1, 5) if k * alone > GAIN * max(alone, all_models)), None)
    assert wanted == first


def test_a_file_that_chooses_costs_what_its_models_cost() -> None:
    """Two models cost 11 here, not the 100 of a call of all eight."""
    assert merges_from(of_calls(8, 10.0, {1: 10.0, 2: 11.0, 8: 100.0}), 8) == 2
    assert merges_from(of_calls(8, 10.0, {8: 100.0}), 8) is None


def test_the_figures_are_those_of_the_table() -> None:
    rows = (_row("merged", 0.004, merged=True), _row("merged", 0.003, merged=True), _row("in sequence", 0.01))
    some = (_waiting("other", 1, 0.001), _waiting("merged", 1, 0.002), _waiting("merged", 2, 0.004))
    assert serving(4, "merged", rows, some) == Serving("merged", 0.002, 0.002, 0.003, 3, GAIN)
    pool = _row("concurrent", 0.006)
    assert serving(4, "merged", (*rows, pool), some) == Serving("merged", 0.002, 0.0015, 0.003, 3, GAIN)
    assert serving(4, "merged", rows, some[2:]) is None
    assert serving(4, "absent", rows, some) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (3, "A MergedSession takes a merged call (3 ms) from 3 of 4 waiting models on"),
        (
            None,
            "A MergedSession runs each model alone: where all 4 models wait, a merged call (3 ms) does not",
        ),
    ],
)
def test_the_sentence(found: int | None, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (_row("merged", 0.003, merged=True), _row("in sequence", 0.01))
    machine = {"processor": "p", "cores": 2}
    told = Serving("merged", 0.002, 0.002, 0.003, found, GAIN)
    report = BenchReport(("a", "b", "c", "d"), "n=1", "cpu", rows, serving=told, machine=machine)
    print_bench(report, Screen(data=True))
    assert words in capsys.readouterr().out


def test_the_verb_says_it(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, count=3)
    code, out, _ = run("bench", merged(tmp_path, paths, "stacked"), *paths, "--seconds", "2", "--json")
    report = json.loads(out)
    assert code == 0
    found = report["serving"]
    assert found["gain"] == GAIN and found["label"] == report["verdict"]["label"]
    one = next(row for row in report["waiting"] if row["models"] == 1)
    assert found["alone"] == one["seconds"]["median"]
    assert found["merged"] == min(row["seconds"]["median"] for row in report["rows"] if row["merged"])
    assert found["each"] <= found["alone"]
    assert found["merges_from"] == merges_from(of_calls(3, found["each"], {3: found["merged"]}), 3)


def _row(label: str, seconds: float, *, merged: bool = False) -> Row:
    kinds = {"merged": "merged", "in sequence": "sequence"}
    return Row(
        kinds.get(label, label), label, merged, seconds=Quartiles(seconds, seconds, seconds, 5), error=0.0
    )


def _waiting(label: str, models: int, seconds: float) -> Waiting:
    time = Quartiles(seconds, seconds, seconds, 5)
    return Waiting(label, models, "in sequence", time, time, time)
