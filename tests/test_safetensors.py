"""The reader of safetensors files: what the format's library writes, and files that nobody writes."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_files import adapter, base

import netfuse_onnx
from netfuse_onnx.errors import AdapterMismatch, FileFault
from netfuse_onnx.storage import safetensors, weights

Entries = dict[str, Any]


def entry(begin: int = 0, end: int = 8, shape: Any = (2,), dtype: Any = "F32") -> Entries:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def written(path: Path, header: Any, data: bytes = bytes(8), length: int | None = None) -> str:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return str(path)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_it_reads_what_the_library_writes(tmp_path: Path, kind: str) -> None:
    library = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    tensors = {f"t{k}": (rng.standard_normal((k, 3)) * 9).astype(kind) for k in range(4)}
    library.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = safetensors.read(str(tmp_path / "a.safetensors"))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(weights.array(found[name]), array)


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"a": entry(0, 12)}, bytes(8), "do not fill its shape"),
        ({"a": entry(0, 8)}, b"", "the file has 0"),
        ({"a": entry(0, 8)}, bytes(9), "the file has 9"),
        ({"a": entry(4, 12)}, bytes(12), "leave a hole"),
        ({"a": entry(), "b": entry(4, 12)}, bytes(12), "overlap"),
        ({"a": entry(), "b": entry()}, bytes(8), "overlap"),
        ({"a": entry(8, 0)}, bytes(8), "do not fill"),
        ({"a": entry(-8, 0)}, bytes(8), "no begin and end"),
        ({"a": entry(shape=[-2])}, bytes(8), "no usable shape"),
        ({"a": entry(shape=[2.0])}, bytes(8), "no usable shape"),
        ({"a": entry(shape=[True, 2])}, bytes(8), "no usable shape"),
        ({"a": entry(shape=[1] * 65 + [2])}, bytes(8), "no usable shape"),
        ({"a": entry(shape=[1 << 61, 1 << 61])}, bytes(8), "do not fill"),
        ({"a": entry(dtype="F33")}, bytes(8), "not known here"),
        ({"a": entry(dtype=["F32"])}, bytes(8), "not known here"),
        ({"a": entry(dtype="F64")}, bytes(8), "do not fill"),
        ({"a": [1]}, bytes(8), "no object"),
        ([1], bytes(8), "no JSON object"),
        (b"{", bytes(8), "no JSON"),
        (b"\xff\xfe", bytes(8), "no JSON"),
        (b"[" * 100_000, bytes(8), "no JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", bytes(8), "no JSON"),
        (b'{"a": {}, "a": {}}', bytes(8), "stands twice"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, header: Any, data: bytes, said: str) -> None:
    path = written(tmp_path / "a.safetensors", header, data)
    with pytest.raises(FileFault, match=said):
        safetensors.read(path)


@pytest.mark.parametrize("length", [1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_huge_header_is_not_read(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "a.safetensors", {"a": entry()}, length=length)
    with pytest.raises(FileFault, match="header would be longer"):
        safetensors.read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "header"),
        (b"\0\0\0", "header"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"PK\x03\x04" + bytes(60), "pickle"),
        (b"\x80\x02" + bytes(60), "pickle"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(FileFault, match=said):
        safetensors.read(str(tmp_path / "a.safetensors"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("pipe", "not a regular file"), ("none", "does not exist"), ("", "is a folder")):
        with pytest.raises(FileFault, match=said):
            safetensors.read(str(tmp_path / name))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_a_fault_or_another_value(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is in an adapter's files, the answer is sources or one sentence."""
    folder = tmp_path_factory.mktemp("fuzz")
    one = adapter(folder, "a")
    name = data.draw(st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]))
    path = Path(one.path) / name
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 600)))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    models = netfuse_onnx.adapters(base(folder), [one.path])
    with contextlib.suppress(FileFault, AdapterMismatch):
        netfuse_onnx.check([*models, *models])
