"""Writes the tables of docs/serving.md: `make docs`.

From how many waiting models on merged calls are made follows from the times of tests/costs, which
bench/call_costs.py measured, and the scheduler, which is asked. Single calls and load are what bench/calls.py
and bench/load.py wrote to bench/results; without these files, their tables are empty.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from netfuse_onnx.runtime.merges import merges_from
from netfuse_onnx.units import duration

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from simulated import FORM, TABLES, recorded  # noqa: E402

from bench import calls, load, load_plot  # noqa: E402  neither folder is a package that is installed

PAGE = ROOT / "docs" / "serving.md"
FAMILIES = ("policy", "lora", "lora-selected", "frozen", "mobilenet", "vit", "bert")


def main() -> None:
    PAGE.write_text(text())


def text() -> str:
    """Return the page with its tables."""
    page = PAGE.read_text()
    for mark, lines in {"pays": pays(), "calls": single_calls(), "load": under_load()}.items():
        block = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
        written = "".join(f"{line}\n" for line in lines)
        page = block.sub(lambda found, written=written: found[1] + written + found[2], page)
    return page


def pays() -> Iterator[str]:
    """Yield a row for each family: the times of its calls, and when merged calls are made."""
    yield from _head(
        "family", "models", "a request alone", "8 of one model", "merged, one of each model",
        "merged calls from", "with two at a time",
    )  # fmt: skip
    for name in FAMILIES:
        known, costs = json.loads((TABLES / f"{name}.json").read_text()), recorded(name)
        models, times = known["models"], costs.of(FORM)
        seconds = (times.alone(1), times.alone(8), times.merged(models, 1, models))
        found = (merges_from(costs, models, FORM, workers) for workers in (1, 2))
        yield _row(
            known["about"], models, *map(duration, seconds), *(f"{k}" if k else "never" for k in found)
        )


def single_calls() -> Iterator[str]:
    """Yield a row for each family: single calls of a session beside those of the sources' sessions."""
    rows = _measured(calls.RESULTS, "rows")
    if not rows:
        return
    yield from _head(
        "family", "models", "one row of each model", "8 rows of one model", "one row of one model"
    )
    for name, group in groupby(rows, key=lambda row: str(row["family"])):
        found = {row["call"]: row for row in group}
        yield _row(name, found["many"]["models"], *(_times(found[shape]) for shape in calls.SHAPES))


def under_load() -> Iterator[str]:
    """Yield the picture, and a row for each family and mix: the session beside the better of two rivals."""
    cells = _measured(load.RESULTS, "cells")
    if not cells:
        return
    if load_plot.OUT.exists():
        words = (
            "Throughput, p50 and p99 against load, for each family: the merged session, one by one, batches"
        )
        yield f"![{words} of each model.](img/{load_plot.OUT.name})\n"
    yield from _head(
        "family", "models", "asked for", "served, of the better rival's", "p99, of the better rival's",
        "requests per second at most", *load.CONTENDERS[1:],
    )  # fmt: skip
    for (name, mix), group in groupby(cells, key=lambda cell: (cell["family"], cell["mix"])):
        found = list(group)
        served, p99, _ = zip(*map(load.beside, found), strict=True)
        most = (max(cell["contenders"][one]["goodput"] for cell in found) for one in load.CONTENDERS)
        mean = float(np.exp(np.mean(np.log(p99))))
        figures = f"{min(served):.3f} at least", f"{mean:.2f} (at most {max(p99):.2f})"
        yield _row(name, found[0]["models"], mix, *figures, *(f"{rate:,.0f}" for rate in most))


def _times(row: dict[str, Any]) -> str:
    """Return a time, and the speed beside the sources' sessions."""
    low, high = row["quartiles"]
    return f"{duration(row['merged_us'] * 1e-6)}: {row['times']:.2f} x ({low:.2f} to {high:.2f})"


def _measured(path: Path, key: str) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text())[key]) if path.exists() else []


def _head(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield "|---|" + "---:|" * (len(columns) - 1)


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
