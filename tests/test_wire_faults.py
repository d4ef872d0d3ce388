"""wire: external data stays inside its folder, and every bad file is a FileFault that says what to do."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import check_equal, external_model, model_of, refer, saved, typed, with_first
from onnx import TensorProto, helper, numpy_helper

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.protobuf import varint
from netfuse_onnx.storage.tensors import tensors

RNG = np.random.default_rng(0)


# --------------------------------------------------------------------------- external data


def test_external_data_becomes_absolute_and_small_tensors_come_inline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = external_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    scanned = wire.scan("m.onnx")
    assert scanned.extents["big"] == weights.weight_of(scanned.model.graph.initializer[0]).data
    assert scanned.extents["big"].path == str(tmp_path / "sub/w.bin")
    assert scanned.files == ("m.onnx", str(tmp_path / "sub/w.bin"))
    check_equal(path, model, 1024)
    assert wire.external_locations(path) == {"sub/w.bin"}


def test_a_cache_that_links_model_and_data_into_one_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot/sub").mkdir(parents=True)
    external_model(tmp_path / "blobs")
    with_first(str(tmp_path / "blobs/m.onnx"), location="sub/w.bin", length=12000, offset=4)
    os.symlink(tmp_path / "blobs/m.onnx", tmp_path / "snapshot/m.onnx")
    os.symlink(tmp_path / "blobs/sub/w.bin", tmp_path / "snapshot/sub/w.bin")
    assert wire.scan(str(tmp_path / "snapshot/m.onnx")).extents["big"].length == 12000


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"location": "no.bin"}, "can't be read"),
        ({"location": "sub"}, "not a regular file"),
        ({"location": ""}, "names no file"),
        ({"offset": "0"}, "names no file"),
        ({"location": "../out.bin"}, "outside its own folder"),
        ({"location": "sub/../../out.bin"}, "outside its own folder"),
        ({"location": "link.bin"}, "outside its own folder"),
        ({"location": "linked/out.bin"}, "outside its own folder"),
        ({"location": "/etc/hostname"}, "outside its own folder"),
        ({"location": "sub/w.bin", "offset": 13}, "which has 12012"),
        ({"location": "sub/w.bin", "offset": 10**30}, "offset or length"),
        ({"location": "sub/w.bin", "offset": -4}, "offset or length"),
        ({"location": "sub/w.bin", "length": "x"}, "offset or length"),
        ({"location": "sub/w.bin", "length": 11996}, "takes 12000"),
    ],
)
def test_external_data_that_is_refused(tmp_path: Path, entries: dict[str, object], says: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "out.bin").write_bytes(bytes(20000))
    os.symlink(tmp_path / "out.bin", folder / "link.bin")
    os.symlink(tmp_path, folder / "linked")
    path, _ = external_model(folder)
    with pytest.raises(FileFault, match=r"m\.onnx") as caught:
        wire.scan(with_first(path, **entries))
    assert says in str(caught.value) and caught.value.hint


def test_the_models_own_absolute_path_is_refused_too(tmp_path: Path) -> None:
    path, _ = external_model(tmp_path)
    with pytest.raises(FileFault, match="outside its own folder"):
        wire.scan(with_first(path, location=str(tmp_path / "sub/w.bin"), offset=0, length=12000))


# --------------------------------------------------------------------------- bad files


def test_truncation_anywhere_is_a_file_fault(tmp_path: Path) -> None:
    path, _ = external_model(tmp_path)
    inner = model_of(numpy_helper.from_array(RNG.standard_normal(300), "t")).graph
    model = onnx.load(path, load_external_data=False)
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    model.graph.initializer.append(typed(TensorProto.INT64, list(range(600)), "typed"))
    data = model.SerializeToString()
    cut = tmp_path / "cut.onnx"
    faults = 0
    for length in range(0, len(data), 37):
        cut.write_bytes(data[:length])
        with suppress(FileFault):
            wire.scan(str(cut))
            continue
        faults += 1
    assert faults >= len(data) // 37 - 2


@given(at=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_a_file_fault_or_harmless(tmp_path: Path, at: list[tuple[int, int]]) -> None:
    model = model_of(
        numpy_helper.from_array(RNG.standard_normal(200), "t"), typed(TensorProto.INT64, [-5] * 150)
    )
    data = bytearray(model.SerializeToString())
    for place, value in at:
        data[place % len(data)] = value
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    try:
        scanned = wire.scan(str(path))
    except FileFault:
        return
    for tensor in tensors(scanned.model):
        weights.nbytes(weights.weight_of(tensor))


@given(data=st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(FileFault):
        wire.scan(str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"This is a text file.\n" * 50, "not a valid ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"\x08\x08", "no graph"),
        (b"\x08\x08" + b"\x3a\x00", "no opset imports"),
        (b"\x3a" + varint(10**9), "truncated"),
        (b"\x08" + b"\xff" * 12, "does not end"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(FileFault, match=r"m\.onnx") as caught:
        wire.scan(str(path))
    assert says in str(caught.value) and caught.value.hint


def test_paths_that_are_no_model_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, says in (
        ("no.onnx", "does not exist"),
        ("", "folder"),
        ("pipe", "regular"),
        ("a\0b", "can't be read"),
    ):
        with pytest.raises(FileFault, match=says):
            wire.scan(str(tmp_path / name) if name else str(tmp_path))


def test_tensors_that_do_not_fill_their_shape(tmp_path: Path) -> None:
    good = numpy_helper.from_array(RNG.standard_normal(300), "w")
    cases: dict[str, dict[str, Any]] = {
        "takes 2400": {"raw_data": bytes(2399)},
        "takes 2408": {"dims": [301]},
        r"shape \[-1\]": {"dims": [-1]},
        "type UNDEFINED": {"data_type": 0},
        "twice": {"double_data": [1.0] * 300},
        "strings in a raw form": {"data_type": TensorProto.STRING, "raw_data": bytes(8)},
        "can't keep its values": {"data_type": TensorProto.STRING},
    }
    for says, change in cases.items():
        tensor = TensorProto()
        tensor.CopyFrom(good)
        for name in change:
            tensor.ClearField(name)
        tensor.MergeFrom(TensorProto(**change))
        with pytest.raises(FileFault, match=says):
            wire.scan(saved(tmp_path, model_of(tensor)))
    for small in (TensorProto(raw_data=bytes(11)), TensorProto(float_data=[1, 2])):
        small.MergeFrom(TensorProto(name="w", data_type=1, dims=[3]))
        with pytest.raises(FileFault, match="shape"):
            wire.scan(saved(tmp_path, model_of(small)))


def test_sparse_tensors_are_found_inline_and_large(tmp_path: Path) -> None:
    for count in (10, 1000):
        values = numpy_helper.from_array(np.arange(count, dtype=np.float32), "s")
        sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.arange(count)), [9999])
        model = model_of()
        model.graph.sparse_initializer.append(sparse)
        scanned = wire.scan(saved(tmp_path, model)).model
        assert (scanned == model) == (count == 10)
        found = scanned.graph.sparse_initializer[0]
        held = [weights.array(weights.weight_of(tensor)) for tensor in (found.values, found.indices)]
        assert list(found.dims) == [9999] and np.array_equal(held[0], np.arange(count))
        assert np.array_equal(held[1], np.arange(count))


def test_a_small_sparse_tensor_may_lie_outside(tmp_path: Path) -> None:
    (tmp_path / "s.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    values = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[4])
    refer(values, location="s.bin")
    model = model_of()
    places = numpy_helper.from_array(np.arange(4))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [9]))
    scanned = wire.scan(saved(tmp_path, model))
    assert scanned.files[1:] == (str(tmp_path / "s.bin"),)
    sparse = scanned.model.graph.sparse_initializer[0]
    assert list(weights.array(weights.weight_of(sparse.values))) == [0, 1, 2, 3]


def test_a_path_that_is_not_text(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    os.mkdir(folder)
    tensor = numpy_helper.from_array(np.zeros(5000, np.float32), "w")
    path = saved(Path(folder), model_of(tensor))
    with pytest.raises(FileFault, match="UTF-8 path"):
        wire.scan(path)


@pytest.mark.parametrize(
    "values",
    [
        b"\x22\x06" + bytes(6) + b"\x22\x82\x10" + bytes(2050),  # packed floats that are not whole
        b"\x20\x01" * 900,  # floats as varints
        b"\x48\x01" * 900,  # raw_data as a varint
        b"\xa5\x00" + bytes(4) + b"\x25\x00\x00\x00\x00" * 500,  # a tag in two bytes
    ],
)
def test_tensor_values_in_the_wrong_form(tmp_path: Path, values: bytes) -> None:
    body = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[514]).SerializeToString() + values
    graph = model_of().graph.SerializeToString() + b"\x2a" + varint(len(body)) + body
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of().SerializeToString() + b"\x3a" + varint(len(graph)) + graph)
    with pytest.raises(FileFault):
        wire.scan(str(path))


def test_graphs_nested_without_end(tmp_path: Path) -> None:
    body = bytes(2000)
    for _ in range(200):  # attribute.g in node.attribute in graph.node
        body = b"\x32" + varint(len(body)) + body
        body = b"\x2a" + varint(len(body)) + body
        body = b"\x0a" + varint(len(body)) + body
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x3a" + varint(len(body)) + body)
    with pytest.raises(FileFault, match="deep"):
        wire.scan(str(path))


def test_names_that_are_not_text(tmp_path: Path) -> None:
    data = model_of().SerializeToString().replace(b"Relu", b"Re\xff\xfe")
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(FileFault, match="UTF-8"):
        wire.scan(str(tmp_path / "m.onnx"))
