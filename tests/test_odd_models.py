"""Models that are merged although little is known about them: control flow, local functions, operators of
other domains, local differences, another spelling in each file. Right in ONNX Runtime, or refused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import samples
from families import save
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent, NotProven, UsageFault
from netfuse_onnx.report import MergeReport

DOMAINS = '"": 17, "com.microsoft": 1, "local": 1, "custom.ops": 1'
WEIGHTS = {"w": (4, 4), "b1": (4,), "b2": (4,)}


def family(
    folder: Path, texts: Sequence[str], weights: dict[str, tuple[int, ...]] | None = None
) -> list[str]:
    """m0.onnx, m1.onnx, ...: one per text, with weights of their own."""
    paths = []
    for index, text in enumerate(texts):
        rng = np.random.default_rng(index)
        proto = onnx.parser.parse_model(f"<ir_version: 9, opset_import: [{DOMAINS}]> {text}")
        for name, shape in (weights or WEIGHTS).items():
            values = (rng.standard_normal(shape) / 2).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(values, name))
        paths.append(save(folder / f"m{index}.onnx", proto))
    return paths


def merged(paths: list[str], folder: Path, **options: Any) -> tuple[str, MergeReport]:
    out = str(folder / "merged.onnx")
    return out, netfuse_onnx.merge(paths, out, **options)


def became(report: MergeReport, op: str) -> set[str]:
    return {row.became for row in report.lowered.nodes if row.op == op}


def inputs(models: int, **more: Sequence[Any]) -> dict[str, np.ndarray]:
    """x [N, 3, 4], and what else there is, one per model."""
    x = np.random.default_rng(9).standard_normal((models, 3, 4)).astype(np.float32)
    return {name: np.array(values) for name, values in more.items()} | {"x": x}


# --------------------------------------------------------------------------- control flow

IF = """g (bool c, bool d, float[n, 4] x) => (float[n, 4] y) {
    y0 = If (c) <
        then_branch = yes () => (float[n, 4] p) {
            k = MatMul(x, w)
            p = If (d) <
                then_branch = yes2 () => (float[n, 4] q) { q = Add(k, b1) },
                else_branch = no2 () => (float[n, 4] r) { half = Constant<value_float = 0.5>()
                                                          s = Mul(k, half) r = Sub(s, b2) }
            >
        },
        else_branch = no () => (float[n, 4] t) { t = Add(x, b2) }
    >
    z = MatMul(y0, w)
    y = Relu(z)
}"""
LOOP = """g (int64 trips, float[n, 4] x) => (float[n, 4] y) {
    go = Constant<value = bool {1}>()
    y = Loop (trips, go, x) <
        body = step (int64 i, bool before, float[n, 4] state) => (bool after, float[n, 4] next) {
        two = Constant<value_int = 2>()
        even0 = Mod(i, two)
        even = Cast<to = 9>(even0)
        after = Identity(before)
        h = MatMul(state, w)
        u = If (even) <
            then_branch = odd_step () => (float[n, 4] p) { p = Add(h, b1) },
            else_branch = even_step () => (float[n, 4] q) { q = Sub(h, b2) }
        >
        next = Tanh(u)
    }>
}"""
SCAN = """g (float[n, 4] x) => (float[n, 4] y) {
    start = Constant<value_floats = [0.0, 0.0, 0.0, 0.0]>()
    final, y = Scan <
        num_scan_inputs = 1,
        body = step (float[4] state, float[4] row) => (float[4] next, float[4] seen) {
        s = Add(state, row)
        h = MatMul(s, w)
        u = Add(h, b1)
        next = Tanh(u)
        seen = Mul(next, b2)
    }> (start, x)
}"""


@pytest.mark.parametrize("share", [(), ("c", "d"), ("c",)])
@pytest.mark.parametrize(("io", "rows"), [("separate", "n"), ("separate", "3"), ("stacked", "3")])
def test_if_with_captured_weights(io: str, rows: str, share: tuple[str, ...], tmp_path: Path) -> None:
    paths = family(tmp_path, [IF.replace("[n,", f"[{rows},")] * 4)
    out, report = merged(paths, tmp_path, io=io, share=share)
    assert share or became(report, "If") == {"replicated"}
    if rows == "3":
        assert became(report, "MatMul") == {"batched"}
    samples.well_formed(out)
    conditions = [(c, d) for c in (True, False) for d in (True, False)]
    mixed = inputs(4, c=[c for c, _ in conditions], d=[d for _, d in conditions])
    alike = [inputs(4, c=[c] * 4, d=[d] * 4) for c, d in conditions]
    samples.agree(out, paths, alike if share else [mixed, *alike], io=io, share=share)


@pytest.mark.parametrize("share", [(), ("trips",)])
def test_loop_with_an_if_inside(share: tuple[str, ...], tmp_path: Path) -> None:
    paths = family(tmp_path, [LOOP] * 3)
    out, report = merged(paths, tmp_path, share=share)
    assert share or became(report, "Loop") == {"replicated"}
    samples.well_formed(out)
    cases = [inputs(3, trips=[n, n, n]) for n in (0, 1, 4)]
    samples.agree(out, paths, cases if share else [*cases, inputs(3, trips=[3, 0, 5])], share=share)


def test_scan(tmp_path: Path) -> None:
    paths = family(tmp_path, [SCAN] * 3)
    out, _ = merged(paths, tmp_path)
    samples.well_formed(out)
    samples.agree(out, paths, [inputs(3)])


# --------------------------------------------------------------------------- functions and other domains

FUNCTION = """
<domain: "local", opset_import: ["": 17, "com.microsoft": 1]>
block <scale> (X, W) => (Y) {
    m = com.microsoft.FusedMatMul<alpha: float = @scale>(X, W)
    Y = com.microsoft.Gelu(m)
}"""
CALLS = """g (float[n, 4] x) => (float[n, 4] y) {
    a = local.block<scale = 0.5>(x, w)
    b = local.block<scale = 2.0>(a, w)
    y = Add(b, b1)
}"""


@pytest.mark.parametrize(("io", "rows"), [("separate", "n"), ("stacked", "3")])
def test_local_functions_and_contrib_operators(io: str, rows: str, tmp_path: Path) -> None:
    paths = family(tmp_path, [CALLS.replace("[n,", f"[{rows},") + FUNCTION] * 3)
    out, report = merged(paths, tmp_path, io=io)
    assert report.proof is not None and report.proof.ok
    assert len(report.lowered.nodes) == 5
    assert not samples.well_formed(out).functions
    samples.agree(out, paths, [inputs(3)], io=io)


def test_an_operator_that_nobody_knows(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (float[n, 4] y) {
        a = MatMul(x, w)
        y = custom.ops.Mystery<level = 3>(a, b1)
    }"""
    paths = family(tmp_path, [text] * 3)
    with pytest.raises(NotProven, match="custom"):
        merged(paths, tmp_path)
    out, report = merged(paths, tmp_path, verify=False)
    assert became(report, "MatMul") == {"batched"}
    assert became(report, "custom.ops.Mystery") == {"replicated"}
    found = [node for node in onnx.load(out).graph.node if node.domain == "custom.ops"]
    biases = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(out).graph.initializer}
    assert [(node.op_type, node.attribute[0].i) for node in found] == [("Mystery", 3)] * 3
    for node, path in zip(found, paths, strict=True):
        (own,) = (t for t in onnx.load(path).graph.initializer if t.name == "b1")
        np.testing.assert_array_equal(biases[node.input[1]], numpy_helper.to_array(own))


