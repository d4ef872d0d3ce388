#!/usr/bin/env python3
"""Shows what ONNX Runtime's CUDA provider would do with a model, without a GPU.

    bench/launches/build.sh                                                      # once: its environment
    bench/launches/trace.py merged.onnx                                          # one table per file
    bench/launches/trace.py merged.onnx --dim batch=1 --dim sequence=128 --graph
    bench/launches/trace.py merged.onnx --against source.onnx --models 32        # merged, and 32 sources

README.md says what the numbers mean and what they can't tell.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from bench.launches import estimate, text

HERE = Path(__file__).resolve().parent
PLACED = re.compile(r"(?:All nodes|Node\(s\)) placed on \[(\w+)\]\. Number of nodes: (\d+)")
ASSIGNED = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\S+) \((.*)\)\s*$")
MEMCPY = re.compile(r"Add (Memcpy\w+) (?:before|after) (\S+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TIMEOUT = 1800
"""Seconds for one file."""
DIMS = {"batch": 1, "*": 16}
"""Sizes of symbolic dimensions that are not given; `*` stands for all names but the batch's."""

Report = dict[str, Any]
Entry = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The settings by which a model is loaded and run. `fixed` binds symbolic dimensions in the session,
    `graph` tries enable_cuda_graph too, `options` are those of the CUDA provider."""

    dims: Mapping[str, int] = field(default_factory=dict)
    fixed: bool = True
    graph: bool = False
    tf32: bool = True
    options: Mapping[str, str] = field(default_factory=dict)


def environment() -> Path:
    """Returns the folder that build.sh makes: LAUNCHES_ENV, or one in the user's cache."""
    return Path(os.environ.get("LAUNCHES_ENV", Path.home() / ".cache" / "launches"))


def python_of(env: Path) -> Path:
    return env / "venv" / "bin" / "python"


def trace(file: str | Path, settings: Settings, env: Path, log_file: str = "") -> Report:
    """Returns all that is known about one file, as plain data. A failed run is a report with an `error`."""
    observed, log = _observe(Path(file), settings, env)
    if log_file:
        Path(log_file).write_text(log)
    report: Report = {"file": Path(file).name, "inputs": observed.get("inputs", {}), **_placement(log)}
    report |= {key: observed[key] for key in ("error", "graph") if key in observed}
    if "log" not in observed:
        return report
    nodes, entries = observed["nodes"], observed["log"]
    report["launches"] = _launches(entries)
    report["syncs"] = sum(entry["kind"] == "sync" for entry in entries)
    report["gemms"] = _gemms(entries)
    report["convs"] = _convolutions(entries)
    report["estimate"] = estimate.total(nodes, entries, settings.tf32)
    wrong = sum(entry.get("broadcast", 0) == -1 for entry in entries)
    if wrong:
        report["warnings"] = [f"{wrong} LayerNormalization read only the first row of their scale"]
    report["kernels"] = _kernels(nodes, entries, settings.tf32)
    return report


def compared(merged: Sequence[Report], source: Report, models: int) -> list[dict[str, Any]]:
    """Returns how many times as fast each merged file is as `models` calls of the source, by the
    estimates."""
    rows = []
    for report in merged:
        if "estimate" in report and "estimate" in source:
            mine, other = report["estimate"], source["estimate"]
            row = {"file": report["file"], "models": models, "plain": models * other["ms"] / mine["ms"]}
            row["graph"] = models * other["graph_ms"] / mine["graph_ms"]
            row["launches"] = models * source["launches"]["all"] / report["launches"]["all"]
            rows.append(row)
    return rows


def _observe(file: Path, settings: Settings, env: Path) -> tuple[dict[str, Any], str]:
    """Runs observe.py over the stubs, in a process of its own: a crash is an error of this file alone.
    Returns what it wrote, and ONNX Runtime's log."""
    if not python_of(env).exists():
        sys.exit(f"{env} does not exist: run bench/launches/build.sh, or name its folder with --env")
    with tempfile.TemporaryDirectory() as folder:
        given, written, stderr = (Path(folder) / name for name in ("settings.json", "out.json", "log"))
        dims = {**DIMS, **settings.dims}
        given.write_text(json.dumps({**asdict(settings), "dims": dims, "path": str(file.resolve())}))
        libraries = env / "lib"
        variables = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONNOUSERSITE": "1"}
        if (libraries / "libholes.so").exists():
            variables["LD_PRELOAD"] = str(libraries / "libholes.so")
        variables.pop("PYTHONPATH", None)
        command = [str(python_of(env)), str(HERE / "observe.py"), str(given), str(written)]
        with stderr.open("w") as out:
            done = subprocess.run(
                command, stderr=out, stdout=out, env=variables, timeout=TIMEOUT, check=False
            )
        log = COLOUR.sub("", stderr.read_text(errors="replace"))
        if written.exists():
            return json.loads(written.read_text()), log
        return {"error": f"stopped with {done.returncode}: {' '.join(log.splitlines()[-1:])[:300]}"}, log


