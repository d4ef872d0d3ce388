"""Calling a verb and printing its answer."""

from __future__ import annotations

from typing import Any


def answer(verb: str, as_json: bool, *arguments: Any, **options: Any) -> int:
    """Call a verb and print its answer. The imports are here, so that --help loads neither onnx nor numpy."""
    from netfuse_onnx import api

    from . import render
    from .progress import progress

    with progress() as tell:
        if verb in ("merge", "verify", "bench", "bundle", "write_report"):
            options["progress"] = tell
        report = getattr(api, verb)(*arguments, **options)
    return render.answer(report, as_json)
