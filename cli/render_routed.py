"""Prints how rows of a routed file find their models, and the proof of their mixes."""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.merge_rows import RoutingRow
from netfuse_onnx.proofs import Mixes

from .screen import REASONS, Screen


def routing(rows: Sequence[RoutingRow], console: Screen) -> None:
    """Print how rows find their models, and what the other way would cost."""
    told = {
        row.by: f"{row.microseconds:,.0f} us" if row.microseconds is not None else row.reason.rstrip(".")
        for row in rows
    }
    for row in rows:
        if row.chosen:
            others = "".join(f"; {by}: {text}" for by, text in told.items() if by != row.by)
            console.say(
                f"Rows find their models by {row.by}: {told[row.by]} expected for a call of {row.rows} rows "
                f"of random models{others}. --dim rows=R plans for others."
            )


def mixes(found: Mixes | None, console: Screen) -> None:
    if found is None:
        return
    for problem in found.problems[:REASONS]:
        console.say(f"Rows: {problem}")
    if found.ok:
        console.say(
            f"Rows: in {found.calls} calls with other mixes, {found.rows} rows are what their own models' "
            f"sources give; {found.refused} calls that name no model, or disagree in their rows, failed, as "
            "they must."
        )
