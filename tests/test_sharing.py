"""Tests of the figures on what models share: bytes that are stored and read, arithmetic that runs once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from netfuse_onnx.cli.render_sharing import sharing as said
from netfuse_onnx.cli.screen import Screen
from onnx import numpy_helper
from test_stored_once import stored

import netfuse_onnx
from netfuse_onnx import sharing
from netfuse_onnx.merge_rows import Sharing

N = 4
K, HIDDEN, OUT = 64, 128, 32
BACKBONE, TAIL = K * HIDDEN + HIDDEN * K, K * OUT
"""Multiply-adds of one row, and elements of the weights."""
TEXT = f"""(float[n, {K}] x) => (float[n, {OUT}] y) {{
    h = MatMul(x, a)  i = Relu(h)  j = MatMul(i, b)  y = MatMul(j, c) }}"""
IMAGES = """(float[n, 32, 8, 8] x) => (float[n, 32, 8, 8] y) {
    h = Conv<pads = [1, 1, 1, 1]>(x, a)  i = Relu(h)  j = Conv<pads = [1, 1, 1, 1]>(i, b)
    k = Relu(j)  y = Conv<pads = [1, 1, 1, 1]>(k, c) }"""
SHAPES = {"a": (K, HIDDEN), "b": (HIDDEN, K), "c": (K, OUT)}
FILTERS = dict.fromkeys("abc", (32, 32, 3, 3))


def files(folder: Path, frozen: str, text: str = TEXT) -> list[str]:
    paths = []
    for m in range(N):
        proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> g {text}')
        for place, (name, shape) in enumerate((SHAPES if text is TEXT else FILTERS).items()):
            rng = np.random.default_rng(place if name in frozen else 100 + 10 * m + place)
            proto.graph.initializer.append(
                numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            )
        paths.append(str(folder / f"m{m}.onnx"))
        onnx.save(proto, paths[-1])
    return paths


def merged(paths: Sequence[str], folder: Path, **options: object) -> Sharing:
    report = netfuse_onnx.merge(paths, str(folder / "out.onnx"), **options)  # type: ignore[arg-type]
    assert report.ok and report.sharing is not None
    assert report.sharing.stored == report.distinct_bytes == stored(str(folder / "out.onnx"))
    return report.sharing


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("target", ["generic", "cpu", "cuda"])
def test_a_frozen_backbone_on_one_input_runs_once(tmp_path: Path, target: str, io: str) -> None:
    found = merged(files(tmp_path, "ab"), tmp_path, io=io, target=target, share=["x"])
    assert found.sources == 4 * N * (BACKBONE + TAIL)
    assert found.stored == pytest.approx(4 * (BACKBONE + N * TAIL), rel=0.02)
    assert found.read == pytest.approx(found.stored, rel=0.02)
    assert found.once == pytest.approx(BACKBONE / (BACKBONE + TAIL))
    assert found.arithmetic == pytest.approx((BACKBONE + N * TAIL) / (BACKBONE + TAIL))


@pytest.mark.parametrize("target", ["generic", "cpu", "cuda"])
@pytest.mark.parametrize("text", [TEXT, IMAGES])
def test_a_frozen_backbone_on_own_inputs_is_one_larger_batch(tmp_path: Path, text: str, target: str) -> None:
    """It is stored and read once, no copy is made of it, and it runs on the rows of all models."""
    out = tmp_path / "out.onnx"
    paths = files(tmp_path, "ab", text)
    found = merged(paths, tmp_path, target=target)
    assert (found.once, found.arithmetic) == (0.0, N)
    proto = onnx.load(out)
    held = {tensor.name for tensor in proto.graph.initializer}
    assert not any(node.op_type == "Concat" and held.issuperset(node.input) for node in proto.graph.node)
    one = sum(len(t.raw_data) for t in onnx.load(paths[0]).graph.initializer if t.name in "ab")
    rest = sum(len(t.raw_data) for t in onnx.load(paths[0]).graph.initializer if t.name == "c")
    assert found.read == pytest.approx(one + N * rest, rel=0.02)


@pytest.mark.parametrize("frozen", ["", "a", "b", "c", "ac", "abc"])
@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("text", [TEXT, IMAGES])
def test_check_and_merge_agree(tmp_path: Path, text: str, io: str, frozen: str) -> None:
    """`check` plans without a target and with inputs and outputs apart; other forms store the same weights."""
    paths = files(tmp_path, frozen, text)
    checked = netfuse_onnx.check(paths)
    assert checked.sharing is not None
    found = {target: merged(paths, tmp_path, io=io, target=target) for target in ("generic", "cpu", "cuda")}
    for each in found.values():
        assert each.stored == pytest.approx(checked.distinct_bytes, abs=1024)
    if io == "separate":
        assert found["generic"] == checked.sharing


def test_copies_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session makes them when it loads the file, and a call reads each."""
    from netfuse_onnx.plan import cost

    monkeypatch.setattr(cost, "COPIED_PER_NODE", 1 << 40)
    found = merged(files(tmp_path, "b", IMAGES), tmp_path)
    each = 4 * 32 * 32 * 9
    assert found.stored == pytest.approx((2 * N + 1) * each, rel=0.01)
    assert found.read == pytest.approx(3 * N * each, rel=0.01)


def test_a_call_that_chooses_its_models_reads_theirs(tmp_path: Path) -> None:
    """No number is said: only the call tells how many they are."""
    found = merged(files(tmp_path, "ab"), tmp_path, io="selected")
    assert (found.read, found.arithmetic, found.once) == (None, None, 0.0)


def test_tables_are_not_read_whole() -> None:
    text = """g (int64[n] x, float[n, 8] z) => (float[n, 8] y) { e = Gather(t, x)  y = Mul(e, w) }"""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    for name, shape in (("t", (1000, 8)), ("w", (8,))):
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    assert sharing.read_bytes(proto.graph) == 32


def test_what_bodies_read_is_read() -> None:
    text = """g (bool c, float[n, 8] x) => (float[n, 8] y) { y = If(c) <
        then_branch = g1 () => (float[n, 8] o) { o = Add(x, w) }, else_branch = g2 () => (float[n, 8] q) { q = Neg(x) }> }"""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.float32), "w"))
    assert sharing.read_bytes(proto.graph) == 32


def test_it_is_said_where_anything_is_shared(capsys: pytest.CaptureFixture[str]) -> None:
    said(
        Sharing(stored=1_000_000, sources=8_000_000, read=900_000, once=0.95, arithmetic=1.4),
        Screen(data=True),
    )
    out = capsys.readouterr().out
    assert "1 MB of weights are stored for 8 MB" in out and "reads 900 kB" in out
    assert "95% of a model's arithmetic runs once" in out and "1.40 times that of one" in out
    said(
        Sharing(stored=8_000_000, sources=8_000_000, read=8_000_000, once=0.0, arithmetic=8.0),
        Screen(data=True),
    )
    said(None, Screen(data=True))
    assert capsys.readouterr().out == ""
