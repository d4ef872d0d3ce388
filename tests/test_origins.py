"""The record of the sources in a merged file: what verify and split make of one that lies or is damaged."""

from __future__ import annotations

import base64
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import WIDE, WIDE_WEIGHTS, family, merged, save, tampered
from onnx import helper, numpy_helper
from split_families import wide

from netfuse_onnx import api
from netfuse_onnx.errors import FileFault
from netfuse_onnx.write import origins, packing


def test_weights_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS, count=3)
    for k, path in enumerate(paths):
        proto = onnx.load(path)
        values = np.zeros((64, 64), np.float32)
        values[-1] = k + 1
        tensors = [numpy_helper.from_array(values, "a"), numpy_helper.from_array(values * 10, "b")]
        proto.graph.initializer.extend(tensors)
        nodes = [helper.make_node("MatMul", [x, w], [y]) for x, w, y in (("x", "a", "s"), ("s", "b", "t"))]
        proto.graph.node[0].input[0] = "t"
        for node in reversed(nodes):
            proto.graph.node.insert(0, node)
        save(Path(path), proto)
    assert all(row.exact for row in api.split(merged(tmp_path, paths), str(tmp_path / "back")).models)


def with_record(out: str, change: Callable[[str], str | None]) -> None:
    """Replace the record in a merged file; None removes it."""

    def edit(proto: onnx.ModelProto) -> None:
        entry = next(each for each in proto.metadata_props if each.key == origins.KEY)
        text = change(entry.value)
        if text is None:
            proto.metadata_props.remove(entry)
        else:
            entry.value = text

    tampered(out, edit)


def repacked(change: Callable[[dict[str, object]], None]) -> Callable[[str], str]:
    """A change of the JSON in a record."""

    def edit(text: str) -> str:
        line, _, rest = lzma.decompress(base64.b64decode(text)).partition(b"\n")
        value = json.loads(line)
        change(value)
        raw = json.dumps(value).encode() + b"\n" + rest
        return base64.b64encode(lzma.compress(raw)).decode()

    return edit


def swapped(value: dict[str, object]) -> None:
    models = value["models"]
    assert isinstance(models, list)
    models.reverse()


def test_verify_sees_a_record_that_lies(tmp_path: Path) -> None:
    paths, out = wide(tmp_path)
    assert api.verify(out, paths).ok
    with_record(out, repacked(swapped))
    report = api.verify(out, paths)
    assert not report.ok and "records another source as a" in report.graph.problems[0]
    with pytest.raises(FileFault, match="no longer holds a as it was merged"):
        api.split(out, str(tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_verify_takes_another_file_of_the_same_model(tmp_path: Path) -> None:
    """It warns that the file is another one. The record is that of the file that was merged."""
    paths, out = wide(tmp_path)
    proto = onnx.load(paths[1])
    proto.doc_string = "saved again"
    save(Path(paths[1]), proto)
    report = api.verify(out, paths)
    assert report.ok and "is not the file that was merged" in report.warnings[0]


def test_a_file_without_a_record(tmp_path: Path, run: Run) -> None:
    paths, out = wide(tmp_path)
    with_record(out, lambda text: None)
    assert api.verify(out, paths).ok
    refused(run("split", out, "-o", tmp_path / "back"), 3, "has no record of its sources", "Merge again")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:40],
        lambda text: "no base64!",
        lambda text: base64.b64encode(b"no xz").decode(),
        repacked(lambda value: value.update(format=2)),
        repacked(lambda value: value.update(weights=[[0, 99]])),
        repacked(lambda value: value.update(weights=[[0, 0, 1]])),
        repacked(lambda value: value.update(runs=[5])),
        repacked(lambda value: value["models"].pop()),  # type: ignore[attr-defined]
        repacked(lambda value: value["models"][0].update(files=[["", [0]], ["../x", [0]]])),  # type: ignore[index]
        repacked(lambda value: value["models"][0].update(files=[["x", [0]]])),  # type: ignore[index]
        repacked(lambda value: value["models"][0].update(files=[["", [999]]])),  # type: ignore[index]
    ],
)
def test_a_damaged_record_is_a_file_fault(change: Callable[[str], str], tmp_path: Path, run: Run) -> None:
    paths, out = wide(tmp_path)
    with_record(out, change)
    refused(run("split", out, "-o", tmp_path / "back"), 3, "is damaged")
    assert not api.verify(out, paths).graph.ok


def test_a_record_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST", 1000)
    _, out = wide(tmp_path)
    with_record(out, lambda text: base64.b64encode(lzma.compress(bytes(1 << 20))).decode())
    with pytest.raises(FileFault, match="cut off or too long"):
        api.split(out, str(tmp_path / "back"))


def test_a_tool_that_changed_the_weights_is_seen(tmp_path: Path, run: Run) -> None:
    _, out = wide(tmp_path)

    def change(proto: onnx.ModelProto) -> None:
        tensor = next(each for each in proto.graph.initializer if each.name == "w1")
        values = numpy_helper.to_array(tensor).copy()
        values[1] += 1
        tensor.CopyFrom(numpy_helper.from_array(values, "w1"))

    tampered(out, change)
    assert api.split(out, str(tmp_path / "one"), models=["a"]).models[0].exact
    refused(run("split", out, "-o", tmp_path / "back"), 3, "no longer holds b as it was merged")

    def rename(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            tensor.name += "_"
        for node in proto.graph.node:
            node.input[:] = [f"{name}_" if name.startswith("w") else name for name in node.input]

    tampered(out, rename)
    refused(run("split", out, "-o", tmp_path / "back"), 3, "in another form than was merged")
