"""Which of ONNX Runtime's own fusions a merged graph loses, and what that costs.

    python bench/fusions.py bert resnet50 --count 4
    python bench/fusions.py --files a.onnx b.onnx c.onnx d.onnx --dims batch=1 sequence=128

ONNX Runtime writes the graph that it optimised, of one source and of the merged model. First table: how often
each operator stands in both, and its time. Second: the time of what stands alone where a fusion could have
taken it in (`roles`). The kernel time of all sources together is 100 %. Names are those of bench/zoo.py.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import models
from bench.zoo import ZOO
from netfuse_onnx.arguments import dimensions
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.run import runtime
from netfuse_onnx.run.observe import observed
from netfuse_onnx.run.runtime import Value

FUSED = frozenset(
    {
        *("Attention", "BiasGelu", "BiasSoftmax", "EmbedLayerNormalization", "FastGelu", "FusedConv"),
        *("FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "MultiHeadAttention"),
        *("NhwcFusedConv", "QuickGelu", "RotaryEmbedding", "SimplifiedLayerNormalization"),
        *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
    }
)
"""Operators that only a fusion makes; Conv with its bias or its activation inside is seen by `roles` only."""

CONV = ("Conv", "FusedConv", "ConvTranspose")
PRODUCT = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Einsum")
NORM = ("LayerNormalization", "SimplifiedLayerNormalization")
ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid")
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "ReorderOutput", "ReorderInput", "Identity")
"""Looked through: what is on their other side could have been fused, too."""

AFFINE, SKIP, BIAS, SCALE = (
    "scale and bias of a norm",
    "sum before a norm",
    "bias of a product",
    "scale of a product",
)
GELU, NORMS, ACT = "Gelu in parts", "BatchNormalization", "activation of a Conv or product"
LAYOUT = "blocks of channels (Reorder)"
RUNS = 12
WARM = 2


@dataclass
class Seen:
    """One graph as ONNX Runtime runs it: how often each operator stands in it and in each role, and the
    seconds of a call."""

    ops: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    op_seconds: Counter[str] = field(default_factory=Counter)  # type: ignore[type-arg]  # of floats
    role_seconds: Counter[str] = field(default_factory=Counter)  # type: ignore[type-arg]

    @property
    def seconds(self) -> float:
        return float(sum(self.op_seconds.values()))


# --------------------------------------------------------------------------- counting


def count(graph: onnx.GraphProto, seconds: Mapping[str, float] | None = None) -> Seen:
    """Operators and roles in an optimised graph. `seconds` are those of each node, by name."""
    seen, known = Seen(), seconds or {}
    part = roles(graph)
    for node in graph.node:
        time = known.get(node.name, 0.0)
        seen.ops[node.op_type] += 1
        seen.op_seconds[node.op_type] += time
        if node.name in part:
            seen.roles[part[node.name]] += 1
            seen.role_seconds[part[node.name]] += time
    return seen


def roles(graph: onnx.GraphProto) -> dict[str, str]:
    """Node name -> what it is a part of, for the nodes that a fusion could have taken in."""
    around = _Around(graph)
    found: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Erf":
            found |= dict.fromkeys(_gelu(node, around), GELU)
    for node in graph.node:
        role = _role(node, around)
        if role and node.name not in found:
            found[node.name] = role
    return found


def _role(node: onnx.NodeProto, around: _Around) -> str:
    op = node.op_type
    if op in ("ReorderInput", "ReorderOutput"):
        return LAYOUT
    if op == "BatchNormalization":
        return NORMS
    before = {p.op_type for p in around.before(node)}
    if op in ACTIVATIONS:
        return ACT if before & {*CONV, *PRODUCT} else ""
    if op not in ("Add", "Mul", "Div"):
        return ""
    fixed = any(name in around.weights for name in node.input)
    if fixed and around.follows(node, NORM):
        return AFFINE
    if op == "Add" and not fixed and any(n.op_type in NORM for n in around.after(node)):
        return SKIP
    if fixed and before & {*CONV, *PRODUCT}:
        return BIAS if op == "Add" else SCALE
    return ""


def _gelu(erf: onnx.NodeProto, around: _Around) -> set[str]:
    """x * 0.5 * (1 + erf(x / sqrt 2)), in whatever order it is written, but for x."""
    names = {erf.name} | {n.name for n in around.before(erf) if n.op_type in ("Div", "Mul")}
    here = [erf]
    for wanted in ("Add", "Mul", "Mul"):
        here = [n for n in around.after(here[0]) if n.op_type == wanted][:1] if here else []
        names |= {n.name for n in here}
        for n in here:
            halves = [p for p in around.before(n) if p.op_type == "Mul" and around.fixed(p)]
            names |= {p.name for p in halves}
    return names


class _Around:
    """The neighbours of a node, views left out."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights = {tensor.name for tensor in graph.initializer}
        self._made = {name: node for node in graph.node for name in node.output if name}
        self._read: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._read.setdefault(name, []).append(node)

    def fixed(self, node: onnx.NodeProto) -> bool:
        return any(name in self.weights for name in node.input)

    def before(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [n for name in node.input if (n := self._maker(name)) is not None]

    def _maker(self, name: str) -> onnx.NodeProto | None:
        node = self._made.get(name)
        while node is not None and node.op_type in VIEWS:
            node = self._made.get(node.input[0])
        return node

    def after(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        found = []
        for name in node.output:
            for reader in self._read.get(name, ()):
                found += self.after(reader) if reader.op_type in VIEWS else [reader]
        return found

    def follows(self, node: onnx.NodeProto, ops: Sequence[str]) -> bool:
        """Directly, or after one more operation with a weight."""
        near = self.before(node)
        return any(
            n.op_type in ops
            or (n.op_type == "Mul" and self.fixed(n) and any(p.op_type in ops for p in self.before(n)))
            for n in near
        )


# --------------------------------------------------------------------------- running


def seen(path: str, feeds: Mapping[str, Value], threads: int) -> Seen:
    """The graph that ONNX Runtime makes of a file, and its times."""
    ort = runtime.onnxruntime()
    with tempfile.TemporaryDirectory(prefix="netfuse-fusions-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        prefix = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{prefix}_file_name", "weights")
        options.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        known = {port.name for port in session.get_inputs()}
        given = {name: value for name, value in feeds.items() if name in known and value is not None}
        for _ in range(WARM + RUNS):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    return count(graph, _seconds(events))


def _seconds(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The median of the runs after the warm ones, per node."""
    times: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1e6)
    return {name: float(np.median(each[WARM:] or each)) for name, each in times.items()}


def compare(name: str, paths: Sequence[str], targets: Sequence[str], dims: Mapping[str, int]) -> None:
    """Merge, run, print."""
    names = [f"m{i}" for i in range(len(paths))]
    complete = functools.partial(observed, libraries=())
    family = fold(match([load(path) for path in paths], names, partial=False, complete=complete))
    work = Workload(family, Options(runtime.choose("cpu"), dims=dims), lambda *_: None)
    columns = {"source": seen(paths[0], work.feeds(0), work.cores)}
    for target in targets:
        with tempfile.TemporaryDirectory(prefix="netfuse-fusions-") as folder:
            out = f"{folder}/merged.onnx"
            netfuse_onnx.merge(paths, out, names=names, target=target, verify=False, dims=dims)
            columns[target] = seen(out, work.merged_feeds("separate", ()), work.cores)
    print(f"\n{name}: {len(paths)} models, {work.case}, {work.cores} threads")
    print(table(columns, len(paths)), flush=True)


# --------------------------------------------------------------------------- printing


def table(columns: Mapping[str, Seen], models: int) -> str:
    """Both tables and the fusions lost. The first column is one source, the others are merged graphs."""
    source, *merged = columns.values()
    whole = models * source.seconds or 1.0
    head = "".join(f"{word:>18}" for word in columns)

    def rows(counts: str, times: str) -> list[str]:
        keys = {key for seen in columns.values() for key in getattr(seen, counts)}
        order = sorted(keys, key=lambda key: (-max(getattr(s, times)[key] for s in columns.values()), key))
        lines = []
        for key in order:
            cells = ""
            for place, column in enumerate(columns.values()):
                share = getattr(column, times)[key] * (models if place == 0 else 1) / whole
                cells += f"{getattr(column, counts)[key]:>9}{share:>8.1%} "
            lines.append(f"{key:34}{cells}")
        return lines

    total = [models * source.seconds / whole, *(column.seconds / whole for column in merged)]
    lines = [f"{'operator':34}{head}", *rows("ops", "op_seconds")]
    lines += [f"{'all':34}" + "".join(f"{share:>17.1%} " for share in total)]
    lines += ["", f"{'stands alone':34}{head}", *rows("roles", "role_seconds")]
    for target, column in list(columns.items())[1:]:
        gone = lost(source.ops, column.ops)
        lines.append(f"lost, {target}: " + (", ".join(f"{n} {op}" for op, n in gone.items()) or "none"))
    return "\n".join(lines)


def lost(source: Mapping[str, int], merged: Mapping[str, int]) -> dict[str, int]:
    """Fused operators that a source has more of than the merged graph, where one could do for all models."""
    return {op: n - merged.get(op, 0) for op, n in source.items() if op in FUSED and n > merged.get(op, 0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ZOO)}")
    parser.add_argument("--files", nargs="+", default=[], metavar="FILE", help="the models of one family")
    parser.add_argument(
        "--dims", nargs="+", default=[], metavar="NAME=SIZE", help="default: the zoo's, batch=1"
    )
    parser.add_argument("--count", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument("--targets", nargs="+", default=["generic", "cpu"])
    parser.add_argument(
        "--models", type=Path, default=Path("build/bench/models/dynamo"), help="where they are"
    )
    given = parser.parse_args()
    sizes = {"batch": 1, **dimensions(given.dims)}
    if given.files:
        compare(Path(given.files[0]).stem, given.files, given.targets, sizes)
    for name in given.names:
        row = ZOO[name]
        folder = given.models / row.family.name
        paths = models.files(row.family, folder, given.count, exporter="dynamo")
        compare(name, [str(path) for path in paths], given.targets, {**row.sizes, **sizes})


if __name__ == "__main__":
    main()
