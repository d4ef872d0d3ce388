"""Prints results of bench/serving.py, every way with its settings: `python bench/table.py FOLDER`.

Times are medians in milliseconds, `x` is the time of the best way that is not merged, over this one's. On
CUDA the first pair is a call from arrays to arrays, the second a call whose inputs and outputs stay on
the GPU.
"""

from __future__ import annotations

import collections
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import plot

Row = Mapping[str, Any]
HEAD = f"{'ms':>9} {'quartiles':>17} {'x':>6} {'on GPU':>9} {'x':>6} {'load s':>7} {'MB':>7}  error / allowed"


def main() -> None:
    folder = Path(sys.argv[1])
    for result in plot.read(folder):
        print("\n".join(case(result)))
    for line in single_operators(folder):
        print(line)


def case(result: Row) -> Iterator[str]:
    """Yield the lines of one case."""
    ran = [row for row in result["rows"] if row["seconds"] and not row["problem"]]
    title = f"{result['name']} n{result['count']} b{result['batch']} {result['dtype']}"
    yield f"{title:44} {HEAD}"
    for row in ran:
        label = ", ".join(filter(None, (row["label"], row["settings"].removeprefix("1 thread").strip(", "))))
        seconds, device = row["seconds"], row.get("device")
        spread = f"{seconds['low'] * 1e3:.3f}..{seconds['high'] * 1e3:.3f}"
        on_gpu = f"{device['median'] * 1e3:.3f}" if device else ""
        error = "-" if row["error"] is None else f"{row['error']:.1e}"
        ratios = [_ratio(row, ran, _whole), _ratio(row, ran, _on_device)]
        yield (
            f"  {label:42} {seconds['median'] * 1e3:9.3f} {spread:>17} {ratios[0]:>6} {on_gpu:>9} "
            f"{ratios[1]:>6} {row['load']:7.1f} {(row['gpu'] or row['resident']) / 1e6:7.0f}  {error}"
        )
    for warning in result["warnings"]:
        yield f"  {' '.join(warning.split())[:180]}"


def single_operators(folder: Path) -> Iterator[str]:
    """Yield a line for each shape of a single operator: microseconds by form."""
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for path in folder.glob("*.jsonl"):
        for row in map(json.loads, path.read_text().splitlines()):
            if "form" in row:
                said = f"{row['us']:.1f}" if "us" in row else f"({row.get('error', '')[:60]})"
                groups[row["shape"]].append(f"{row['form']} {said}")
    yield from (f"us: {shape}: " + "; ".join(forms) for shape, forms in groups.items())


def _whole(row: Row) -> float | None:
    return float(row["seconds"]["median"])


def _on_device(row: Row) -> float | None:
    device = row.get("device")
    return float(device["median"]) if device else None


def _ratio(row: Row, ran: Sequence[Row], time_of: Callable[[Row], float | None]) -> str:
    """Say how many times as fast as the best alternative a merged model is."""
    own = time_of(row)
    others = [seconds for other in ran if not other["merged"] and (seconds := time_of(other)) is not None]
    return f"{min(others) / own:.2f}" if row["merged"] and own and others else ""


if __name__ == "__main__":
    main()
