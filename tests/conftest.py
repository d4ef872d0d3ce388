"""Fixtures that several test files use."""

from __future__ import annotations

import os

import pytest
from commands import Run
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
