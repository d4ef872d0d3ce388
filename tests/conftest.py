"""Fixtures that several test files use, and the tests of `make quick`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from commands import Run
from fake_engine import Gate
from netfuse_onnx.cli import main as cli

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when a test file imports onnxruntime, which comes later


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


@pytest.fixture
def one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets each way of `bench` try one setting only. Tests of something else need not wait for the others."""
    monkeypatch.setattr("netfuse_onnx.measure.choice.PATIENCE", 0.0)


def pytest_collection_finish() -> None:
    """Keep the collected tests out of garbage collections: they are half a million objects that live to the end, and
    each measurement of memory would look through all of them, for a quarter of a second."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Keep out of them, too, what the tests of a file have imported: torch is half a million objects more."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


# --------------------------------------------------------------------------- make quick

QUICK_FILES = frozenset(
    f"test_{name}.py"
    for name in (
        "architecture", "attributes", "cli", "compare", "control", "convert", "load", "match", "mutants",
        "operators_doc", "plan", "qdq", "rule_coverage", "verify", "weights", "write",
    )
)  # fmt: skip
"""The files whose tests `make quick` runs. From those in tests/rules it takes the first case of each test, which
together use every rule."""
NOT_QUICK = (
    "every_role",
    "to_floats_before",
    "no_combination_is_cheaper",
    "commands_in_the_docs",
    "memory_is_bounded",
)
"""Parts of the names of tests that take more than a second."""
QUICK_CASES = ("test_depth_and_space[CRD]", "test_conv[strides = [2, 1]-1]")
"""Cases that are not the first of their test, but the only ones with their rule."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the files without quick tests where only these are asked for: collecting all takes ten seconds."""
    if config.getoption("markexpr") != "quick" or collection_path.is_dir():
        return None
    return not (collection_path.name in QUICK_FILES or collection_path.parent.name == "rules") or None


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Mark the quick tests."""
    seen = set[tuple[Path, str]]()
    for item in items:
        test = (item.path, item.name.partition("[")[0])
        first = item.path.parent.name == "rules" and test not in seen
        seen.add(test)
        if any(part in item.name for part in NOT_QUICK):
            continue
        if first or item.path.name in QUICK_FILES or item.name in QUICK_CASES:
            item.add_marker("quick")


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Give a gate that is open in the end, so that a test that fails leaves no thread behind."""
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def switching() -> Iterator[None]:
    """Let Python switch threads after almost every instruction."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
