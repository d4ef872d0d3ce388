"""Fixtures that several test files use."""

from __future__ import annotations

import pytest
from commands import Run
from netfuse_onnx.cli import main as cli


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        return code, found.out, found.err

    return call
