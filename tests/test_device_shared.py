"""The kit for a GPU machine without network: its checks of files that choose find what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stubs import ROOT

from netfuse_onnx.run.runtime import Session

FORMS = (("mlp", "index"), ("mlp", "slots"), ("mlp", "selected"), ("low rank mlp", "stacked"))


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module shared_values, which finds the others of the kit beside it."""
    monkeypatch.syspath_prepend(ROOT / "bench" / "device")
    import shared_values

    return shared_values


@pytest.mark.parametrize(("family", "io"), FORMS)
def test_right_files_have_no_findings(kit: Any, family: str, io: str) -> None:
    rows = [*kit.check(kit.Form(family, io), "cpu", False)]
    assert len(rows) == 2 and all(row["ok"] for row in rows), rows
    assert all(row["calls"] > 2 and row["worst"] < 1e-5 and row["distinct"] > 0.05 for row in rows)
    assert all(row["refused"] == 14 for row in rows) or io == "stacked"


@pytest.mark.parametrize(("family", "io"), FORMS)
def test_exchanged_models_are_found(kit: Any, monkeypatch: pytest.MonkeyPatch, family: str, io: str) -> None:
    """The models are exchanged after the merge, so that the file has those of the wrong places."""

    def exchanged(form: Any, own: Any, *more: Any, **options: Any) -> str:
        out = made(form, own, *more, **options)
        own.paths[0], own.paths[2] = own.paths[2], own.paths[0]
        return out

    made = kit.merged
    monkeypatch.setattr(kit, "merged", exchanged)
    for row in kit.check(kit.Form(family, io), "cpu", False):
        assert any("differs by" in text for text in row["wrong"]), row


@pytest.mark.parametrize("io", ["index", "slots", "selected"])
def test_ids_that_are_taken_are_found(kit: Any, monkeypatch: pytest.MonkeyPatch, io: str) -> None:
    """A session that takes every id for some model, as Gather does for -1."""

    def lenient(self: Session, feeds: dict[str, Any], *more: Any) -> Any:
        fed = {n: np.mod(v, 3) if n in ("model", "models") else v for n, v in feeds.items()}
        return run(self, fed, *more)

    run = Session.run
    monkeypatch.setattr(Session, "run", lenient)
    for row in kit.check(kit.Form("mlp", io), "cpu", False):
        assert any("gives an answer: id -1" in text for text in row["wrong"]), row


def test_files_for_the_times_are_prepared(tmp_path: Path) -> None:
    words = ["--out", tmp_path, "--work", tmp_path, "--graphs", tmp_path, "--tiny", "--prepare"]
    command = [sys.executable, ROOT / "bench" / "device" / "shared_times.py", *words]
    done = subprocess.run(
        [*map(str, command), "--only", "routed-encoder"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    about = json.loads((tmp_path / "routed-encoder" / "case.json").read_text())
    assert [file["io"] for file in about["files"]] == ["slots", "index", "selected", "stacked"]
    assert all(Path(file["path"]).exists() for file in about["files"]) and len(about["paths"]) == 3


def test_results_are_kept_without_samples_and_folders(tmp_path: Path) -> None:
    rows = [{"label": "stacked", "samples": [1.0, 2.0], "seconds": {"median": 1.5}}]
    (tmp_path / "results.jsonl").write_text(json.dumps({"name": "n", "rows": rows, "verdict": {}}) + "\n")
    checks = [
        {"file": "mlp", "way": "arrays", "tf32": False, "calls": 3, "refused": 2, "worst": 1e-7, "wrong": []},
        {"file": "mlp", "way": "arrays", "tf32": True, "calls": 3, "refused": 2, "worst": 1e-3, "wrong": []},
        {"file": "mlp", "way": "merge", "wrong": ["fails: /tmp/x/y.onnx"]},
    ]
    (tmp_path / "shared.jsonl").write_text("".join(json.dumps(check) + "\n" for check in checks))
    kept = tmp_path / "kept.jsonl"
    script = ROOT / "bench" / "device" / "shared_results.py"
    subprocess.run([sys.executable, script, tmp_path, kept], check=True, timeout=60)
    case, file = map(json.loads, kept.read_text().splitlines())
    assert case == {"name": "n", "rows": [{**rows[0], "samples": []}]}
    assert (file["calls"], file["refused"], file["worst"], file["graph"]) == (6, 4, 1e-7, False)
    assert file["wrong"] == ["fails: y.onnx"]
