"""Families whose requests go over a wire: every element type, open axes, names of their own, tables to look up in.

Models of a family differ in their weights, so that an answer of another model shows. `Family.answer` runs a model's
own file in ONNX Runtime: that is what a server must give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import families
import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import netfuse_onnx
from bench import mixed
from netfuse_onnx.runtime.bits import run_bits

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

KINDS: dict[str, tuple[str, Any]] = {
    "BOOL": ("bool", np.bool_), "INT8": ("int8", np.int8), "INT16": ("int16", np.int16),
    "INT32": ("int32", np.int32), "INT64": ("int64", np.int64), "UINT8": ("uint8", np.uint8),
    "UINT16": ("uint16", np.uint16), "UINT32": ("uint32", np.uint32), "UINT64": ("uint64", np.uint64),
    "FP16": ("float16", np.float16), "BF16": ("bfloat16", ml_dtypes.bfloat16), "FP32": ("float", np.float32),
    "FP64": ("double", np.float64), "BYTES": ("string", np.object_),
}  # fmt: skip
"""The protocol's types: the word of ONNX's text, and numpy's type."""
TYPED_MODELS = ("t0", "t1", "t2")
HALF_MODELS = ("h0", "h1", "h2")
BFLOAT_MODELS = ("b0", "b1", "b2")
HALF_KINDS = ("FP16", "BF16")
"""The types that travel as bytes alone: JSON does not carry them."""
JSON_KINDS = tuple(kind for kind in KINDS if kind not in HALF_KINDS)
SHAPED_MODELS = ("s0", "s1", "s2")
WIDTH = 3
"""Values in a row of the family `types`."""


@dataclass(frozen=True)
class Family:
    """Models on disk: their files by name, and the bundle of their merge, `name` being what it is served as."""

    name: str
    files: Mapping[str, str]
    bundle: str
    sessions: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def models(self) -> list[str]:
        return list(self.files)

    def session(self, model: str) -> Any:
        """The session of a model's own file."""
        if model not in self.sessions:
            self.sessions[model] = ort.InferenceSession(self.files[model], providers=["CPUExecutionProvider"])
        return self.sessions[model]

    def answer(self, model: str, feeds: Mapping[str, Array]) -> Feeds:
        """Return what a model's own file gives. Types that numpy lacks are those of ml_dtypes."""
        session = self.session(model)
        names = [port.name for port in session.get_outputs()]
        given = {n: v.view(np.uint16) if v.dtype == ml_dtypes.bfloat16 else v for n, v in feeds.items()}
        plain = all(port.type != "tensor(bfloat16)" for port in session.get_inputs())
        results = session.run(names, given) if plain else run_bits(session, names, given)
        bits = [port.type == "tensor(bfloat16)" for port in session.get_outputs()]
        return {
            n: v.view(ml_dtypes.bfloat16) if b else v for n, v, b in zip(names, results, bits, strict=True)
        }


def bundle(folder: Path, name: str, files: Mapping[str, str]) -> Family:
    """Merge files to a bundle, unproven: the tests of the merge do that."""
    out = str(folder / name)
    netfuse_onnx.merge([*files.values()], out, io="stacked", views=True, verify=False, names=[*files])
    return Family(name, files, out)


# ----------------------------------------------------------------------------- lookups: what the load tests ask


def lookups(folder: Path, count: int = 8, generation: int = 0, name: str = "lookups") -> Family:
    """The family of bench/mixed.py: an index out of range fails a whole call."""
    paths = mixed.family(folder / f"{name}-{generation}", count, generation)
    return bundle(folder, name, {f"m{k}": path for k, path in enumerate(paths)})


# ----------------------------------------------------------------------------- types: each type of the protocol


def types(folder: Path) -> Family:
    """Models with an input x_T and an output y_T for each type T that JSON carries. Numbers get another summand in
    each model, texts another ending, and bits are turned where the model says so."""
    return _typed_family(folder, "types", TYPED_MODELS, JSON_KINDS)


def halves(folder: Path) -> Family:
    """The same for FP16, which JSON does not carry in Triton."""
    return _typed_family(folder, "halves", HALF_MODELS, ["FP16"])


def bfloats(folder: Path) -> Family:
    """The same for BF16, which ONNX Runtime takes in no call together with texts from Python."""
    return _typed_family(folder, "bfloats", BFLOAT_MODELS, ["BF16"])


def _typed_family(folder: Path, name: str, models: Sequence[str], kinds: Sequence[str]) -> Family:
    files = {m: families.save(folder / f"{m}.onnx", _typed(k, kinds)) for k, m in enumerate(models)}
    return bundle(folder, name, files)


def _typed(model: int, kinds: Sequence[str]) -> onnx.ModelProto:
    lines, weights = [], []
    for kind, word in ((kind, KINDS[kind][0]) for kind in kinds):
        make: Callable[[str, str, int], tuple[str, onnx.TensorProto]]
        make = {"BOOL": _turned, "BYTES": _ended}.get(kind, _added)
        line, weight = make(kind, word, model)
        lines.append(line)
        weights.append(weight)
    inputs, outputs = (
        ", ".join(f"{KINDS[kind][0]}[n, {WIDTH}] {side}_{kind}" for kind in kinds) for side in "xy"
    )
    text = f'<ir_version: 9, opset_import: ["": 20]> g ({inputs}) => ({outputs}) {{ {" ".join(lines)} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(weights)
    return proto


def _turned(kind: str, _: str, model: int) -> tuple[str, onnx.TensorProto]:
    bits = np.array([(model >> k) & 1 for k in range(WIDTH)], np.bool_)
    return f"y_{kind} = Xor(x_{kind}, c_{kind})", numpy_helper.from_array(bits, f"c_{kind}")


