"""Weights that are equal in some of the models are stored once for each value, with an index for each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from oracle import LEVELS, run
from test_stored_once import CASES, FORMS, exported, stored

import netfuse_onnx
from netfuse_onnx.emit import repeat
from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.emit.repeat import SMALL
from netfuse_onnx.emit.stored_once import stored_once
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.match import equal
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Weight

N = 5


def groups(rng: np.random.Generator) -> list[int]:
    """A value for each model: any of the partitions of the models, all equal and all different included."""
    return rng.integers(0, rng.integers(1, N + 1), N).tolist()


def files(folder: Path, case: str, seed: int) -> tuple[list[str], dict[str, list[int]]]:
    """N files whose weights have one of a few values each, and the number of the value of each model."""
    text, frozen, own = CASES[case]
    rng = np.random.default_rng(seed)
    shapes = {**frozen, **own}
    which = {name: groups(rng) for name in shapes}
    values: dict[tuple[str, int], np.ndarray] = {}
    paths = []
    for m in range(N):
        proto = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]> g {text}'
        )
        for name, shape in shapes.items():
            key = name, which[name][m]
            if key not in values:
                values[key] = rng.uniform(0.1, 1.0, shape).astype(np.float32)  # type: ignore[call-overload]
            proto.graph.initializer.append(numpy_helper.from_array(values[key], name))
        paths.append(str(folder / f"m{m}.onnx"))
        onnx.save(proto, paths[-1])
    return paths, which


def distinct(paths: Sequence[str]) -> int:
    """Bytes of one copy of each value that a weight has in any model."""
    families = zip(*(onnx.load(path).graph.initializer for path in paths), strict=True)
    return sum(sum(map(len, {tensor.raw_data for tensor in tensors})) for tensors in families)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("io", "target"), [("separate", "generic"), ("stacked", "cpu"), ("stacked", "cuda")])
@pytest.mark.parametrize(
    "case", ["conv", "depthwise and norm", "transposed conv", "norm and slope", "gemm", "product of images"]
)
def test_any_weights_are_equal_in_any_models(
    tmp_path: Path, case: str, io: str, target: str, seed: int
) -> None:
    """Merged and proved in all three ways, here and again from the file; `check` names the same bytes."""
    paths, which = files(tmp_path, case, seed)
    out = str(tmp_path / "out.onnx")
    report = netfuse_onnx.merge(paths, out, io=io, target=target)
    assert report.ok
    size = distinct(paths)
    assert stored(out) <= size + SMALL * (len(which) + 2)
    again = netfuse_onnx.verify(out, paths)
    assert again.bytes.ok and again.graph.ok and again.graph.note == ""
    if target == "generic":
        assert netfuse_onnx.check(paths).distinct_bytes == report.distinct_bytes == stored(out)


def test_a_session_takes_them_when_it_loads(tmp_path: Path) -> None:
    """At the lowest level of optimisation that is one, no Gather is left for the calls."""
    paths, _ = files(tmp_path, "conv", 1)
    out = str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out, io="stacked", verify=False)
    assert "Gather" in {node.op_type for node in onnx.load(out).graph.node}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(out, options, providers=["CPUExecutionProvider"])
    assert "Gather" not in {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


def changed(out: str, change: str) -> None:
    """Let the first Gather that takes values of a weight take others, or change one stored value."""
    proto = onnx.load(out)
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    node = next(n for n in proto.graph.node if n.op_type == "Gather" and tensors.keys() >= set(n.input))
    ids = numpy_helper.to_array(tensors[node.input[1]])
    if change == "ids":
        other = (ids + np.arange(N) // (N - 1)) % (ids.max() + 1)  # of the last model
        fresh = numpy_helper.from_array(other, "other")
        proto.graph.initializer.append(fresh)
        node.input[1] = "other"
    else:
        values = numpy_helper.to_array(tensors[node.input[0]]).copy()
        values.reshape(-1)[-1] += 1
        tensors[node.input[0]].raw_data = values.tobytes()
    onnx.save(proto, out)


@pytest.mark.parametrize(
    ("change", "said"), [("ids", "its own is"), ("values", "of the merged model is not")]
)
def test_another_models_value_is_found(tmp_path: Path, change: str, said: str) -> None:
    """The proof of the bytes finds it by itself, whatever those of the graph and the values say."""
    paths, _ = files(tmp_path, "conv", 1)
    out = str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out)
    changed(out, change)
    report = netfuse_onnx.verify(out, paths)
    assert any(said in problem for problem in report.bytes.problems)


def test_each_model_is_compared_with_its_own_file(tmp_path: Path) -> None:
    """A proof that compared with the first of equal models alone would not see one that the matching took for
    equal in error."""
    paths, which = files(tmp_path, "conv", 1)
    twin = next(m for m in range(1, N) if which["w"][m] in which["w"][:m] and len(set(which["w"])) > 1)
    out = str(tmp_path / "out.onnx")

    netfuse_onnx.merge(paths, out)
    report = netfuse_onnx.verify(out, paths)
    assert report.ok
    same, calls = weights.same, []

    def lenient(a: Weight, b: Weight) -> bool:
        calls.append((a, b))
        return same(a, b) or (a.shape == b.shape and len(a.shape) == 4)

    proto = onnx.load(paths[twin])
    tensor = next(t for t in proto.graph.initializer if t.name == "w")
    tensor.raw_data = tensor.raw_data[:-4] + np.float32(7).tobytes()
    onnx.save(proto, paths[twin])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "same", lenient)
        problems = netfuse_onnx.verify(out, paths).bytes.problems
    assert calls and any(f"'w' of m{twin}" in problem for problem in problems)


SHAPE = (4, 3, 5)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("ids", [(0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2)])
def test_a_form_of_a_weight_holds_the_values_of_each_model(
    ids: tuple[int, ...], order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All forms at once, at every place of the model axis and under every transform, from two tensors: one with
    each element twice, which no Transpose makes. The first form that is read is the one that is kept."""
    monkeypatch.setattr(repeat, "SMALL", 0)
    values = [np.arange(60 * k, 60 * k + 60, dtype=np.int64).reshape(SHAPE) for k in range(3)]
    parts = tuple(Weight(TensorProto.INT64, SHAPE, values[k].tobytes()) for k in ids)
    emit = Emitter("g", 3, 17, {"w": parts}, ())
    emit.scope = "form"
    wanted = {}
    for place, (name, form) in list(enumerate(FORMS.items()))[::order]:
        if name == "as it is":  # of one value
            continue
        tensor = form(emit)
        assert isinstance(tensor, gs.Tensor)
        recipe = emit.recipes[tensor.name]
        wanted[f"y{place}"] = np.frombuffer(b"".join(weights.stream(recipe)), np.int64).reshape(recipe.shape)
        emit.output(tensor, f"y{place}")
    list(stored_once(emit))
    assert [len(recipe.parts) for _, recipe in emit.weights_read()] == [len(set(ids))] * 2
    got = run(exported(emit).SerializeToString(), {}, LEVELS[1])
    for name, want in wanted.items():
        np.testing.assert_array_equal(got[name], want, err_msg=name, strict=True)


