"""ONNX's backend node tests, merged: all of them right, most of them batched. See backend_cases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from backend_table import Row, batched_share, faults, summary

BATCHED_SAMPLE = 0.90
BATCHED_ALL = 0.875
"""The part of the cases that is batched in both forms. These only ever go up."""

SCRIPT = Path(__file__).with_name("backend_cases.py")


def rows(folder: Path, *options: str) -> list[Row]:
    """In a process of its own: what happened here before must not matter."""
    out = folder / "rows.json"
    command = [sys.executable, str(SCRIPT), "--json", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    return [Row(**row) for row in json.loads(out.read_text())]


def check(found: list[Row], least: float) -> None:
    wrong = faults(found)
    assert not wrong, "\n".join([f"{len(wrong)} rows fail:", *wrong])
    assert batched_share(found) >= least, summary(found)


def test_sample(tmp_path: Path) -> None:
    check(rows(tmp_path, "--every", "8", "--jobs", "1"), BATCHED_SAMPLE)


@pytest.mark.slow
def test_all(tmp_path: Path) -> None:
    check(rows(tmp_path, "--jobs", str(os.cpu_count() or 1)), BATCHED_ALL)
