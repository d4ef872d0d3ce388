"""Small mistakes in storage, write and the verbs, each of which one of these tests sees (tests/mutants)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import family, model, save
from families import merged as merged_file
from merged_files import family as files
from merged_files import merged as lowered
from merged_files import put, source
from model_files import external_model, model_of, with_first
from onnx import TensorProto, numpy_helper

import netfuse_onnx
from netfuse_onnx import arguments
from netfuse_onnx.errors import FileFault
from netfuse_onnx.lowered import Merged
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.protobuf import MalformedError, Window, varint
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import raw_values
from netfuse_onnx.storage.transforms import SwapLast
from netfuse_onnx.write import writer

# --------------------------------------------------------------------------- the name of the data file


def named(folder: Path, merged: Merged, paths: list[str]) -> str:
    """The name of the data file that a merged model gets."""
    sources = [source(path) for path in paths]
    with writer.stage(merged, str(folder / "m.onnx"), sources, mode="external", metadata={}) as staged:
        return Path(staged.files[1]).name


def with_recipe(merged: Merged, **changes: object) -> Merged:
    """The same with another recipe for its weight w, and the shape that goes with it."""
    recipe: Recipe = dataclasses.replace(merged.recipes["w"], **changes)  # type: ignore[arg-type]
    proto = onnx.ModelProto()
    proto.CopyFrom(merged.model)
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            tensor.dims[:] = recipe.shape
    return dataclasses.replace(merged, model=proto, recipes={**merged.recipes, "w": recipe})


def test_the_data_file_is_named_by_its_layout_too(tmp_path: Path) -> None:
    """The same weights of the same sources, laid out otherwise: another merge into the same folder must not
    write over what the model there reads."""
    paths = files(tmp_path)
    plain = lowered(paths)
    recipe = plain.recipes["w"]
    backwards = tuple(reversed(recipe.parts))
    others = [
        plain,
        with_recipe(plain, outer=300, shape=(300, 3, 8)),
        with_recipe(plain, outer=2400, shape=(300, 3, 8)),
        with_recipe(plain, transform=SwapLast(), shape=(3, 8, 300)),
        with_recipe(plain, parts=backwards),
        with_recipe(plain, parts=recipe.parts[:1], shape=(1, 300, 8)),
    ]
    names = [named(tmp_path, merged, paths) for merged in others]
    assert len(set(names)) == len(names)
    assert named(tmp_path, plain, paths) == names[0]


def test_the_data_file_is_named_by_what_the_sources_hold(tmp_path: Path) -> None:
    """Other bytes at the same place of a source of the same size."""
    paths = files(tmp_path)
    before = named(tmp_path, lowered(paths), paths)
    proto = onnx.load(paths[1])
    raw = bytearray(proto.graph.initializer[0].raw_data)
    raw[6000] ^= 1  # not in its first page
    proto.graph.initializer[0].raw_data = bytes(raw)
    save(Path(paths[1]), proto)
    assert named(tmp_path, lowered(paths), paths) != before


def test_the_data_file_is_named_by_its_transforms_too(tmp_path: Path) -> None:
    """Square matrices are told apart, whose shape says nothing of it."""
    paths = files(tmp_path, rows=8)
    plain = lowered(paths)
    assert named(tmp_path, plain, paths) != named(tmp_path, with_recipe(plain, transform=SwapLast()), paths)


def test_what_is_only_named_like_a_model_uses_no_data(tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "gone.onnx").symlink_to("nowhere")
    (tmp_path / "torch.onnx.data").write_bytes(bytes(1000))
    (tmp_path / "merge.onnx.log").write_text("merged\n")
    for _ in range(4):
        put(files(tmp_path), out, "external")
    assert len(list(tmp_path.glob("m-*.data"))) == 2


@pytest.mark.parametrize("readable", [True, False])
def test_a_model_that_cannot_be_read_may_use_the_data(tmp_path: Path, readable: bool) -> None:
    out, other = tmp_path / "m.onnx", tmp_path / "other.onnx"
    put(files(tmp_path), out, "external")
    (old,) = tmp_path.glob("m-*.data")
    other.write_bytes(model_of().SerializeToString() if readable else b"a download that broke off")
    put(files(tmp_path), out, "external")
    put(files(tmp_path), out, "external")
    assert old.exists() != readable


# --------------------------------------------------------------------------- metadata


def test_metadata_of_the_sources(tmp_path: Path) -> None:
    """Metadata equal in all models are kept as it is; the rest says whose it is."""
    held: list[Mapping[str, str]] = [
        {"author": "me", "language": "en", "own": "a", "netfuse_onnx": "from an earlier merge"},
        {"author": "me", "language": "de"},
        {"author": "me", "language": "en", "late": "c"},
    ]
    paths = family(tmp_path, count=3)
    for path, props in zip(paths, held, strict=True):
        proto = onnx.load(path)
        for key, value in props.items():
            proto.metadata_props.add(key=key, value=value)
        save(Path(path), proto)
    out = merged_file(tmp_path, paths)
    found = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert netfuse_onnx.inspect(out).models == ("a", "b", "c")
    del found["netfuse_onnx"], found["netfuse_onnx.sources"]
    assert found == {
        "author": "me",
        "a/language": "en",
        "b/language": "de",
        "c/language": "en",
        "a/own": "a",
        "c/late": "c",
        "a/netfuse_onnx": "from an earlier merge",
    }


def test_a_merged_model_tells_of_itself_not_of_its_sources(tmp_path: Path) -> None:
    """Sources that were merged from others say all the same of that."""
    paths = family(tmp_path, count=2)
    for path in paths:
        proto = onnx.load(path)
        proto.metadata_props.add(key="netfuse_onnx", value="{}")
        save(Path(path), proto)
    assert netfuse_onnx.inspect(merged_file(tmp_path, paths)).models == ("a", "b")


def test_weights_equal_in_some_models_only_are_each_model_s_own(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] y) { y = Add(x, w) }"
    paths = [
        save(tmp_path / f"{name}.onnx", model(text, {"w": (4,)}, seed))
        for name, seed in zip("abc", (0, 0, 1), strict=True)
    ]
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    assert report.proof is not None and report.proof.ok
    x = np.zeros((1, 4), np.float32)
    feeds = {f"{name}/x": x for name in "abc"}
    import onnxruntime as ort

    got = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]).run(None, feeds)
    for path, y in zip(paths, got, strict=True):
        np.testing.assert_array_equal(y[0], numpy_helper.to_array(onnx.load(path).graph.initializer[0]))


# --------------------------------------------------------------------------- bytes


def test_a_weight_that_goes_on_is_no_proof(tmp_path: Path) -> None:
    """More bytes than the recipe fills are as wrong as fewer."""
    parts = tuple(weights.weight_of(numpy_helper.from_array(np.full(4, m, np.float32))) for m in range(2))
    recipe = Recipe("w", parts, TensorProto.FLOAT, (2, 4))
    whole = b"".join(weights.stream(recipe))
    assert weights.first_difference(recipe, whole) is None
    for wrong in (whole[:-4], whole + whole[:4]):
        with pytest.raises(netfuse_onnx.ValuesDiffer, match="32 bytes"):
            weights.first_difference(recipe, wrong)


# --------------------------------------------------------------------------- files that say two things


def test_external_data_longer_than_its_shape(tmp_path: Path) -> None:
    path, _ = external_model(tmp_path)
    assert (
        wire.scan(with_first(path, location="sub/w.bin", length=12000, offset=4)).extents["big"].length
        == 12000
    )
    with pytest.raises(FileFault, match=r"holds 12004 bytes, shape \[3000\] takes 12000"):
        wire.scan(with_first(path, location="sub/w.bin", length=12004, offset=4))


def test_values_inside_and_outside_of_the_file(tmp_path: Path) -> None:
    """A tensor that is said to lie in another file, and holds values as well."""
    path, whole = external_model(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].raw_data = whole.graph.initializer[0].raw_data
    with pytest.raises(FileFault, match="holds its values twice"):
        wire.scan(save(Path(path), proto))


# --------------------------------------------------------------------------- values in typed fields


def test_a_signalling_nan_keeps_its_bits() -> None:
    """As a Python float it would lose the bit that makes it one."""
    bits = np.array([0x7FA00001, 0x3F800000], "<u4").tobytes()
    tensor = TensorProto.FromString(
        TensorProto(data_type=1, dims=[2]).SerializeToString() + b"\x22\x08" + bits
    )
    assert len(tensor.float_data) == 2
    assert raw_values(tensor) == bits


def test_whatever_is_not_zero_is_true() -> None:
    tensor = TensorProto(data_type=TensorProto.BOOL, dims=[4], int32_data=[2, 0, 1, 256])
    assert raw_values(tensor) == b"\1\0\1\1"


def test_numbers_that_are_not_packed(tmp_path: Path) -> None:
    """A tag stands before each of them."""
    numbers = np.arange(1, 200) * 3
    head = TensorProto(name="w", data_type=TensorProto.INT64, dims=[len(numbers)]).SerializeToString()
    tensor = head + b"".join(b"\x38" + varint(int(number)) for number in numbers)
    proto = model_of()
    graph = proto.graph.SerializeToString() + b"\x2a" + varint(len(tensor)) + tensor
    proto.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString() + b"\x3a" + varint(len(graph)) + graph)
    assert list(onnx.load(path).graph.initializer[0].int64_data) == numbers.tolist()
    for threshold in (8, 100_000):
        (found,) = wire.scan(str(path), threshold=threshold).model.graph.initializer
        assert weights.array(weights.weight_of(found)).tolist() == numbers.tolist()


def test_a_field_ends_inside_of_its_message(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(b"\x0a\x05abcdefgh")
    with path.open("rb") as file:
        window = Window(file.fileno(), 10)
        assert [field.end for field in window.fields(0, 7)] == [7]
        with pytest.raises(MalformedError, match="truncated"):
            list(window.fields(0, 5))


def test_every_weight_starts_at_a_cache_line(tmp_path: Path) -> None:
    """Also behind one whose bytes are no multiple of that."""
    paths = files(tmp_path, rows=301)
    put(paths, tmp_path / "m.onnx", "external")
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    held = [{e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data]
    assert len(held) == 2
    assert int(held[0]["length"]) % 64
    assert [int(entries["offset"]) % 64 for entries in held] == [0, 0]


# --------------------------------------------------------------------------- arguments


def test_sizes_of_dimensions(tmp_path: Path) -> None:
    assert arguments.dimensions(["a=b=3", "n=0"]) == {"a=b": 3, "n": 0}
    paths = family(tmp_path)
    with pytest.raises(netfuse_onnx.UsageFault, match="can't have size -1"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), dims={"n": -1})
