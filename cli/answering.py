"""Calling a verb and printing its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TOLD = ("merge", "verify", "bench", "bundle", "split", "update", "add", "remove", "write_report")
"""The verbs that tell their progress."""


def answer(
    verb: str, as_json: bool, *arguments: Any, keep: Callable[[Any], None] | None = None, **options: Any
) -> int:
    """Call a verb and print its answer, after `keep` got it. The imports are here, so that --help loads
    neither onnx nor numpy."""
    from netfuse_onnx import api

    from . import render
    from .progress import progress

    with progress() as tell:
        if verb in TOLD:
            options["progress"] = tell
        report = getattr(api, verb)(*arguments, **options)
    if keep:
        keep(report)
    return render.answer(report, as_json)
