"""The plot of serving under load: p50, p99 and throughput against load, one column per family.

python bench/load_plot.py                 # bench/results/serving_load.json -> docs/img/serving_load.svg
python bench/load_plot.py --mix Zipf --out zipf.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench.load import CONTENDERS, MERGED, ONE, PER_MODEL, RESULTS

Cell = Mapping[str, Any]

OUT = Path(__file__).parent.parent / "docs" / "img" / "serving_load.svg"
COLOURS = {MERGED: "#1a7f37", ONE: "#6e7781", PER_MODEL: "#0969da"}
MARKERS = {MERGED: "o", ONE: "s", PER_MODEL: "^"}
ROWS = (("goodput", "requests per second"), ("p50", "p50, ms"), ("p99", "p99, ms"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--mix", default="uniform", help="which models are asked for: one of the mixes")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    cells = [cell for cell in json.loads(given.results.read_text())["cells"] if cell["mix"] == given.mix]
    if not cells:
        print(f"{given.results} has no cells of the mix {given.mix}.", file=sys.stderr)
        return 1
    draw(cells, given.out)
    return 0


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw one column per family and one row per figure. Latencies are logarithmic; the dotted line in the
    row of the throughput is what was offered."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "netfuse-onnx", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    families = list(dict.fromkeys(cell["family"] for cell in cells))
    size = (2.4 * len(families) + 0.9, 6.4)
    figure, axes = pyplot.subplots(len(ROWS), len(families), figsize=size, sharex=True, squeeze=False)
    for column, name in enumerate(families):
        found = sorted((cell for cell in cells if cell["family"] == name), key=lambda cell: cell["load"])
        axes[0][column].set_title(f"{name}, {found[0]['models']} models", fontsize=9)
        for row, (figure_name, label) in enumerate(ROWS):
            _panel(axes[row][column], found, figure_name)
            if column == 0:
                axes[row][column].set_ylabel(label)
        axes[-1][column].set_xlabel("load")
    lines = axes[0][0].get_legend_handles_labels()
    figure.legend(*lines, loc="upper center", ncols=len(CONTENDERS) + 1, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _panel(axis: Any, cells: Sequence[Cell], figure: str) -> None:
    loads = [cell["load"] for cell in cells]
    for name in [one for one in CONTENDERS if one in cells[0]["contenders"]]:
        values = [cell["contenders"][name][figure] for cell in cells]
        axis.plot(loads, values, MARKERS[name] + "-", color=COLOURS[name], label=name, markersize=4)
        if figure == "p99":
            spread = [cell["contenders"][name]["p99_of_turns"] for cell in cells]
            axis.fill_between(loads, *zip(*spread, strict=True), color=COLOURS[name], alpha=0.12, linewidth=0)
    if figure == "goodput":
        offered = [cell["contenders"][ONE]["offered"] for cell in cells]
        axis.plot(loads, offered, ":", color="black", linewidth=1.0, label="offered")
        axis.set_ylim(bottom=0)
    else:
        axis.set_yscale("log")
    axis.set_xticks(loads, [f"{load:g}" for load in loads])
    axis.grid(color="#d8dee4", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
