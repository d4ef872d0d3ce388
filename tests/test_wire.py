"""wire: the skeleton holds all but the bytes, and every reference is exact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from model_files import check_equal, model_of, saved, typed
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.protobuf import varint

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("threshold", [0, 16, 1024])
@pytest.mark.parametrize("count", [1, 7, 3000])
@pytest.mark.parametrize(
    "dtype", [d for d in TensorProto.DataType.values() if d not in (0, TensorProto.STRING)]
)
def test_every_type_in_raw_and_typed_field(tmp_path: Path, dtype: int, count: int, threshold: int) -> None:
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    signed = kind.kind not in "ub" and "uint" not in kind.name and "e8m0" not in kind.name
    values = (
        RNG.integers(-2 if signed and "int" in kind.name else 0, 2, count).astype(np.float32).astype(kind)
    )
    raw = numpy_helper.from_array(values, "raw")
    field = helper.make_tensor("typed", dtype, [count], values, raw=False)
    assert raw.HasField("raw_data") and not field.HasField("raw_data")
    model = model_of(raw, field)
    check_equal(saved(tmp_path, model), model, threshold)


def test_the_spill_file_is_exact_for_extreme_numbers(tmp_path: Path) -> None:
    numbers = [0, 1, -1, 127, 128, 2**62, -(2**63), 2**63 - 1] * 200
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    signalling = np.frombuffer(np.full(600, 0x7F800001, "<u4").tobytes(), "<f4")
    floats = TensorProto(name="f", data_type=1, dims=[600])
    floats.ParseFromString(floats.SerializeToString() + b"\x22" + varint(2400) + signalling.tobytes())
    model = model_of(
        typed(TensorProto.INT64, numbers, "i"),
        typed(TensorProto.UINT64, [2**64 - 1, 2**63] * 300, "u"),
        typed(TensorProto.INT32, [-(2**31), 2**31 - 1] * 500, "s"),
        helper.make_tensor("h", TensorProto.FLOAT16, [65536], halves),
        floats,
    )
    scanned = check_equal(saved(tmp_path, model), model_of(*model.graph.initializer), 1024)
    assert set(scanned.extents) == {"i", "u", "s", "h", "f"}
    assert scanned.extents["f"].path == str(tmp_path / "m.onnx")
    assert scanned.extents["i"].path != str(tmp_path / "m.onnx")
    assert scanned.files == (str(tmp_path / "m.onnx"),)


@given(
    data=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=300),
    cuts=st.lists(st.tuples(st.integers(0, 300), st.booleans()), max_size=4),
    dtype=st.sampled_from([TensorProto.INT64, TensorProto.FLOAT, TensorProto.DOUBLE]),
)
@example(data=list(range(9)), cuts=[(2, True)], dtype=TensorProto.FLOAT)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_values_split_into_packed_and_unpacked_runs(
    tmp_path: Path, data: list[int], cuts: list[tuple[int, bool]], dtype: int
) -> None:
    """The wire format allows a repeated field in several pieces; protobuf's own reader is the oracle."""
    forms: dict[int, tuple[int, int]] = {7: (7, 0), 1: (4, 5), 11: (10, 1)}
    number, wire_type = forms[dtype]

    def encode(value: int) -> bytes:
        if wire_type == 0:
            return varint(value % 2**64)
        width = 4 if wire_type == 5 else 8
        return int.to_bytes(value % 256**width, width, "little")

    body = TensorProto(name="w", data_type=dtype, dims=[len(data)]).SerializeToString()
    places = [*sorted({min(at, len(data)): packed for at, packed in cuts}.items()), (len(data), True)]
    begin, packed = 0, True
    for end, then in places:
        part = [encode(value) for value in data[begin:end]]
        if packed:
            body += bytes([number << 3 | 2]) + varint(len(b"".join(part))) + b"".join(part)
        else:
            body += b"".join(bytes([number << 3 | wire_type]) + one for one in part)
        begin, packed = end, then
    tensor = TensorProto()
    tensor.ParseFromString(body)
    graph = model_of().graph.SerializeToString() + b"\x2a" + varint(len(body)) + body
    head = model_of()
    head.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(head.SerializeToString() + b"\x3a" + varint(len(graph)) + graph)
    check_equal(str(path), model_of(tensor), 16)


def test_nested_bodies_functions_and_attributes(tmp_path: Path) -> None:
    big = [numpy_helper.from_array(RNG.standard_normal(500), f"t{i}") for i in range(6)]
    inner = model_of(big[0], nodes=(helper.make_node("Constant", [], ["y"], value=big[1]),)).graph
    outer = model_of(
        big[2], nodes=(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),)
    ).graph
    node = helper.make_node("Odd", ["x"], ["y"], domain="custom", tensors=big[3:5])
    model = model_of(
        big[5], nodes=(helper.make_node("If", ["c"], ["y"], then_branch=outer, else_branch=inner), node)
    )
    given = helper.make_attribute("size", big[1])
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Constant", [], ["y"], value=big[0])]
    model.functions.append(
        helper.make_function("custom", "F", ["x"], ["y"], body, opsets, attribute_protos=[given])
    )
    scanned = check_equal(saved(tmp_path, model), model, 1024)
    assert set(scanned.extents) == {"t5"}
    assert scanned.model.ByteSize() < 3000


def test_small_models_come_back_as_they_are(tmp_path: Path) -> None:
    text = TensorProto(name="s", data_type=TensorProto.STRING, dims=[2], string_data=[b"\xff\x00", b"a"])
    long = TensorProto(name="l", data_type=TensorProto.STRING, dims=[1], string_data=[b"x" * 5000])
    model = model_of(
        typed(TensorProto.FLOAT, [1.5]), text, long, numpy_helper.from_array(np.zeros((0, 3)), "empty")
    )
    model.doc_string = "d" * 5000
    assert wire.scan(saved(tmp_path, model)).model == model


def test_a_field_that_onnx_does_not_know_is_left_out_when_large(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of().SerializeToString() + varint(500 << 3 | 2) + varint(9000) + bytes(9000))
    assert wire.scan(str(path)).model == model_of()


def test_scanning_reads_little_and_keeps_little(tmp_path: Path) -> None:
    model = model_of(*(numpy_helper.from_array(np.zeros(1 << 20, np.uint8), f"w{i}") for i in range(16)))
    path = saved(tmp_path, model)
    reads: list[int] = []
    real = os.pread

    def pread(fd: int, length: int, at: int) -> bytes:
        reads.append(length)
        return real(fd, length, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", pread)
        scanned = wire.scan(path)
    assert sum(reads) < 1 << 20
    assert scanned.model.ByteSize() < 10_000


def test_the_spill_folder_goes_with_the_process(tmp_path: Path) -> None:
    path = saved(tmp_path, model_of(typed(TensorProto.INT64, [-1] * 2000)))
    (tmp_path / "tmp").mkdir()
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "from netfuse_onnx.storage import wire\n"
        f"wire.scan({path!r})\n"
        "assert os.listdir(os.environ['TMPDIR'])\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "import time; time.sleep(9)\n"
    )
    env = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 143
    assert not os.listdir(tmp_path / "tmp")


def test_bfloat16_in_int32_data_keeps_its_bits(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16)
    tensor = TensorProto(name="b", data_type=TensorProto.BFLOAT16, dims=[65536], int32_data=range(65536))
    scanned = wire.scan(saved(tmp_path, model_of(tensor)))
    assert weights.array(weights.weight_of(scanned.model.graph.initializer[0])).tobytes() == values.tobytes()
