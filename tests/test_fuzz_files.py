"""The fuzzer of files (tests/fuzz_files.py): a short run, and that it sees what it looks for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import fuzz_files
import numpy as np
import pytest
from file_fuzzing import trial
from file_fuzzing.case import OUTSIDE, SECRET, draw
from file_fuzzing.seeds import families

SEED = 1


def found(folder: Path, count: int, seed: int = SEED) -> list[fuzz_files.Verdict]:
    fuzzer = fuzz_files.Fuzzer(seed, folder)
    verdicts = list(fuzzer.run(range(count)))
    assert fuzzer.done >= count - len(verdicts)
    return verdicts


def test_mutated_files_never_hurt(tmp_path: Path) -> None:
    assert not found(tmp_path, 200)


def test_an_input_is_always_the_same_one(tmp_path: Path) -> None:
    some = families(tmp_path)
    for index in range(40):
        assert draw(7, index, some) == draw(7, index, some)
    assert draw(7, 1, some) != draw(8, 1, some)


def raises(arguments: list[str]) -> int:
    raise TypeError("ours")


def dies(arguments: list[str]) -> int:
    os.kill(os.getpid(), 11)
    return 0


def spins(arguments: list[str]) -> int:
    start = time.process_time()
    while time.process_time() - start < 5:
        pass
    return 0


def fills(arguments: list[str]) -> int:
    return int(np.ones(300_000_000, np.uint8)[0]) - 1


def leaves(arguments: list[str]) -> int:
    Path("half.onnx").write_bytes(b"")
    return 3


def peeps(arguments: list[str]) -> int:
    return 3 if Path(f"../{OUTSIDE}/{SECRET}").read_bytes() else 0


def wanders(arguments: list[str]) -> int:
    with open("/etc/hostname", "rb"):
        return 0


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are reached soon."""
    for module in (trial, fuzz_files):
        monkeypatch.setattr(module, "SECONDS", 2.0)
        monkeypatch.setattr(module, "BYTES", 200_000_000)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (raises, "TypeError in"),
        (dies, "ended by signal -11"),
        (spins, "2.0 s"),
        (fills, "memory"),
        (leaves, "left files"),
        (peeps, "opened a file outside"),
        (wanders, "opened a file outside"),
        (lambda arguments: 4, "exit 4"),
        (lambda arguments: 3, "exit 3 without one clear sentence"),
    ],
)
def test_it_sees_what_hurts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[list[str]], int], kind: str
) -> None:
    fuzzer = fuzz_files.Fuzzer(SEED, tmp_path)
    monkeypatch.setattr(trial.command_line, "main", wrong)
    assert any(kind in text for _, text, _ in fuzzer.run([0]))
