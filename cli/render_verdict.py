"""Prints a verdict: a line per question, the word for better or worse first, in colour on a terminal."""

from __future__ import annotations

from netfuse_onnx.verdict import Basis, Outcome, Verdict

from .screen import Screen

COLOURS = {Outcome.BETTER: "green", Outcome.WORSE: "red", Outcome.INCONCLUSIVE: "yellow", Outcome.EQUAL: ""}
WIDTH = max(map(len, Outcome))


def verdict(found: Verdict | None, console: Screen) -> None:
    """Print the verdict; nothing where there is none."""
    if found is None or not (found.rows or found.warning):
        return
    if found.rows:
        console.say(f"Verdict ({found.label} against {_sessions(found)}{_basis(found)}):")
    for row in found.rows:
        console.judged(f"{row.outcome:{WIDTH}}", COLOURS[row.outcome], row.sentence)
    if found.warning:
        console.judged(f"{Outcome.WORSE:{WIDTH}}", COLOURS[Outcome.WORSE], found.warning)
    for note in found.notes:
        console.say(f"Note: {note}")


def _sessions(found: Verdict) -> str:
    return f"{found.models} sessions" if found.models > 1 else "one session"


def _basis(found: Verdict) -> str:
    """Name the origin of the figures that are not counted."""
    bases = {row.basis for row in found.rows} - {Basis.COUNTED}
    return f", {' and '.join(sorted(bases))}" if bases else ""
