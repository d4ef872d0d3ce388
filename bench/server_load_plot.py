"""The plot and the table of serving over the network under load, from what server_load.py measured.

python bench/server_load_plot.py               # bench/results/server_load.json -> docs/img/server_load.svg
python bench/server_load_plot.py --protocol gRPC --mix Zipf --out zipf.svg
python bench/server_load_plot.py --table       # Markdown, on stdout
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import load, load_plot
from bench.server_client import PROTOCOLS
from bench.server_load import RESULTS, is_short
from bench.server_ways import MERGED, OWN, PER_MODEL

OUT = Path(__file__).parent.parent / "docs" / "img" / "server_load.svg"
NAMES = {MERGED: load.MERGED, OWN: load.ONE, PER_MODEL: load.PER_MODEL}
"""The names of the ways in plots."""
HEAD = (
    "| family | protocol | asked for | load | served, merged / own | p99, merged / own | p50, p99 merged, ms "
    "| p50, p99 own, ms | server CPU, merged and own, us |\n|---|---|---|---:|---:|---:|---:|---:|---:|"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    parser.add_argument("--mix", default="uniform", help="which models are asked for: one of the mixes")
    parser.add_argument("--table", action="store_true", help="print a table of all cells, and draw nothing")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    cells = json.loads(given.results.read_text())["cells"]
    if given.table:
        print(table(cells))
        return 0
    shown = [one for one in cells if (one["protocol"], one["mix"]) == (given.protocol, given.mix)]
    if not shown or len({tuple(one["ways"]) for one in shown}) > 1:
        print(f"{given.results} lacks cells of {given.protocol}, {given.mix}.", file=sys.stderr)
        return 1
    load_plot.draw([one | {"contenders": _named(one["ways"])} for one in shown], given.out)
    return 0


def _named(ways: Mapping[str, Any]) -> dict[str, Any]:
    return {NAMES[way]: figures for way, figures in ways.items()}


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the cells as a table; ratios have the lowest and the highest of the turns. Cells in which the
    merged session is more than 10 % worse are in bold."""
    return "\n".join([HEAD, *map(_row, cells)])


def _row(cell: Mapping[str, Any]) -> str:
    merged, own, beside = cell["ways"][MERGED], cell["ways"][OWN], cell["ratios"][OWN]
    each = [
        "{:.2f} ({:.2f} to {:.2f})".format(*beside["served"]),
        "{:.2f} ({:.2f} to {:.2f})".format(*beside["p99"]),
        f"{merged['p50']:.2f}, {merged['p99']:.2f}",
        f"{own['p50']:.2f}, {own['p99']:.2f}",
        f"{merged['server_us']:,.0f}, {own['server_us']:,.0f}",
    ]
    if is_short(cell):
        each[:2] = [f"**{one}**" for one in each[:2]]
    return (
        f"| {cell['family']} | {cell['protocol']} | {cell['mix']} | {cell['load']:g} | {' | '.join(each)} |"
    )


if __name__ == "__main__":
    sys.exit(main())