def _placement(log: str) -> Report:
    """Reads from the first session's log which provider runs which node, and where values are copied."""
    nodes: collections.Counter[str] = collections.Counter()
    on_cpu: list[dict[str, str]] = []
    copies: list[str] = []
    provider = ""
    for line in log.splitlines():
        if match := PLACED.search(line):
            provider = match[1]
            if provider in nodes:
                break  # the second session, with a CUDA graph
            nodes[provider] = int(match[2])
        elif provider == CPU and (match := ASSIGNED.search(line)):
            on_cpu.append({"op": match[1], "name": match[2]})
    for line in log.splitlines():
        if (match := MEMCPY.search(line)) and (copy := f"{match[1]} {match[2]}") not in copies:
            copies.append(copy)
    return {"on_cuda": nodes[CUDA], "on_cpu": on_cpu, "memcpys": copies}


def _launches(entries: Sequence[Entry]) -> dict[str, int]:
    counts: collections.Counter[str] = collections.Counter()
    for entry in filter(estimate.is_launch, entries):
        counts[f"copy {entry['way']}" if entry["kind"] == "copy" else entry["kind"]] += 1
    return {"all": sum(counts.values()), **dict(sorted(counts.items()))}


def _gemms(entries: Sequence[Entry]) -> list[Report]:
    keys = ("call", "m", "n", "k", "batch", "pointers", "a", "b")
    counts = collections.Counter(tuple(e[key] for key in keys) for e in entries if e["kind"] == "gemm")
    return [dict(zip(keys, shape, strict=True), count=count) for shape, count in counts.most_common()]


def _convolutions(entries: Sequence[Entry]) -> list[Report]:
    counts: collections.Counter[tuple[Any, ...]] = collections.Counter()
    for entry in entries:
        if "w" in entry:
            x, w, y = (tuple(entry[key]["shape"]) for key in "xwy")
            counts[(entry["call"], x, w, y, x[1] // w[1])] += 1
    keys = ("call", "x", "w", "y", "groups")
    return [dict(zip(keys, shape, strict=True), count=count) for shape, count in counts.most_common()]


def _kernels(nodes: Sequence[Entry], entries: Sequence[Entry], tf32: bool) -> list[Report]:
    """Returns launches by operator and kernel, the longest (by the estimate) first."""
    rows: dict[tuple[str, str], Report] = {}
    for entry in filter(estimate.is_launch, entries):
        op = nodes[entry["node"]]["op"] if entry["node"] >= 0 else "-"
        name = _readable(entry.get("name") or entry.get("call") or entry.get("way") or entry["kind"])
        row = rows.setdefault((op, name), {"op": op, "kernel": name, "count": 0, "mb": 0.0, "us": 0.0})
        price = estimate.price(entry, nodes, tf32)
        row["count"] += 1
        row["mb"] += price.size / 1e6
        row["us"] += price.us + estimate.LAUNCH
    return sorted(rows.values(), key=lambda row: -row["us"])


def _readable(name: str) -> str:
    """Returns a kernel's name without namespaces, types and arguments."""
    name = re.sub(r"^void ", "", name).replace("(anonymous namespace)::", "")
    return re.split(r"[<(]", name)[0].split("::")[-1]


def _self_test(env: Path) -> int:
    """Traces a model in which a MatMul and a Conv have to show up as one GEMM and one cuDNN call."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.onnx"
        subprocess.run([str(python_of(env)), str(HERE / "example.py"), str(path)], check=True)
        report = trace(path, Settings(graph=True), env)
    launches = report.get("launches", {})
    good = launches.get("gemm") == launches.get("cudnn") == 1
    good = good and report["graph"] == "accepted" and not report["on_cpu"]
    print("self-test passed" if good else f"self-test FAILED: {report}")
    return 0 if good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="MODEL.onnx")
    parser.add_argument(
        "--dim", action="append", default=[], metavar="NAME=SIZE", help="default: batch 1, others 16"
    )
    parser.add_argument("--free", action="store_true", help="leave symbolic dimensions free; default: fixed")
    parser.add_argument("--graph", action="store_true", help="try enable_cuda_graph, too")
    parser.add_argument("--no-tf32", action="store_true", help="use_tf32=0")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the provider")
    parser.add_argument("--kernels", action="store_true", help="every kernel, product and convolution")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--against", metavar="SOURCE.onnx", help="compare with --models calls of this model")
    parser.add_argument("--models", type=int, default=1, metavar="N", help="how many models were merged")
    parser.add_argument("--env", type=Path, default=environment(), help="the folder that build.sh made")
    parser.add_argument("--log", default="", metavar="FILE", help="keep ONNX Runtime's own log")
    parser.add_argument("--self-test", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.files and not given.self_test:
        parser.error("name at least one model")
    return given


def main() -> int:
    given = _arguments()
    if given.self_test:
        return _self_test(given.env)
    settings = Settings(
        dims={name: int(size) for name, size in (item.split("=") for item in given.dim)},
        fixed=not given.free,
        graph=given.graph,
        tf32=not given.no_tf32,
        options=dict(item.split("=", 1) for item in given.option),
    )
    reports = []
    for file in [*given.files, *([given.against] if given.against else [])]:
        reports.append(trace(file, settings, given.env, given.log))
        if not given.json:
            print("\n".join(text.lines(reports[-1], every=given.kernels)), flush=True)
    ratios = compared(reports[:-1], reports[-1], given.models) if given.against else []
    if given.json:
        print(json.dumps({"files": reports, "compared": ratios}, indent=1))
    else:
        print("".join(text.RATIO.format(**row) + "\n" for row in ratios), end="")
    return int(any("error" in report for report in reports))


if __name__ == "__main__":
    sys.exit(main())