def test_models_that_a_call_chooses_are_taken_from_the_stored_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids go through the indices: nothing of the size of all models is made, before or in a call."""
    monkeypatch.setattr(repeat, "SMALL", 0)
    values = [np.arange(60 * k, 60 * k + 60, dtype=np.int64).reshape(SHAPE) for k in range(2)]
    parts = tuple(Weight(TensorProto.INT64, SHAPE, values[k].tobytes()) for k in (0, 1, 0))
    emit = Emitter("g", 3, 17, {"w": parts}, ())
    ids = emit.input("ids", TensorProto.INT64, ["k"])
    whole = emit.weight("w", STACKED(0))
    emit.output(emit("Gather", whole, ids, axis=0), "y")  # type: ignore[arg-type]
    emit.output(emit("Gather", whole, emit("Neg", ids), axis=1), "z")  # type: ignore[arg-type]
    list(stored_once(emit))
    proto = exported(emit)
    for info in proto.graph.input:
        info.type.tensor_type.elem_type = TensorProto.INT64
    (stored_values,) = [t.name for t in proto.graph.initializer if list(t.dims) == [2, *SHAPE]]
    (reader,) = [node for node in proto.graph.node if "y" in node.output]
    assert reader.input[0] == stored_values
    asked = np.array([2, 1, 1, 0])
    got = run(proto.SerializeToString(), {"ids": asked}, LEVELS[1])
    every = np.stack([values[k] for k in (0, 1, 0)])
    np.testing.assert_array_equal(got["y"], every[asked])
    np.testing.assert_array_equal(got["z"], every[:, -asked])


def test_weights_that_differ_late_are_told_apart(tmp_path: Path) -> None:
    """Equal first pages are no proof."""
    large = np.zeros(4096, np.float32)
    other = large.copy()
    other[-1] = 1
    held = [Weight(TensorProto.FLOAT, (4096,), x.tobytes()) for x in (large, other, large, other, large)]
    merged = equal.collapsed(tuple(held))
    assert [merged.index(weight) for weight in merged] == [0, 1, 0, 1, 0]
    assert [weight.own for weight in merged] == held


def test_equal_bytes_of_another_shape_are_another_weight() -> None:
    one = Weight(TensorProto.FLOAT, (512, 2), bytes(4096))
    other = Weight(TensorProto.FLOAT, (2, 512), bytes(4096))
    assert equal.collapsed((one, other, one))[1].shape == (2, 512)