def _ended(kind: str, _: str, model: int) -> tuple[str, onnx.TensorProto]:
    endings = helper.make_tensor(
        f"c_{kind}", onnx.TensorProto.STRING, [WIDTH], [f"-{model}{k}".encode() for k in range(WIDTH)]
    )
    return f"y_{kind} = StringConcat(x_{kind}, c_{kind})", endings


def _added(kind: str, word: str, model: int) -> tuple[str, onnx.TensorProto]:
    """Add in a type that ONNX Runtime adds in: its kernels know few of them."""
    wide = {"INT64": "int64", "UINT64": "int64", "FP64": "double"}.get(kind) or (
        "float" if "F" in kind else "int32" if kind != "UINT32" else "int64"
    )
    number = {"int64": 7, "double": 11, "float": 1, "int32": 6}[wide]
    own = onnx.TensorProto.DataType.Value(word.upper())
    summands = np.arange(1, WIDTH + 1) + 10 * model
    weight = numpy_helper.from_array(summands.astype(helper.tensor_dtype_to_np_dtype(number)), f"c_{kind}")
    if own == number:
        return f"y_{kind} = Add(x_{kind}, c_{kind})", weight
    return (
        f"w_{kind} = Cast<to: int = {number}>(x_{kind}) a_{kind} = Add(w_{kind}, c_{kind}) "
        f"y_{kind} = Cast<to: int = {own}>(a_{kind})"
    ), weight


TEXTS = ("", "plain", "Größe 東京 🙂", "two\nlines\r\n", "a\0b", '"quoted" \\ {"json": [1]}', " ", "x" * 3000)


def half_feeds(seed: int, rows: int = 1, kind: str = "FP16") -> Feeds:
    """Draw the inputs of a request to the family `halves`, or `bfloats`."""
    return _drawn(seed, rows, [kind])


def typed_feeds(seed: int, rows: int = 1) -> Feeds:
    """Draw the inputs of a request to the family `types`: extremes of each type among them."""
    return _drawn(seed, rows, JSON_KINDS)


def _drawn(seed: int, rows: int, kinds: Sequence[str]) -> Feeds:
    rng = np.random.default_rng(seed)
    feeds = {}
    for kind, dtype in ((kind, KINDS[kind][1]) for kind in kinds):
        shape = (rows, WIDTH)
        if kind == "BYTES":
            value: Array = np.array(rng.choice(TEXTS, shape), object)
        elif kind == "BOOL":
            value = rng.integers(0, 2, shape).astype(bool)
        elif "F" in kind:
            value = (rng.integers(-64, 64, shape) / 4).astype(dtype)
        else:
            least, most = np.iinfo(dtype).min, np.iinfo(dtype).max - 64
            value = rng.choice(np.array([least, most, 0, 5, most // 2], dtype), shape)
        feeds[f"x_{kind}"] = value
    return feeds


# ----------------------------------------------------------------------------- shapes: open axes, own names

SHAPED = """<ir_version: 9, opset_import: ["": 17]>
g (float[n, s, 4] seq{m}, float[n] scale{m}) => (float[n, s, 2] out{m}, float[n] total{m}) {{
    h = MatMul(seq{m}, w)
    axes = Constant<value_ints = [1, 2]>()
    wide = Unsqueeze(scale{m}, axes)
    out{m} = Mul(h, wide)
    total{m} = ReduceSum<keepdims = 0>(out{m}, axes)
}}"""


def shapes(folder: Path) -> Family:
    """Models with an axis of any size, an input and an output of one number a row, and names of their own."""
    files = {}
    for m, model in enumerate(SHAPED_MODELS):
        proto = onnx.parser.parse_model(SHAPED.format(m=m))
        weight = np.random.default_rng(m).standard_normal((4, 2)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        files[model] = families.save(folder / f"{model}.onnx", proto)
    return bundle(folder, "shapes", files)


def shaped_feeds(model: int, rows: int, steps: int, seed: int = 0) -> Feeds:
    rng = np.random.default_rng([seed, model, rows, steps])
    return {
        f"seq{model}": rng.standard_normal((rows, steps, 4)).astype(np.float32),
        f"scale{model}": rng.standard_normal(rows).astype(np.float32),
    }


def lookup_feeds(seed: int, rows: int = 1) -> Feeds:
    """Draw the inputs of a request to the family `lookups`."""
    rng = np.random.default_rng(seed)
    return {"ids": rng.integers(0, 50, (rows, 3)), "x": rng.standard_normal((rows, 8)).astype(np.float32)}


MAKERS: Mapping[str, Callable[[Path], Family]] = {
    "lookups": lookups, "types": types, "halves": halves, "bfloats": bfloats,
    "shapes": shapes,
}  # fmt: skip


def same(got: Mapping[str, Any], want: Mapping[str, Array], names: Sequence[str] | None = None) -> None:
    """Check outputs by value and type. Floats may differ by rounding: a merged call adds up in another order."""
    assert [*got] == [*(names or want)] or {*got} == {*(names or want)}
    for name in got:
        a, b = got[name], want[name]
        assert a.shape == b.shape, name
        if b.dtype == object:
            assert [*map(text, a.ravel())] == [*map(text, b.ravel())], name
        else:
            assert a.dtype == b.dtype, name
            wide = np.float64 if b.dtype.kind in "fV" or b.dtype == ml_dtypes.bfloat16 else b.dtype
            np.testing.assert_allclose(a.astype(wide), b.astype(wide), mixed.RTOL, mixed.ATOL, err_msg=name)


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
