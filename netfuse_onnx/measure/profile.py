"""Sums ONNX Runtime's profile by kind of operator, for the merged model and for the separate ones.

Fusions rename operators, and merging changes which fusions apply. So operators are grouped by what they
compute: a FusedConv and a Conv are one kind, and so are Gemm and MatMul.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.measure.contenders import OneGraph
from netfuse_onnx.measure.report import KindRow
from netfuse_onnx.measure.sessions import Settings, session
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.ops import traits
from netfuse_onnx.run.runtime import RunFailed, Value, first_line

CALLS = 20
WARM = 3

KINDS = {
    "Conv": "FusedConv NhwcFusedConv NhwcConv QLinearConv ConvInteger",
    "MatMul, Gemm": "MatMul Gemm FusedMatMul FusedGemm TransposeMatMul FusedMatMulActivation",
    "integer MatMul": "MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QLinearMatMul",
    "LayerNormalization": "SkipLayerNormalization SimplifiedLayerNormalization RMSNormalization "
    "SkipSimplifiedLayerNormalization EmbedLayerNormalization",
    "Gelu": "FastGelu BiasGelu QuickGelu",
    "Softmax": "BiasSoftmax",
    "layout (ReorderInput, ReorderOutput)": "ReorderInput ReorderOutput",
    "copies to and from the device": "MemcpyToHost MemcpyFromHost",
}
KIND = {op: kind for kind, ops in KINDS.items() for op in ops.split()}

Table = Mapping[str, tuple[float, int]]
"""Kind -> seconds a call, kernels a call."""


def compare(work: Workload, merged: OneGraph, separate: Settings) -> tuple[KindRow, ...]:
    """Return one row per kind of operator, the largest loss first. Raises RunFailed."""
    feeds = work.merged_feeds(merged.io, merged.share)
    one = profiled(merged.path, feeds, work, merged.settings)
    alone: dict[str, tuple[float, int]] = {}
    for model, path in enumerate(work.paths):
        for kind, (seconds, count) in profiled(path, work.feeds(model), work, separate).items():
            before = alone.get(kind, (0.0, 0))
            alone[kind] = before[0] + seconds, before[1] + count
    rows = [KindRow(kind, *alone.get(kind, (0.0, 0)), *one.get(kind, (0.0, 0))) for kind in {**alone, **one}]
    return tuple(sorted(rows, key=lambda row: (-row.loss, row.kind)))


def profiled(path: str, feeds: Mapping[str, Value], work: Workload, settings: Settings) -> Table:
    """Profile one model. Raises RunFailed."""
    with tempfile.TemporaryDirectory(prefix="netfuse-bench-") as folder:
        settings = replace(settings, graph=False)  # whose replay has no nodes
        made = session(path, work.runtime, settings, tf32=work.tf32, profile=os.path.join(folder, "profile"))
        names = {port.name for port in made.get_inputs()}
        given = {name: value for name, value in feeds.items() if name in names and value is not None}
        try:
            for _ in range(WARM + CALLS):
                made.run(None, given)
            with open(made.end_profiling()) as file:
                events = json.load(file)
        except MemoryError:
            raise
        except Exception as error:
            raise RunFailed(first_line(error)) from error
    return _table(events)


def _table(events: Sequence[Mapping[str, Any]]) -> Table:
    """Sum the seconds and the kernels of a call by kind, over the runs after the warm-up."""
    starts = sorted(e["ts"] for e in events if e.get("cat") == "Session" and e.get("name") == "model_run")
    since = starts[WARM] if len(starts) == WARM + CALLS else 0
    calls = CALLS if since else WARM + CALLS
    seconds, kernels = Counter[str](), Counter[str]()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time") or event["ts"] < since:
            continue
        op = event["args"]["op_name"]
        if not traits.of(op).bodies:  # their time is that of the nodes in them, which are counted themselves
            seconds[KIND.get(op, op)] += event["dur"]
            kernels[KIND.get(op, op)] += 1
    return {kind: (seconds[kind] / 1e6 / calls, round(kernels[kind] / calls)) for kind in seconds}
