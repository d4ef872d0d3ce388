"""The results as a plot and a table: how many times as fast as the best alternative, against the number of
models.

    python bench/plot.py bench/results/cpu

Writes speedup.svg and README.md beside the JSON files that bench/serving.py wrote.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]
Point = tuple[int, float, float, float]
"""Models, and how many times as fast: the median, the lower quartile, the upper one."""

RANKING = "ranking.json"
COLUMNS = 4
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
DASHES = {1: "-", 8: "--"}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the JSON files are")
    folder = parser.parse_args().folder
    results = read(folder)
    if not results:
        print(f"There are no results in {folder}.", file=sys.stderr)
        return 1
    (folder / "README.md").write_text(table(results))
    draw(results, folder / "speedup.svg")
    return 0


def read(folder: Path) -> list[Result]:
    """All results, by network, type, batch and number of models, from files of one case and of many lines."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json") if path.name != RANKING]
    found += [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    keyed = {(r["group"], r["name"], r["dtype"], r["batch"], r["count"]): r for r in found if "rows" in r}
    return [keyed[key] for key in sorted(keyed)]


def lines(results: Iterable[Result]) -> dict[tuple[str, str, int], list[Point]]:
    """(merged model, type, batch) -> points, of the results of one network."""
    found: dict[tuple[str, str, int], list[Point]] = {}
    for result in results:
        for speedup in result["speedups"]:
            times = speedup["times"]
            key = speedup["merged"].removeprefix("merged, "), result["dtype"], result["batch"]
            point = result["count"], times["median"], times["low"], times["high"]
            found.setdefault(key, []).append(point)
    return found


def draw(results: Sequence[Result], path: Path) -> None:
    """One small plot per network; the best alternative is the line at 1."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "netfuse-onnx", "font.size": 8})
    from matplotlib import pyplot

    networks = [(name, list(rows)) for name, rows in groupby(results, lambda r: r["name"])]
    kinds = sorted({(key[0], key[1]) for _, rows in networks for key in lines(rows)})
    colours = dict(zip(kinds, COLOURS * len(kinds), strict=False))
    height = math.ceil(len(networks) / COLUMNS)
    figure, axes = pyplot.subplots(height, COLUMNS, figsize=(11, 2.4 * height), squeeze=False, sharex=True)
    for axis in axes.flat[len(networks) :]:
        axis.axis("off")
    for axis, (name, rows) in zip(axes.flat, networks, strict=False):
        _axis(axis, name, lines(rows), colours)
    labels = dict[str, Any]()
    for axis in axes.flat:
        labels |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.supylabel("times as fast as the best alternative")
    figure.legend(labels.values(), labels.keys(), loc="upper center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / (2.4 * height)))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _axis(
    axis: Any,
    name: str,
    found: Mapping[tuple[str, str, int], Sequence[Point]],
    colours: Mapping[tuple[str, str], str],
) -> None:
    axis.set_title(name, fontsize=9)
    axis.axhline(1.0, color="black", linewidth=0.8)
    for (label, dtype, batch), points in found.items():
        counts, middle, low, high = zip(*points, strict=True)
        style = {"color": colours[label, dtype], "linestyle": DASHES.get(batch, ":")}
        axis.plot(
            counts, middle, marker=".", label=f"{label}, {dtype}, batch {batch}", linewidth=1.2, **style
        )
        axis.fill_between(counts, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_xlabel("models")


def table(results: Sequence[Result]) -> str:
    """Markdown: what was measured where, and a line per case and merged model."""
    machines = {json.dumps([r["machine"]["processor"], r["machine"].get("gpu", "")]) for r in results}
    told = results[0]
    busy = [r["name"] for r in results if any("busy" in warning for warning in r["warnings"])]
    where = ", ".join(filter(None, (told["machine"].get("gpu"), told["machine"]["processor"])))
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    rows = [
        "# Results",
        "",
        f"{where}, {told['machine']['cores']} cores; {versions}. Written by `bench/plot.py` from the JSON "
        "files beside it, which `make bench` wrote; more in [bench](../../README.md).",
        "",
        *(["**From more than one machine: don't compare lines.**", ""] if len(machines) > 1 else []),
        *([f"**The machine was busy before {len(busy)} cases: measure these again.**", ""] if busy else []),
        "| network | type | batch | models | merged | best alternative | speed-up | quartiles |",
        "|---|---|---:|---:|---|---|---:|---|",
        *(line for result in results for line in _lines(result)),
    ]
    return "\n".join([*rows, ""])


def _lines(result: Result) -> Iterable[str]:
    head = f"| {result['name']} | {result['dtype']} | {result['batch']} | {result['count']} "
    if not result["speedups"]:
        why = next((row["problem"] for row in result["rows"] if row["merged"]), "")
        yield f"{head}| {why or 'no alternative ran'} | | | |"
    for speedup in result["speedups"]:
        merged, best, times = speedup["merged"], speedup["best"], speedup["times"]
        quartiles = f"{times['low']:.2f} - {times['high']:.2f}"
        yield f"{head}| {merged.removeprefix('merged, ')} | {best} | {times['median']:.2f} | {quartiles} |"


if __name__ == "__main__":
    sys.exit(main())
