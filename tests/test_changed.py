"""Merged files that another tool has changed: what verify and inspect say, and proofs by values alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import changing
import families
import numpy as np
import onnx
import pytest
import samples
from changing import Change, case
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx.changed import HALF, OPTIMISED, QUANTISED
from netfuse_onnx.errors import FileFault, ValuesDiffer
from netfuse_onnx.prove.afterwards import since_merge
from netfuse_onnx.write import metadata

MODELS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("changed")


def sources(name: str) -> list[str]:
    return samples.exported(name, "torchscript", count=MODELS)


def changed(name: str, change: Change, folder: Path) -> str:
    """The merged family as a tool leaves it."""
    merged, out = folder / f"{name}.onnx", folder / f"{name}-{change.__name__}.onnx"
    if not merged.exists():
        netfuse_onnx.merge(sources(name), str(merged), verify=False)
    if not out.exists():
        change(str(merged), str(out))
    return str(out)


KEEPS_VALUES = [
    case(changing.float16, HALF, "float16"),
    case(changing.float16_inside, HALF, "float16"),
    case(changing.transformers, HALF, "float16"),
    case(changing.slim, OPTIMISED, "float32"),
    case(changing.simplified, OPTIMISED, "float32"),
    case(changing.optimised, OPTIMISED, "float32"),
]


@pytest.mark.parametrize(("change", "how", "precision"), KEEPS_VALUES)
def test_values_hold_within_the_precision_that_runs(
    change: Change, how: str, precision: str, folder: Path
) -> None:
    path = changed("cnn", change, folder)
    report = netfuse_onnx.verify(path, sources("cnn"), values=True)
    assert report.ok, report.failure
    assert report.changed and report.changed.how == how
    assert not report.bytes.made and not report.graph.made
    assert {row.precision for row in report.values.outputs} == {precision}
    assert report.values.isolation and report.values.isolation.ok


@pytest.mark.parametrize(("change", "how", "precision"), KEEPS_VALUES)
def test_two_models_exchanged_inside_fail(change: Change, how: str, precision: str, folder: Path) -> None:
    path = changed("cnn", change, folder)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1 and values.dtype.kind == "f" and values.shape[0] % MODELS == 0:
            parts = np.split(values, MODELS)
            swapped = np.concatenate([parts[1], parts[0], *parts[2:]])
            tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
            break
    wrong = families.save(folder / f"wrong-{change.__name__}.onnx", model)
    report = netfuse_onnx.verify(wrong, sources("cnn"), values=True)
    assert not report.ok and report.exit_code == 1
    assert {row.model for row in report.values.outputs if row.differs} == {"cnn-0", "cnn-1"}


def test_a_file_quantised_afterwards_lets_one_model_move_another(folder: Path) -> None:
    path = changed("bert", changing.dynamic, folder)
    report = netfuse_onnx.verify(path, sources("bert"), values=True, atol=10.0)
    assert report.changed and report.changed.how == QUANTISED
    assert all(row.ok for row in report.values.outputs), "the tolerance that was stated allows it"
    assert report.values.isolation and not report.ok and report.exit_code == 1
    said = "\n".join(report.values.isolation.problems)
    assert "of model bert-1 changes by" in said and "when model bert-0 is fed other values." in said
    sentence = report.changed.sentence
    assert "it was quantised by onnx.quantize (added 13 MatMulInteger, 9 DynamicQuantizeLinear" in sentence
    assert "quantise each model first, then merge" in sentence


def test_sources_quantised_before_stay_apart(folder: Path) -> None:
    """The same tool on each source: isolation is exact, and all proofs hold."""
    first = [str(folder / f"q{m}.onnx") for m in range(MODELS)]
    for path, out in zip(sources("bert"), first, strict=True):
        changing.dynamic(path, out)
    report = netfuse_onnx.merge(first, str(folder / "quantised-first.onnx"))
    assert report.ok and report.proof and report.proof.values.isolation
    assert netfuse_onnx.inspect(report.out).changed is None


def test_a_static_one_is_compared_within_the_tolerance_that_is_stated(folder: Path) -> None:
    path = changed("cnn", changing.static, folder)
    real = str(folder / "real.npz")
    np.savez(real, **changing.drawn(str(folder / "cnn.onnx")))
    report = netfuse_onnx.verify(path, sources("cnn"), values=True, atol=0.1, inputs=real)
    assert report.ok, report.failure
    report = netfuse_onnx.verify(path, sources("cnn"), values=True, atol=1e-4, rtol=0.0, inputs=real)
    assert report.exit_code == 1 and report.changed and report.changed.how == QUANTISED
    assert all(row.error > 0 for row in report.values.outputs)


def test_without_the_option_the_change_is_the_message(folder: Path) -> None:
    for change in (changing.dynamic, changing.static):
        with pytest.raises(ValuesDiffer, match="was changed after it was merged: it was quantised") as error:
            netfuse_onnx.verify(changed("cnn", change, folder), sources("cnn"))
        assert "verify --values" in error.value.hint
    report = netfuse_onnx.verify(changed("cnn", changing.optimised, folder), sources("cnn"))
    assert not report.ok and report.changed and "com.microsoft.FusedConv" in report.changed.sentence


def test_inspect_and_json_tell_it(folder: Path) -> None:
    report = netfuse_onnx.inspect(changed("cnn", changing.dynamic, folder))
    found = report.to_json()["changed"]
    assert found["how"] == QUANTISED and found["by"] == "onnx.quantize" and found["missing"]
    assert any("Integer" in op for op in found["added"])


def test_metadata_that_a_tool_dropped_are_named(folder: Path) -> None:
    model = onnx.load(changed("cnn", changing.optimised, folder))
    del model.metadata_props[:]
    with pytest.raises(FileFault) as error:
        netfuse_onnx.verify(families.save(folder / "bare.onnx", model), sources("cnn"), values=True)
    assert "dropped its metadata" in error.value.hint


@pytest.mark.parametrize("io", ["separate", "stacked", "routed"])
@pytest.mark.parametrize("data", ["single", "external"])
def test_a_file_as_it_was_written_is_not_changed(io: str, data: str, tmp_path: Path) -> None:
    path = families.merged(tmp_path, families.family(tmp_path), io=io, data=data)
    assert since_merge(path, metadata.read(path)) is None


def weights_alone(path: str, out: str) -> None:
    """One weight as bytes, with a DequantizeLinear behind it: no activation is quantised."""
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name.startswith("w1"))
    values = numpy_helper.to_array(tensor)
    scale = np.float32(np.abs(values).max() / 127)
    added = [(np.round(values / scale).astype(np.int8), "bytes"), (scale, "scale")]
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for v, name in added)
    node = onnx.helper.make_node("DequantizeLinear", ["bytes", "scale"], [tensor.name])
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, node)
    onnx.save(model, out)


def test_weights_alone_that_were_quantised_are_no_floats(tmp_path: Path) -> None:
    paths, out = families.family(tmp_path), str(tmp_path / "bytes.onnx")
    weights_alone(families.merged(tmp_path, paths), out)
    report = netfuse_onnx.verify(out, paths, values=True)
    assert report.ok and report.changed and report.changed.how == QUANTISED
    assert {row.precision for row in report.values.outputs} == {"8-bit"}


def test_another_type_of_a_weight_is_a_change(tmp_path: Path) -> None:
    path = families.merged(tmp_path, families.family(tmp_path))

    def retyped(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))

    families.tampered(path, retyped)
    assert since_merge(path, metadata.read(path))


def test_a_file_of_an_old_version_shows_only_what_is_sure(folder: Path) -> None:
    """Its metadata lack the facts of the graph."""
    for change, how in ((changing.dynamic, QUANTISED), (changing.slim, None)):
        path = changed("cnn", change, folder)
        about = dataclasses.replace(metadata.read(path), written=None)
        found = since_merge(path, about)
        assert (found.how if found else None) == how
