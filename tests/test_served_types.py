"""An engine serves values of any type, and pads only where that is proven: on the sessions of real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper
from test_buckets import MASKED, MEAN

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.engine import ServedFiles
from netfuse_onnx.runtime.opening import Opening, open_engine

CAST = "g ({type}[n, 8] x) => ({type}[n, 4] y) {{ f = Cast <to: int = 1> (x) h = MatMul(f, w) y = Cast <to: int = {to}> (h) }}"
SIGNS = "g (bool[n, 8] x) => (bool[n, 4] y) { f = Cast <to: int = 1> (x) h = MatMul(f, w) y = Greater(h, z) }"
LABELS = "g (string[n, 2] x) => (string[n, 2] y) { y = Identity(x) }"
KINDS: dict[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "double": np.float64,
    "int32": np.int32,
    "bool": np.bool_,
    "string": object,
}


def sources(folder: Path, kind: str) -> list[str]:
    """Three models that differ in their weights, or in the words that they say."""
    paths = []
    for m in range(3):
        if kind == "string":
            proto = families.model(LABELS)
            words = {"keys_strings": ["p", "q"], "values_strings": [f"p{m}", f"q{m}"], "default_string": "?"}
            node = helper.make_node("LabelEncoder", ["x"], ["y"], domain="ai.onnx.ml", **words)
            del proto.graph.node[:]
            proto.graph.node.append(node)
            proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
        elif kind == "bool":
            proto = families.model(SIGNS, {"w": (8, 4), "z": (4,)}, seed=m)
        else:
            to = int(onnx.TensorProto.DataType.Value(kind.upper()))
            proto = families.model(CAST.format(type=kind, to=to), {"w": (8, 4)}, seed=m)
        paths.append(families.save(folder / f"m{m}.onnx", proto))
    return paths


def drawn(kind: str, rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "string":
        return np.array(rng.choice(["p", "q", "r"], (rows, 2)), object)
    return np.asarray(rng.integers(0, 2 if kind == "bool" else 9, (rows, 8))).astype(KINDS[kind])


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_values_of_any_type_are_served(kind: str, io: str, tmp_path: Path) -> None:
    paths = sources(tmp_path, kind)
    out = families.merged(tmp_path, paths, io=io)
    engine = open_engine(out, Opening(tuple(paths), calibrate=0.0, rows_apart=True))
    assert isinstance(engine, ServedFiles) and engine.rows_apart
    for call in range(3):
        wanted = [(0, 1), (2, 2), (0, 2)][: call + 1]
        values = [drawn(kind, rows, 10 * call + k) for k, (_, rows) in enumerate(wanted)]
        requests = [engine.check(f"m{m}", {"x": v}) for (m, _), v in zip(wanted, values, strict=True)]
        found = engine.merged(requests)
        beside = engine.alone([request for request in requests if request.model == 0])
        own = [engine.alone([request])[0]["y"] for request in requests]
        for out_of_one, expected in zip(found, own, strict=True):
            same(out_of_one["y"], expected, kind)
        for out_of_one, expected in zip(beside, own[::2], strict=True):
            same(out_of_one["y"], expected, kind)
    assert len({str(engine.merged([engine.check(f"m{m}", {"x": values[0]})])[0]["y"]) for m in range(3)}) > 1


def same(found: np.ndarray, expected: np.ndarray, kind: str) -> None:
    assert found.dtype == expected.dtype == np.dtype(KINDS[kind]) and found.shape == expected.shape
    if kind in ("string", "bool"):
        np.testing.assert_array_equal(found, expected)
    else:
        a, b = found.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=1 if kind == "int32" else 1e-2)


@pytest.mark.parametrize("own", [True, False])
def test_an_engine_pads_only_what_is_proven(own: bool, tmp_path: Path) -> None:
    """With the models' own files and without them, where the merged file itself is run without padding."""
    for name, text in (("masked", MASKED), ("mean", MEAN)):
        folder = tmp_path / name
        folder.mkdir()
        paths = []
        for m in range(2):
            proto = families.model(text, {"w": (4, 3)}, seed=m)
            for constant, value in (("one", 1), ("two", 2)):
                proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), constant))
            paths.append(families.save(folder / f"m{m}.onnx", proto))
        out = families.merged(folder, paths, io="stacked")
        opening = Opening(tuple(paths) if own else (), calibrate=0.0, rows_apart=True, buckets={"seq": 8})
        if text is MEAN:
            with pytest.raises(UsageFault, match="Padding 'seq' changes output 'z'"):
                open_engine(out, opening)
            continue
        engine = open_engine(out, opening)
        feeds = [
            {"x": np.full((1, n, 4), n, np.float32), "mask": np.ones((1, n), np.float32)} for n in (3, 5)
        ]
        requests = [engine.check(f"m{m}", fed) for m, fed in enumerate(feeds)]
        for request, found in zip(requests, engine.merged(requests), strict=True):
            alone = engine.alone([request])[0]
            for key, value in alone.items():
                assert found[key].shape == value.shape
                np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4)


