"""The results of serving on a GPU: what is kept of them, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import served_table
from bench.device import serve_results

WAYS = ("run_many", "merged", "together", "run", "bound", "at once")


def times(*medians: float) -> dict[str, object]:
    ms = {way: [median - 0.1, median, median + 0.1] for way, median in zip(WAYS, medians, strict=True)}
    return {"case": "bert n8", "part": "times", "ms": ms}


ONE = {f"one/{way}": [1.0, 2.0, 3.0] for way in ("MergedSession.run", "run", "bound")}
PARTS = [
    {"case": "bert n8", "part": "values", "error": 1e-3, "apart": 0.5, "good": True},
    {"case": "bert n8", "part": "values", "failed": "no memory", "good": False},
    times(4.0, 3.5, 5.0, 20.0, 11.0, 4.5),
    {"case": "bert n8", "part": "times", "ms": ONE},
    {"case": "bert n8", "part": "closed"},
]


def test_the_times_of_a_case_and_all_its_values_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = [times(9.0, 9.0, 9.0, 9.0, 9.0, 9.0), {**PARTS[0], "error": 2e-3}]
    for name, parts in (("first", PARTS), ("second", again)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serve.jsonl").write_text("".join(json.dumps(part) + "\n" for part in parts))
    kept = tmp_path / "kept.jsonl"
    words = ["", str(tmp_path / "first"), str(tmp_path / "second"), str(kept)]
    monkeypatch.setattr("sys.argv", words)
    assert serve_results.main() == 0
    (line,) = map(json.loads, kept.read_text().splitlines())
    assert line["ms"]["run_many"] == [3.9, 4.0, 4.1]
    assert (line["checks"], line["failed"], line["error"], line["apart"]) == (3, 1, 2e-3, 0.5)
    assert "| bert n8 | 4.00 (3.90 - 4.10) | 3.50 | 5.00 | 20.00 | 11.00 | 4.50 | 1.12 |" in list(
        served_table.lines([line])
    )
    assert "3 comparisons with the sources' sessions, 1 failed" in "\n".join(served_table.lines([line]))


@pytest.mark.parametrize(
    ("run_many", "merged", "wrong"), [(58.4, 11.1, True), (0.36, 0.21, False), (3.7, 3.4, False)]
)
def test_choices_of_a_slower_way_are_told(run_many: float, merged: float, wrong: bool) -> None:
    (line,) = serve_results.kept(
        [times(run_many, merged, 20.0, 134.0, 47.0, 21.0), {**PARTS[3]}, {**PARTS[0]}]
    )
    told = "\n".join(served_table.lines([line]))
    assert ("did not take the fastest for bert n8" in told) == wrong