# --------------------------------------------------------------------------- local differences


def test_partial_with_one_attribute(tmp_path: Path) -> None:
    text = """g (float[n, 4] x) => (float[n, 4] y) {{
        a = MatMul(x, w)
        b = LeakyRelu<alpha = {}>(a)
        c = MatMul(b, w)
        y = Add(c, b1)
    }}"""
    paths = family(tmp_path, [text.format(alpha) for alpha in (0.1, 0.2, 0.5)])
    with pytest.raises(NotEquivalent, match="alpha"):
        merged(paths, tmp_path)
    out, report = merged(paths, tmp_path, partial=True)
    assert report.proof is not None and report.proof.ok
    assert became(report, "LeakyRelu") <= {"replicated", "batched"}
    assert became(report, "MatMul") == {"batched"}
    samples.agree(out, paths, [inputs(3)])
    assert netfuse_onnx.verify(out, paths).ok


def test_partial_with_heads_of_different_width(tmp_path: Path) -> None:
    paths = []
    for index, width in enumerate((2, 5, 3)):
        (path,) = family(
            tmp_path,
            ["g (float[n, 4] x) => (float[n, k] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, head) }"],
            {"w": (4, 4), "head": (4, width)},
        )
        paths.append(str(Path(path).rename(tmp_path / f"h{index}.onnx")))
    with pytest.raises(NotEquivalent, match="head"):
        merged(paths, tmp_path)
    out, report = merged(paths, tmp_path, partial=True)
    assert report.proof is not None and report.proof.ok
    assert [row.became for row in report.lowered.nodes] == ["batched", "batched", "replicated"]
    samples.well_formed(out)