SEQUENCES = {
    "out": "g (float[n, 8] x) => (seq(float[n, 4]) y, float[n, 4] z) "
    "{ z = MatMul(x, w) r = Relu(z) y = SequenceConstruct(z, r) }",
    "in": "g (seq(float[2, 8]) s, float[n, 8] x) => (float[n, 4] z) "
    "{ a = SequenceAt(s, zero) h = Mul(x, a) z = MatMul(h, w) }",
}


@pytest.mark.parametrize("kind", list(SEQUENCES))
def test_sequences_are_served_one_request_a_model(kind: str, tmp_path: Path) -> None:
    """Nothing is known of their batch. A model without a request is fed the sequence of the first one."""
    paths = []
    for m in range(3):
        proto = families.model(SEQUENCES[kind], {"w": (8, 4)}, seed=m)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "zero"))
        paths.append(families.save(tmp_path / f"m{m}.onnx", proto))
    out = families.merged(tmp_path, paths)
    engine = open_engine(out, Opening(tuple(paths), calibrate=0.0, rows_apart=True))
    assert isinstance(engine, ServedFiles) and "is not a tensor" in engine.contract.reason
    for call in range(3):
        feeds = [{"x": np.full((2, 8), m + call, np.float32)} for m in range(3)]
        for m, fed in enumerate(feeds if kind == "in" else ()):
            fed["s"] = [np.full((2, 8), 10 * m + call, np.float32)]  # type: ignore[assignment]
        requests = [engine.check(f"m{m}", feeds[m]) for m in ((2, 0), (1,), (0, 1, 2))[call]]
        for request, found in zip(requests, engine.merged(requests), strict=True):
            alone = engine.alone([request])[0]
            assert list(found) == list(alone)
            np.testing.assert_allclose(found["z"], alone["z"], rtol=1e-4)
            for one, other in zip(found.get("y", ()), alone.get("y", ()), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4)


@pytest.mark.parametrize("io", ["separate", "index"])
def test_a_batch_that_is_fixed_has_one_request(io: str, tmp_path: Path) -> None:
    """In a call by index rows of one model may stand beside each other, but not in a call of its own."""
    text = "g (float[1, 8] x) => (float[1, 4] y) { y = MatMul(x, w) }"
    paths = families.family(tmp_path, text, {"w": (8, 4)}, 3)
    out = families.merged(tmp_path, paths, io="routed" if io == "index" else io)
    engine = open_engine(out, Opening(tuple(paths), calibrate=0.0))
    assert isinstance(engine, ServedFiles)
    assert engine.contract.apart == (io == "index") and not engine.contract.side_by_side
    wanted = "ca" if io == "separate" else "cacc"
    requests = [engine.check(m, {"x": np.full((1, 8), k, np.float32)}) for k, m in enumerate(wanted)]
    alone = [engine.alone([request])[0]["y"] for request in requests]
    for found, expected in zip(engine.merged(requests), alone, strict=True):
        assert found["y"].shape == (1, 4)
        np.testing.assert_allclose(found["y"], expected, rtol=1e-4)
    for found, expected in zip(engine.alone(requests[-1:] * 2), alone[-1:] * 2, strict=True):
        np.testing.assert_array_equal(found["y"], expected)
