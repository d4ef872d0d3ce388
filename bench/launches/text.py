"""Writes what the launch tracer found as text, a paragraph per file."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

RATIO = (
    "{file}: {plain:.2f} x without CUDA graphs, {graph:.2f} x with (estimates); "
    "{launches:.1f} x fewer launches"
)
HINT = (
    "(Nothing is computed here: a shape that the host takes from the device's results fails. "
    "On a GPU it is a wait.)"
)
SHORT = 12
"""So many products, and so many convolutions, are listed unless all are wanted."""


def lines(report: dict[str, Any], *, every: bool) -> list[str]:
    """Returns the lines of one file; `every` lists all kernels, products and convolutions."""
    sizes = ", ".join(f"{name} {list(shape)}" for name, shape in list(report["inputs"].items())[:4])
    head = f"{report['file']}  ({sizes}{', ...' if len(report['inputs']) > 4 else ''})"
    parts = [_error(report), _placement(report)]
    if "launches" in report:
        parts += [_launches(report), _shapes(report, every), _estimate(report)]
    return [head, *(line for part in parts for line in part)]


def _error(report: dict[str, Any]) -> Iterator[str]:
    if "error" in report:
        yield f"  error     {report['error']}"
        if "shape" in report["error"].lower():
            yield f"            {HINT}"


def _placement(report: dict[str, Any]) -> Iterator[str]:
    on_cpu, memcpys = report["on_cpu"], report["memcpys"]
    yield f"  nodes     {report['on_cuda']} on CUDA, {len(on_cpu)} on the CPU, {len(memcpys)} Memcpy"
    for op, count in collections.Counter(node["op"] for node in on_cpu).most_common():
        names = [node["name"] for node in on_cpu if node["op"] == op]
        yield f"    CPU     {count} {op}: {', '.join(names[:3])}{', ...' if count > 3 else ''}"
    yield from (f"    copy    {copy}" for copy in memcpys[:10])
    if "graph" in report:
        yield f"  CUDA graph  {report['graph']}"


def _launches(report: dict[str, Any]) -> Iterator[str]:
    counts = report["launches"]
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items() if kind != "all")
    yield f"  launches  {counts['all']}: {kinds}"
    yield f"  syncs     {report['syncs']}"
    yield from (f"  WARNING   {warning}" for warning in report.get("warnings", []))


def _shapes(report: dict[str, Any], every: bool) -> Iterator[str]:
    most = None if every else SHORT
    for row in report["gemms"][:most]:
        how = "strided" if row["batch"] > 1 else "one"
        how = f"by pointers, {row['a']} and {row['b']} different" if row["pointers"] else how
        shape = "m={m} n={n} k={k} batch={batch}".format(**row)
        yield f"    GEMM    {row['count']:4} x {shape} ({how})"
    for row in report["convs"][:most]:
        yield "    Conv    {count:4} x {x} * {w} -> {y}, groups {groups} ({call})".format(**row)
    for row in report["kernels"] if every else []:
        yield "    kernel  {count:4} x {op}: {kernel}, {mb:.1f} MB, {us:.0f} us".format(**row)


def _estimate(report: dict[str, Any]) -> Iterator[str]:
    yield (
        "  estimate  {ms:.3f} ms a call, {graph_ms:.3f} ms as a CUDA graph "
        "({gb:.3f} GB, {gflop:.1f} GFLOP; not measured)"
    ).format(**report["estimate"])
