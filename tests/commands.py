"""Helpers that the tests of the command line share. The fixture `run` is in conftest.py."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Runs a command: arguments -> (exit code, stdout, stderr)."""


def refused(answer: tuple[int, str, str], code: int, *said: str) -> None:
    """The exit code, and one sentence on stderr with these words; no traceback, nothing on stdout."""
    found, out, err = answer
    lines = err.strip().splitlines()
    assert (found, out) == (code, ""), err
    assert lines[0].startswith("netfuse-onnx: error: "), err
    assert len(lines) <= 2, err
    assert "Traceback" not in err
    for words in said:
        assert words in err
