"""Weights that are equal in all models are stored once, whatever the operator that reads one for each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from oracle import LEVELS, run

import netfuse_onnx
from netfuse_onnx.emit import repeat
from netfuse_onnx.emit.emitter import Emitter, Held
from netfuse_onnx.emit.repeat import SMALL
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED
from netfuse_onnx.plan import cost
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.transforms import Repeat
from netfuse_onnx.types import Weight

N = 8
Shapes = Mapping[str, tuple[int, ...]]


def made(name: str, shape: Sequence[int], kind: str, seed: int) -> onnx.TensorProto:
    rng = np.random.default_rng(seed)
    if kind in ("int8", "uint8"):
        values = rng.integers(0, 100, shape).astype(kind)
    elif kind == "scale":
        values = rng.uniform(0.01, 0.02, shape).astype(np.float32)
    else:
        values = rng.uniform(0.1, 1.0, shape)
    if kind == "bfloat16":
        return onnx.helper.make_tensor(name, onnx.TensorProto.BFLOAT16, shape, values.reshape(-1))
    if kind in ("float", "float16"):
        values = values.astype(np.float32 if kind == "float" else np.float16)
    return numpy_helper.from_array(values, name)


def files(
    folder: Path, text: str, frozen: Mapping[str, object], own: Shapes, kind: str = "float", alike: int = N
) -> list[str]:
    """N files: `frozen` are equal in the first `alike` of them. A weight is a shape, or (element type, shape)."""
    paths = []
    for m in range(N):
        proto = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]> g {text}'
        )
        for place, (name, what) in enumerate({**frozen, **own}.items()):
            type_, shape = what if isinstance(what[0], str) else (kind, what)  # type: ignore[index]
            seed = place if name in frozen and m < alike else 100 + place + 1000 * m
            proto.graph.initializer.append(made(name, shape, type_, seed))
        paths.append(str(folder / f"m{m}.onnx"))
        onnx.save(proto, paths[-1])
    return paths


def distinct(paths: Sequence[str]) -> int:
    """Bytes of one copy of each value that a weight has in any model."""
    families = zip(*(onnx.load(path).graph.initializer for path in paths), strict=True)
    size = 0
    for tensors in families:
        raw = [numpy_helper.to_array(tensor).tobytes() for tensor in tensors]
        size += sum(map(len, set(raw)))
    return size


def stored(path: str) -> int:
    """Bytes of all tensors in a file."""
    return sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)


CONV = "(float[n, 32, 8, 8] x) => (float[n, 32, 8, 8] y)"
IMAGE = {"a": (32, 32, 3, 3), "c": (32, 32, 3, 3)}
PAD = "<pads = [1, 1, 1, 1]>"
CASES: dict[str, tuple[str, Mapping[str, object], Shapes]] = {
    "conv": (
        f"{CONV} {{ h = Conv{PAD}(x, a)  g = Conv{PAD}(h, w, b)  y = Conv{PAD}(g, c) }}",
        {"w": (32, 32, 3, 3), "b": (32,)},
        IMAGE,
    ),
    "conv twice": (
        f"{CONV} {{ h = Conv{PAD}(x, a)  g = Conv{PAD}(h, w)  i = Conv{PAD}(g, w)  y = Conv{PAD}(i, c) }}",
        {"w": (32, 32, 3, 3)},
        IMAGE,
    ),
    "depthwise and norm": (
        f"""{CONV} {{ h = Conv{PAD}(x, a)  i = Conv<pads = [1, 1, 1, 1], group = 32>(h, w)
            j = BatchNormalization(i, s, t, u, v)  y = Conv{PAD}(j, c) }}""",
        {"w": (32, 1, 3, 3), "s": (32,), "t": (32,), "u": (32,), "v": (32,)},
        IMAGE,
    ),
    "transposed conv": (
        f"{CONV} {{ h = Conv{PAD}(x, a)  g = ConvTranspose{PAD}(h, w)  y = Conv{PAD}(g, c) }}",
        {"w": (32, 32, 3, 3)},
        IMAGE,
    ),
    "norm and slope": (
        f"{CONV} {{ h = Conv{PAD}(x, a)  g = InstanceNormalization(h, s, t)  i = PRelu(g, p)  y = Conv{PAD}(i, c) }}",
        {"s": (32,), "t": (32,), "p": (32, 8, 8)},
        IMAGE,
    ),
    "table and product": (
        """(int64[n, 16] x) => (float[n, 16, 64] y) {
            e = Gather(t, x)  h = Add(e, p)  i = MatMul(h, a)  j = MatMul(i, w)  y = Add(j, b) }""",
        {"t": (500, 64), "p": (16, 64), "w": (64, 64)},
        {"a": (64, 64), "b": (64,)},
    ),
    "gemm": (
        """(float[n, 64] x) => (float[n, 64] y) {
            h = Gemm<transB = 1>(x, a)  i = Gemm<transB = 1>(h, w, b)  j = Gemm<transB = 1>(i, v, d)
            y = Gemm<transB = 1>(j, a, d) }""",
        {"w": (128, 64), "v": (64, 128), "d": (64,)},
        {"a": (64, 64), "b": (128,)},
    ),
    "product of images": (
        """(float[n, 4, 16, 32] x) => (float[n, 4, 16, 32] y) { h = MatMul(x, a)  i = Mul(h, w)
            j = MatMul(i, v)  k = LayerNormalization(j, s, t)  y = MatMul(k, a) }""",
        {"w": (4, 16, 32), "v": (4, 32, 32), "s": (32,), "t": (32,)},
        {"a": (32, 32)},
    ),
    "recurrent": (
        """(float[s, n, 32] x) => (float[s, 1, n, 32] y) {
            h = MatMul(x, a)  y, e, f = LSTM<hidden_size = 32>(h, w, r, b) }""",
        {"w": (1, 128, 32), "r": (1, 128, 32), "b": (1, 256)},
        {"a": (32, 32)},
    ),
    "branch": (
        f"""(float[n, 32, 8, 8] x, bool c0) => (float[n, 32, 8, 8] y) {{ h = Conv{PAD}(x, a)
            g = If(c0) <then_branch = g1 () => (float[n, 32, 8, 8] o) {{ o = Conv{PAD}(h, w) }},
                        else_branch = g2 () => (float[n, 32, 8, 8] q) {{ q = Mul(h, m) }}>
            y = Conv{PAD}(g, c) }}""",
        {"w": (32, 32, 3, 3), "m": (32, 8, 8)},
        IMAGE,
    ),
    "loop": (
        f"""(float[n, 32, 8, 8] x) => (float[n, 32, 8, 8] y) {{ h = Conv{PAD}(x, a)
            k = Constant<value = int64 {{3}}>()  t = Constant<value = bool {{1}}>()
            y = Loop(k, t, h) <body = b (int64 i, bool s, float[n, 32, 8, 8] v) => (bool s2, float[n, 32, 8, 8] z)
                {{ s2 = Identity(s)  u = Conv{PAD}(v, w)  z = Tanh(u) }}> }}""",
        {"w": (32, 32, 3, 3)},
        {"a": (32, 32, 3, 3)},
    ),
    "bytes": (
        f"""{CONV} {{ q = QuantizeLinear(x, xs, xz)  d = DequantizeLinear(q, xs, xz)
            e = DequantizeLinear<axis = 0>(w, ws, wz)  g = Conv{PAD}(d, e)
            r = QuantizeLinear(g, ys, xz)  y = DequantizeLinear(r, ys, xz) }}""",
        {"w": ("int8", (32, 32, 3, 3)), "ws": ("scale", (32,)), "wz": ("int8", (32,)), "xz": ("uint8", ())},
        {"xs": ("scale", ()), "ys": ("scale", ())},
    ),
}  # fmt: skip


def merged(paths: Sequence[str], folder: Path, **options: object) -> str:
    out = str(folder / "out.onnx")
    report = netfuse_onnx.merge(paths, out, **options)  # type: ignore[arg-type]
    assert report.ok
    return out


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("target", ["generic", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_the_file_holds_one_copy(tmp_path: Path, case: str, target: str, io: str) -> None:
    text, frozen, own = CASES[case]
    paths = files(tmp_path, text, frozen, own)
    out = merged(paths, tmp_path, io=io, target=target, share=["c0"] if case == "branch" else [])
    allowed = 1.05 * distinct(paths) + SMALL * len(frozen)
    assert stored(out) <= allowed


@pytest.mark.parametrize("kind", ["float", "float16"])
def test_a_session_repeats_them_when_it_loads(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the lowest level of optimisation that is one, and on every call without any."""
    text, frozen, own = CASES["conv"]
    monkeypatch.setattr(cost, "COPIED_PER_NODE", 1 << 30)
    paths = files(tmp_path, text.replace("float[", f"{kind}["), frozen, own, kind)
    out = merged(paths, tmp_path, io="stacked")
    tensors = {tensor.name for tensor in onnx.load(out).graph.initializer}
    assert sum(tensors.issuperset(node.input) for node in onnx.load(out).graph.node) == 1
    for level in (ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(out, options, providers=["CPUExecutionProvider"])
        left = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
        assert "Conv" in left and "Concat" not in left


def test_a_norm_with_equal_parameters_is_still_part_of_the_convolution(tmp_path: Path) -> None:
    """ONNX Runtime takes it into the convolution in front only where its parameters are stored tensors."""
    text, frozen, own = CASES["depthwise and norm"]
    out = merged(files(tmp_path, text, frozen, own), tmp_path, io="stacked")
    assert stored(out) < 1.1 * distinct([str(path) for path in tmp_path.glob("m*.onnx")])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(out, options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert left.count("Conv") == 3 and "BatchNormalization" not in left


@pytest.mark.parametrize("data", ["single", "external"])
def test_the_file_is_proved_again(tmp_path: Path, data: str) -> None:
    text, frozen, own = CASES["conv"]
    paths = files(tmp_path, text, frozen, own)
    out = merged(paths, tmp_path, data=data)
    report = netfuse_onnx.verify(out, paths)
    assert report.ok and report.strict is False and not report.warnings


def test_a_changed_copy_is_found(tmp_path: Path) -> None:
    """The proof of the bytes covers the one copy, and that of the graph how often it is repeated."""
    text, frozen, own = CASES["conv"]
    paths = files(tmp_path, text, frozen, own)
    out = merged(paths, tmp_path)
    proto = onnx.load(out)
    (one,) = [t for t in proto.graph.initializer if list(t.dims) == [32, 32, 3, 3]]
    one.raw_data = one.raw_data[:-4] + np.float32(7).tobytes()
    onnx.save(proto, out)
    found = netfuse_onnx.verify(out, paths).bytes.problems
    assert len(found) == 1 and "'w' of all models" in found[0]


SHAPE = (4, 3, 5)
WHOLE = np.arange(60, dtype=np.int64).reshape(SHAPE)
FORMS: dict[str, Callable[[Emitter], Held]] = {
    "as it is": lambda emit: emit.weight("w", SHARED),
    **{f"stacked {a}": lambda emit, a=a: emit.weight("w", STACKED(a)) for a in range(4)},  # type: ignore[misc]
    **{f"folded {a}": lambda emit, a=a: emit.weight("w", FOLDED(a)) for a in range(3)},  # type: ignore[misc]
    "padded": lambda emit: emit.unsqueeze(emit.weight("w", STACKED(1)), [2, 5]),  # type: ignore[arg-type]
    "across": lambda emit: emit.reshape(emit.weight("w", STACKED(1)), [2, 2, 9, 5]),  # type: ignore[arg-type]
    "swapped": lambda emit: emit.swap_last(emit.weight("w", STACKED(0)), 4),  # type: ignore[arg-type]
    "turned": lambda emit: emit.swap_at(emit.weight("w", STACKED(0)), 1, 4, 15),  # type: ignore[arg-type]
    "widened": lambda emit: emit.reform(
        emit.weight("w", STACKED(2)), shape=(4, 3, 30), transform=Repeat(2)  # type: ignore[arg-type]
    ),
}  # fmt: skip


def test_a_form_of_a_weight_holds_the_same_values() -> None:
    """All forms at once: the same bytes as if they were written out, from one tensor for each transform."""
    emit = Emitter("g", 3, 17, {"w": (Weight(TensorProto.INT64, SHAPE, WHOLE.tobytes()),)}, ())
    emit.scope = "form"
    wanted = {}
    for place, form in enumerate(FORMS.values()):
        tensor = form(emit)
        assert isinstance(tensor, gs.Tensor)
        recipe = emit.recipes[tensor.name]
        raw = b"".join(weights.stream(recipe))
        wanted[f"y{place}"] = np.frombuffer(raw, np.int64).reshape(recipe.shape)
        emit.output(tensor, f"y{place}")
    lines = list(repeat.store_once(emit))
    assert [line.value for line in lines] == ["w"] * (len(FORMS) - 1)
    found = exported(emit)
    held = sum(tensor.raw_data != b"" and len(tensor.dims) > 1 for tensor in found.graph.initializer)
    assert held == 4, "as it is, swapped, turned, and each element twice"
    got = run(found.SerializeToString(), {}, LEVELS[1])
    for name, want in wanted.items():
        np.testing.assert_array_equal(got[name], want, err_msg=name, strict=True)


def test_all_readers_of_a_weight_read_the_repeated_one() -> None:
    emit = Emitter("g", 3, 17, {"w": (Weight(TensorProto.INT64, SHAPE, WHOLE.tobytes()),)}, ())
    tensor = emit.weight("w", FOLDED(1))
    for place in range(3):
        emit.output(emit("Neg", tensor), f"y{place}")  # type: ignore[arg-type]
    assert len(list(repeat.store_once(emit))) == 1
    found = exported(emit)
    assert [len(node.input) for node in found.graph.node] == [3, 1, 1, 1]
    assert len({node.input[0] for node in found.graph.node[1:]}) == 1
    assert sum(len(tensor.dims) == 3 for tensor in found.graph.initializer) == 1


def exported(emit: Emitter) -> onnx.ModelProto:
    """What an emitter made, with the weights inside."""
    graph = emit.graph.cleanup()
    model = gs.export_onnx(graph, do_type_check=False, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    for output in model.graph.output:
        output.type.tensor_type.elem_type = TensorProto.INT64
    for tensor in model.graph.initializer:
        if tensor.name in emit.recipes:
            tensor.ClearField("data_location")
            tensor.raw_data = b"".join(weights.stream(emit.recipes[tensor.name]))
    return model
