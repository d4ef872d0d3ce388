"""The results as a plot and a table: how many times as fast as the best alternative each merged file is.

    python bench/plot.py bench/results/cpu

Writes speedup.svg and README.md beside the JSON files that bench/serving.py wrote, and shared.svg where some
are of families that share (bench/device/shared_results.py). A ratio is that of the two medians; its quartiles
are those of the ratios of single rounds, where all ways took turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import served_table
from netfuse_onnx.compared import Compared, Outcome
from netfuse_onnx.measure.rounds import ratio

Result = Mapping[str, Any]

RANKING = "ranking.json"
SHARED = "shared"
"""The group of cases whose models share weights, or whose calls choose models."""
COLOURS = {
    Outcome.BETTER: "#1a7f37", Outcome.WORSE: "#cf222e", Outcome.EQUAL: "#6e7781",
    Outcome.INCONCLUSIVE: "#6e7781",
}  # fmt: skip
"""Gains are green, losses red; grey is what can't be told apart from 1."""
LEGEND = ((Outcome.BETTER, "faster"), (Outcome.WORSE, "slower"), (Outcome.INCONCLUSIVE, "can't be told"))
MARKERS = "osDv^PX*<>"
"""The shapes of the merged files of a case, such as generic, cpu, and cpu with stacked inputs."""
ROW_HEIGHT, SPREAD = 0.27, 0.56
"""The height of a row in inches, and the part of it that the dots of a row share."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the JSON files are")
    folder = parser.parse_args().folder
    results = read(folder)
    if not results:
        print(f"There are no results in {folder}.", file=sys.stderr)
        return 1
    shared = [result for result in results if result["group"] == SHARED]
    (folder / "README.md").write_text(table(results, checked(folder), served(folder)))
    draw([result for result in results if result not in shared], folder / "speedup.svg")
    if shared:
        draw(shared, folder / "shared.svg")
    return 0


def read(folder: Path) -> list[Result]:
    """All results, by network, type, batch and number of models, from files of one case and of many lines."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json") if path.name != RANKING]
    found += [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    keyed = {(r["group"], r["name"], r["dtype"], r["batch"], r["count"]): r for r in found if "rows" in r}
    return [keyed[key] for key in sorted(keyed)]


def checked(folder: Path) -> list[Result]:
    """Files whose values were compared."""
    return [row for row in _lines_of(folder) if "wrong" in row]


def served(folder: Path) -> list[Result]:
    """Cases of merged files that were served."""
    return [row for row in _lines_of(folder) if "served" in row]


def _lines_of(folder: Path) -> list[Result]:
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]


def compared(result: Result, speedup: Mapping[str, Any]) -> Compared:
    """A merged file against its best alternative, from their rows: on a CPU all ways took turns, so that
    their samples belong together. Else the quartiles are those that the report has."""
    rows = {row["label"]: row for row in result["rows"] if row["seconds"]}
    best, own = rows.get(speedup["best"]), rows.get(speedup["merged"])
    paired = result.get("provider", "cpu") == "cpu"
    if paired and best and own and len(best["samples"]) == len(own["samples"]) > 0:
        times = ratio(best["samples"], own["samples"])
        merged, sessions = own["seconds"]["median"], best["seconds"]["median"]
        return Compared(merged, sessions, times.low, times.high, speedup["best"])
    times = speedup["times"]
    return Compared(1.0, times["median"], times["low"], times["high"], speedup["best"])


def merged_name(speedup: Mapping[str, Any]) -> str:
    return str(speedup["merged"].removeprefix("merged, "))


