"""Writes the rows of bench/paper.py as Markdown into a document, between two marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- paper.py writes from here -->", "<!-- to here -->"
SUMMARY = ("network", "batch", "models", "without CUDA graphs", "with", "launches of one source")
COLUMNS = (
    "network", "batch", "models", "file", "launches", "GEMMs: strided", "plain", "by pointers", "copies",
    "CPU nodes", "Memcpy", "CUDA graph", "ms", "ms, graph", "ratio", "ratio, graph",
)  # fmt: skip
LEFT = {"network", "file", "CUDA graph"}
"""Columns of words."""

Row = Mapping[str, Any]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Replaces what stands between the marks of the document, which has to have them."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{path} lacks the marks {BEGIN!r} and {END!r}")
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    path.write_text(head + BEGIN + "\n\n" + "\n".join(lines(rows)) + "\n\n" + END + tail)


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yields two tables: ratios of stacked files for the target cuda, and all rows."""
    sources = {(row["family"], row["batch"]): row for row in rows if row["models"] == 1}
    merged = [row for row in rows if (row["target"], row["io"]) == ("cuda", "stacked")]
    yield from _table(SUMMARY, (_summary(row, sources[row["family"], row["batch"]]) for row in merged))
    yield ""
    yield from _table(COLUMNS, (_full(row, sources[row["family"], row["batch"]]) for row in rows))


def ratio(row: Row, source: Row, *, graphs: bool) -> float | None:
    """Returns the times that N calls of one source take as long as one call of the merged file. With CUDA
    graphs, a file that ONNX Runtime refuses a graph runs without."""
    mine, other = (_ms(each, graphs=graphs) for each in (row, source))
    return row["models"] * other / mine if mine and other else None


def _ms(row: Row, *, graphs: bool) -> float | None:
    has_graph = graphs and row["graph"] == "accepted"
    return row.get("graph_ms" if has_graph else "ms")


def _summary(row: Row, source: Row) -> list[str]:
    both = [_number(ratio(row, source, graphs=graphs)) for graphs in (False, True)]
    share = row["launches"] / source["launches"] if "launches" in row and "launches" in source else None
    return [row["family"], str(row["batch"]), str(row["models"]), *both, _number(share)]


def _full(row: Row, source: Row) -> list[str]:
    file = f"{row['target']}, {row['io']}" if row["io"] else "one source"
    head = [row["family"], str(row["batch"]), str(row["models"]), file]
    if "error" in row:
        return [*head, "not traced", *[""] * (len(COLUMNS) - len(head) - 1)]
    gemms = [str(row["gemms"][kind]) for kind in ("strided", "plain", "pointers")]
    counts = [str(row["launches"]), *gemms, *(str(row[key]) for key in ("copies", "cpu", "memcpys"))]
    times = ["yes" if row["graph"] == "accepted" else "no", f"{row['ms']:.2f}", f"{row['graph_ms']:.2f}"]
    is_source = row["models"] == 1
    ratios = ["" if is_source else _number(ratio(row, source, graphs=graphs)) for graphs in (False, True)]
    return [*head, *counts, *times, *ratios]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(columns: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join('---' if name in LEFT else '---:' for name in columns)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