# --------------------------------------------------------------------------- inputs that are outputs


@pytest.mark.parametrize(
    ("io", "share"), [("separate", ()), ("separate", ("x",)), ("stacked", ()), ("stacked", ("z",))]
)
def test_an_input_that_is_an_output(io: str, share: tuple[str, ...], tmp_path: Path) -> None:
    text = (
        "(float[n, 4] x, float[n, 4] z) => (float[n, 4] x, float[n, 4] y) { a = Mul(z, b1)  y = Add(a, x) }"
    )
    paths = family(tmp_path, [f"g {text}"] * 3, {"b1": (4,)})
    out, report = merged(paths, tmp_path, io=io, share=share)
    assert report.proof is not None and report.proof.ok
    samples.well_formed(out)
    x = inputs(3)["x"]
    if "x" not in share:  # there all models give the same x
        samples.agree(out, paths, [{"x": x, "z": x}], io=io, share=share)


def test_a_shared_input_that_is_an_output_cannot_be_stacked(tmp_path: Path) -> None:
    paths = family(tmp_path, ["g (float[n, 4] x) => (float[n, 4] x, float[n, 4] y) { y = Mul(x, b1) }"] * 2)
    with pytest.raises(UsageFault, match="an output too"):
        merged(paths, tmp_path, io="stacked", share=["x"])


# --------------------------------------------------------------------------- another spelling


@pytest.mark.parametrize("name", ["bert", "xlnet", "cnn", "lstm"])
def test_other_names_and_node_orders(name: str, tmp_path: Path) -> None:
    paths = []
    for index, path in enumerate(samples.exported(name, "torchscript")):
        proto, rng = onnx.load(path), random.Random(index)
        if index:
            edge = {info.name for info in (*proto.graph.input, *proto.graph.output)}
            proto.graph.ClearField("value_info")
            graphs.shuffled(proto.graph, rng)
            graphs.renamed(proto.graph, lambda n, edge=edge: n if n in edge or not n else f"{n[::-1]} 'é\"/")
        paths.append(save(tmp_path / f"m{index}.onnx", proto))
    out, report = merged(paths, tmp_path)
    assert report.proof is not None and report.proof.ok
    assert name == "lstm" or not report.lowered.replicated
    samples.well_formed(out)
    samples.agree(out, paths, [samples.draw(name, len(paths))], levels=samples.LEVELS[-1:])


def test_nodes_that_are_not_in_order(tmp_path: Path) -> None:
    paths = []
    for index, path in enumerate(samples.exported("mlp", "torchscript")):
        proto = onnx.load(path)
        backwards = list(proto.graph.node)[::-1]
        proto.graph.ClearField("node")
        proto.graph.node.extend(backwards)
        paths.append(save(tmp_path / f"m{index}.onnx", proto))
    out, _ = merged(paths, tmp_path)
    samples.well_formed(out)
    samples.agree(out, paths, [samples.draw("mlp", len(paths))])
