"""Prints hints: a line each, after all facts."""

from __future__ import annotations

from collections.abc import Sequence

from .screen import Screen


def hints(found: Sequence[str], console: Screen) -> None:
    """Print the hints; nothing where there are none."""
    for hint in found:
        console.say(f"Hint: {hint}")
