"""Writes the table of costs for people, when a server starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netfuse_onnx.units import duration

if TYPE_CHECKING:
    from netfuse_onnx.runtime.cost_table import CostTable

WIDTH = 9
"""Columns of one time."""
MOST_ROWS = 8
"""Rows of one model that are worth a column."""


def lines(table: CostTable) -> list[str]:
    """Return the lines of a table, and from how many waiting models on merging pays."""
    threads = f"{table.threads} threads" if table.threads > 1 else "1 thread"
    found = [f"Calls measured here, with {threads or 'all'} each and {table.workers} at a time:"]
    alone = [one for one in table.alone if one.rows <= MOST_ROWS]
    if alone:
        found.append(_row("  rows of one model", [str(one.rows) for one in alone]))
        found.append(_row("  its own session", [duration(one.seconds) for one in alone]))
    merged = [one for one in table.merged if one.rows == 1]
    found.append(_row("  models, one row each", [str(one.models) for one in merged]))
    found.append(_row("  a merged call", [duration(one.seconds) for one in merged]))
    if table.pays_from is None:
        found.append("Merging does not pay on this machine: requests run on their models' own sessions.")
    else:
        found.append(f"Merging pays from {table.pays_from} waiting models on.")
    return found


def _row(head: str, cells: list[str]) -> str:
    return f"{head:<22}" + "".join(f"{cell:>{WIDTH}} " for cell in cells).rstrip()
