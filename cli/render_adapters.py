"""Prints the list of what adapters change in their base."""

from __future__ import annotations

from netfuse_onnx.adapter_rows import AdaptedRow, Adapters

from .screen import Screen, some

ROWS = 12
"""At most so many weights are printed; --json has them all."""


def adapters(report: Adapters | None, console: Screen) -> None:
    if report is None:
        return
    products = [row for row in report.rows if any(row.ranks)]
    whole = [row for row in report.rows if row.replaced]
    models = len(report.files)
    console.say(
        f"Adapters: each tensor of {models} adapters has a place in {report.base}: {len(products)} weights "
        f"are changed by a product, {len(whole)} replaced."
    )
    rows = [
        (row.module, row.node or row.weight, row.evidence, _how(row, models)) for row in report.rows[:ROWS]
    ]
    console.table(("name in the adapters", "in the base", "told by", "change"), rows)
    if len(report.rows) > ROWS:
        console.say(f"and {len(report.rows) - ROWS} more, see --json")
    for note in report.notes:
        console.say(f"Note: {note}")


def _how(row: AdaptedRow, models: int) -> str:
    ranks = sorted({rank for rank in row.ranks if rank})
    count = sum(1 for rank in row.ranks if rank) or len(row.replaced)
    what = f"rank {some([str(rank) for rank in ranks])}" if ranks else "replaced"
    return what if count == models else f"{what}, in {count} of {models}"
