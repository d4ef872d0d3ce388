"""Prints that another tool has changed a merged file since the merge."""

from __future__ import annotations

from netfuse_onnx.changed import Changed

from .screen import Screen


def changed(change: Changed | None, compared: str, console: Screen) -> None:
    """Print the change as a warning, with a hint unless the values were `compared` alone."""
    if change:
        console.warn((change.sentence if compared else f"{change.sentence} {change.hint}",))
