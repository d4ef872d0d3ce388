"""Prints how the files of a family were written, and what was brought together."""

from __future__ import annotations

from netfuse_onnx.spelling_rows import Spelling

from .screen import Screen


def spelling(rows: Spelling | None, console: Screen) -> None:
    """Print a line on the files, and one for each form; nothing for files that were written in one way."""
    for sentence in rows.sentences() if rows else ():
        console.say(sentence)