def draw(results: Sequence[Result], path: Path) -> None:
    """One row per case, a dot with its quartiles per merged file, on one logarithmic axis. The best
    alternative is the line at 1."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "netfuse-onnx", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    shown = [result for result in results if result["speedups"]]
    names = list(dict.fromkeys(merged_name(s) for result in shown for s in result["speedups"]))
    markers = dict(zip(names, MARKERS * len(names), strict=False))
    height = ROW_HEIGHT * max(1, len(shown)) + 1.1
    figure, axis = pyplot.subplots(figsize=(8.5, height))
    for row, result in enumerate(shown):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#f2f4f6", linewidth=0)
        _row(axis, row, result, names, markers)
    axis.axvline(1.0, color="black", linewidth=1.0)
    _scale(axis, shown)
    _legend(figure, markers)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.42 / height))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def case_name(result: Result, results: Sequence[Result]) -> str:
    """The network, the number of models, and the batch and the type where they are not the same for all."""
    words = [result["name"], f"{result['count']} models"]
    words += [f"batch {result['batch']}"] if len({r["batch"] for r in results}) > 1 else []
    words += [result["dtype"]] if len({r["dtype"] for r in results}) > 1 else []
    words += ["cut"] if result.get("cut") else []
    return ", ".join(words)


def _row(axis: Any, row: int, result: Result, names: Sequence[str], markers: Mapping[str, str]) -> None:
    for speedup in result["speedups"]:
        name, one = merged_name(speedup), compared(result, speedup)
        place = (names.index(name) + 0.5) / len(names) - 0.5
        y, colour = row + SPREAD * place, COLOURS[one.outcome]
        axis.plot((one.low, one.high), (y, y), color=colour, linewidth=1.4, alpha=0.55, zorder=2)
        axis.plot(one.ratio, y, markers[name], color=colour, markersize=4.5, zorder=3)


def _scale(axis: Any, results: Sequence[Result]) -> None:
    axis.set_xscale("log", base=2)
    ends = [1.0, *(end for r in results for s in r["speedups"] for end in _ends(compared(r, s)))]
    axis.set_xlim(min(ends) / 1.1, max(ends) * 1.1)
    ticks = [
        t for t in (0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 16, 32) if min(ends) <= t <= max(ends)
    ]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(axis="x", color="#d8dee4", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel("times as fast as the best alternative (dot: ratio of the medians; line: quartiles)")
    axis.set_yticks(range(len(results)), [case_name(result, results) for result in results])
    axis.set_ylim(len(results) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _ends(one: Compared) -> Iterator[float]:
    yield from (end for end in (one.ratio, one.low, one.high) if end is not None)


def _legend(figure: Any, markers: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    shapes = [
        Line2D([], [], color="black", marker=marker, linestyle="", markersize=5, label=name)
        for name, marker in markers.items()
    ]
    colours = [
        Line2D([], [], color=COLOURS[outcome], marker="o", markersize=5, linewidth=1.4, label=words)
        for outcome, words in LEGEND
    ]
    figure.legend(handles=[*shapes, *colours], loc="upper center", ncols=6, frameon=False)


def table(results: Sequence[Result], files: Sequence[Result] = (), serving: Sequence[Result] = ()) -> str:
    """Markdown: what was measured where, and a line per case and merged model. `files` are those whose values
    were compared, `serving` the cases that were served."""
    machines = {json.dumps([r["machine"]["processor"], r["machine"].get("gpu", "")]) for r in results}
    told = results[0]
    busy = [r["name"] for r in results if any("busy" in warning for warning in r["warnings"])]
    cut = [case_name(r, results) for r in results if r.get("cut")]
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
        *([f"**Cut, so that the best alternative may be missing: {'; '.join(cut)}.**", ""] if cut else []),
        "A speed-up is the ratio of the two medians, with the quartiles of the ratios of the rounds. The "
        "verdict is inconclusive where these three do not lie on one side of 1.",
        "",
        "![One row per case: the speed of each merged file against the best alternative](speedup.svg)",
        "",
        "| network | type | batch | models | merged | best alternative | speed-up | quartiles | verdict |",
        "|---|---|---:|---:|---|---|---:|---|---|",
        *(line for result in results if result["group"] != SHARED for line in _lines(result)),
        *_of_families([result for result in results if result["group"] == SHARED]),
        *_of_values(files),
        *served_table.lines(serving),
    ]
    return "\n".join([*rows, ""])


def _of_families(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines about families that share, which may have far more models than a call wants."""
    if not results:
        return
    yield from ("", "## Families that share", "")
    yield "![One row per family](shared.svg)"
    yield from ("", "Times are medians of a call from arrays to arrays; GB are those on the device.", "")
    yield (
        "| family | models | in a call | merged | ms | GB | best alternative | ms | GB | speed-up "
        "| quartiles | verdict |"
    )
    yield "|---|---:|---:|---|---:|---:|---|---:|---:|---:|---|---|"
    for result in results:
        for speedup in result["speedups"]:
            one = compared(result, speedup)
            own, best = (_fastest(result, speedup[which]) for which in ("merged", "best"))
            yield (
                f"| {result['name']} | {result['count']} | {len(result['models'])} | {own} | {best} | "
                f"{one.ratio:.2f} | {one.low:.2f} - {one.high:.2f} | {one.outcome} |"
            )


def _fastest(result: Result, label: str) -> str:
    """The fastest setting of a way: its name, milliseconds and GB."""
    rows = [row for row in result["rows"] if row["label"] == label and row["seconds"] and not row["problem"]]
    row = min(rows, key=lambda row: float(row["seconds"]["median"]))
    words = ", ".join(filter(None, (label, row["settings"].removeprefix("1 thread").strip(", "))))
    return f"{words} | {row['seconds']['median'] * 1e3:.2f} | {row['gpu'] / 1e9:.2f}"


def _of_values(files: Sequence[Result]) -> Iterator[str]:
    """Yield the lines about the values."""
    if not files:
        return
    wrong = [file for file in files if file["wrong"]]
    yield from ("", "## Values of files that share, choose, route or combine", "")
    yield (
        f"{len(files)} small files were checked, {sum(f['calls'] for f in files)} calls compared with the "
        f"sources' own sessions, {sum(f['refused'] for f in files)} calls with ids or sizes that must fail "
        f"did. The largest error without TF32 is {max(f['worst'] for f in files):.0e} of the largest value. "
        f"{sum(f['graph'] for f in files)} files could be captured as CUDA graphs."
    )
    yield from ("", *(f"- {file['file']}: {file['wrong'][0]}" for file in wrong))


def _lines(result: Result) -> Iterable[str]:
    head = f"| {result['name']} | {result['dtype']} | {result['batch']} | {result['count']} "
    if not result["speedups"]:
        why = next((row["problem"] for row in result["rows"] if row["merged"]), "")
        yield f"{head}| {why or 'no alternative ran'} | | | | |"
    for speedup in result["speedups"]:
        one = compared(result, speedup)
        quartiles = f"{one.low:.2f} - {one.high:.2f}"
        figures = f"{one.ratio:.2f} | {quartiles} | {one.outcome}"
        yield f"{head}| {merged_name(speedup)} | {one.against} | {figures} |"


if __name__ == "__main__":
    sys.exit(main())
