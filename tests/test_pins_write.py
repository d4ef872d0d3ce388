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
from merged_files import source
from onnx import TensorProto, numpy_helper

import netfuse_onnx
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Merged, Recipe
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
        with_recipe(plain, transform="T", shape=(3, 8, 300)),
        with_recipe(plain, parts=backwards),
        with_recipe(plain, parts=recipe.parts[:1], shape=(1, 300, 8)),
    ]
    names = [named(tmp_path, merged, paths) for merged in others]
    assert len(set(names)) == len(names)
    assert named(tmp_path, plain, paths) == names[0]


# --------------------------------------------------------------------------- metadata


def test_metadata_of_the_sources(tmp_path: Path) -> None:
    """What is equal in all models is kept as it is; the rest says whose it is."""
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
    del found["netfuse_onnx"]
    assert found == {
        "author": "me",
        "a/language": "en",
        "b/language": "de",
        "c/language": "en",
        "a/own": "a",
        "c/late": "c",
        "a/netfuse_onnx": "from an earlier merge",
    }


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
