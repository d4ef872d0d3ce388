"""Writes the table of docs/serving.md, from how many waiting models on merged calls are made: `make docs`.

The times are those of tests/costs, which bench/call_costs.py measured; the scheduler itself says which call
it takes.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from netfuse_onnx.measure.serving import merges_from
from netfuse_onnx.units import duration

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from simulated import FORM, TABLES, recorded  # noqa: E402  the loader of these tables stands there

PAGE = ROOT / "docs" / "serving.md"
MARKED = re.compile(r"(<!-- pays -->\n).*?(<!-- end -->)", re.DOTALL)
FAMILIES = ("policy", "lora", "lora-selected", "frozen", "mobilenet", "vit", "bert")
COLUMNS = (
    "family", "models", "a request alone", "8 of one model", "merged, one of each model",
    "merged calls from", "with two at a time",
)  # fmt: skip


def main() -> None:
    PAGE.write_text(text())


def text() -> str:
    """Return the page with its table."""
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1)), *map(_row, FAMILIES)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return MARKED.sub(lambda found: found[1] + table + found[2], PAGE.read_text())


def _row(name: str) -> tuple[str, ...]:
    known = json.loads((TABLES / f"{name}.json").read_text())
    models, costs = known["models"], recorded(name)
    times = costs.of(FORM)
    seconds = (times.alone(1), times.alone(8), times.merged(models, 1, models))
    found = (merges_from(costs, models, FORM, workers) for workers in (1, 2))
    pays = (f"{k} of {models}" if k else "never" for k in found)
    return (known["about"], str(models), *map(duration, seconds), *pays)


if __name__ == "__main__":
    main()
