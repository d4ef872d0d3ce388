"""Prints what the models of a family share."""

from __future__ import annotations

from netfuse_onnx.merge_rows import Sharing

from .screen import Screen, size

LEAST = 0.01
"""A share of the bytes, or of the arithmetic, from which on it is said."""


def sharing(report: Sharing | None, console: Screen) -> None:
    """Say what is stored and computed once, where anything of note is."""
    if report is None:
        return
    if report.stored < (1 - LEAST) * report.sources:
        read = "" if report.read is None else f"; a call reads {size(report.read)}"
        console.say(
            f"Shared: {size(report.stored)} of weights are stored for {size(report.sources)} in the "
            f"sources{read}."
        )
    if report.once >= LEAST and report.arithmetic is not None:
        console.say(
            f"Shared: {report.once:.0%} of a model's arithmetic runs once for all models; a call of all "
            f"takes {report.arithmetic:.2f} times that of one model."
        )
