"""The sample families and real trained ones from end to end, at tiny size: what is merged, what comes out
of it in ONNX Runtime at every optimisation level, and what is written.

test_full_size.py has the full sizes, test_odd_models.py the models that nobody's exporter writes like that.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import samples
from families import MLP, MLP_TEXT, model, save
from netfuse_onnx.cli import main as cli
from samples import LEVELS

import netfuse_onnx
from netfuse_onnx.report import MergeReport
from sample_models.families import FAMILIES

EXPORTERS = ("torchscript", "dynamo")
BARS = {
    "resnet50": 1.10,
    "resnext50": 1.10,
    "bert": 1.45,
    "xlnet": 1.55,
    "cnn": 1.25,
    "mlp": 1.85,
    "lstm": 2.7,
}
"""Merged nodes per source node at this size, those that copy nothing left out: each Gemm becomes two nodes, each
LayerNormalization three, an Einsum a product between Transposes, and the sizes that rows do not tell are
computed once, which weighs more in small networks, as do the nodes that check the indices of a table. The LSTM
is repeated per model, with what it needs."""

TEXT = ({"batch": 1, "sequence": 7}, {"batch": 3, "sequence": 128})
IMAGES = ({"batch": 1}, {"batch": 5})
SIZES = {name: TEXT if name in ("bert", "xlnet", "lstm") else IMAGES for name in FAMILIES}
SHARE = {
    "resnet50": ("image",),
    "resnext50": ("image",),
    "bert": ("input_ids", "attention_mask"),
    "xlnet": ("attention_mask",),
    "mlp": ("x",),
    "cnn": ("frames",),
    "lstm": ("x",),
}

every_family = pytest.mark.parametrize("name", FAMILIES)
both_exporters = pytest.mark.parametrize("exporter", EXPORTERS)


def merged(paths: list[str], folder: Path, **options: Any) -> tuple[str, MergeReport]:
    """The family in one file with both proofs."""
    out = str(folder / "merged.onnx")
    report = netfuse_onnx.merge(paths, out, **options)
    if options.get("verify", True):
        assert report.proof is not None and report.proof.ok
        assert report.proof.values.skipped == ()
    return out, report


def replicated(report: MergeReport) -> set[str]:
    """Operators that run once per model."""
    return {row.op for row in report.lowered.replicated}


def cases(name: str, models: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the family's sizes."""
    return [samples.draw(name, models, **sizes) for sizes in SIZES[name]]


# --------------------------------------------------------------------------- exported families


@both_exporters
@every_family
def test_separate(name: str, exporter: str, tmp_path: Path) -> None:
    paths = samples.exported(name, exporter)
    out, report = merged(paths, tmp_path)
    assert replicated(report) == ({"LSTM"} if name == "lstm" else set())
    found = samples.well_formed(out)
    ratio = samples.expansion(found, paths[0])
    assert ratio == pytest.approx(report.lowered.merged_nodes / report.lowered.source_nodes)
    assert samples.expansion(found, paths[0], samples.VIEWS) <= BARS[name]
    distinct = samples.distinct_bytes(paths)
    assert samples.size(out) == report.size <= 1.01 * distinct + 2e6
    assert samples.stored(found) <= 1.01 * distinct + 4096
    samples.agree(out, paths, cases(name, len(paths)))


@both_exporters
@every_family
def test_stacked_with_shared_inputs(name: str, exporter: str, tmp_path: Path) -> None:
    paths = samples.exported(name, exporter)
    out, report = merged(paths, tmp_path, io="stacked", share=SHARE[name])
    assert replicated(report) == ({"LSTM"} if name == "lstm" else set())
    found = samples.well_formed(out)
    assert [i.name for i in found.graph.input] == [item.name for item in FAMILIES[name].inputs(True)]
    for info in found.graph.output:
        assert info.type.tensor_type.shape.dim[0].dim_value == len(paths)
    inputs = cases(name, len(paths))
    samples.agree(out, paths, inputs, io="stacked", share=SHARE[name], levels=LEVELS[::3])


@pytest.mark.parametrize("io", ["separate", "stacked"])
@both_exporters
@every_family
def test_by_the_costs_of_a_target(name: str, exporter: str, io: str, tmp_path: Path) -> None:
    """Proved, deterministic, and expected to be no slower than what is batched or apart throughout."""
    paths = samples.exported(name, exporter)
    out, report = merged(paths, tmp_path, target="cpu", io=io, dims={"batch": 4})
    assert report.proof is not None and report.proof.ok
    assert sum(report.lowered.predicted.values()) <= min(report.lowered.alternatives.values()) + 0.1
    onnx.checker.check_model(out, full_check=True)
    before = Path(out).read_bytes()
    assert Path(merged(paths, tmp_path, target="cpu", io=io, dims={"batch": 4})[0]).read_bytes() == before


@pytest.mark.parametrize("name", ["bert", "xlnet", "resnet50"])
def test_dynamic_dims_keep_their_names(name: str, tmp_path: Path) -> None:
    paths = samples.exported(name, "torchscript")
    out, report = merged(paths, tmp_path, share=SHARE[name])
    inputs = onnx.load(out).graph.input
    assert [info.name for info in inputs if "/" not in info.name] == list(SHARE[name])
    wanted = {dim for item in FAMILIES[name].inputs(True) for dim in item.dims if isinstance(dim, str)}
    for info in inputs:
        assert {dim.dim_param for dim in info.type.tensor_type.shape.dim} - {""} == wanted
    assert set(report.symbols) == wanted
    samples.agree(out, paths, cases(name, len(paths)), share=SHARE[name], levels=LEVELS[-1:])


@pytest.mark.parametrize(
    ("name", "exporter"), [("mlp", "dynamo"), ("resnet50", "torchscript"), ("bert", "dynamo")]
)
def test_32_models(name: str, exporter: str, tmp_path: Path) -> None:
    paths = samples.reweighted(samples.exported(name, exporter)[0], tmp_path, 32)
    out, report = merged(paths, tmp_path, dims={"batch": 2})
    assert replicated(report) == set()
    assert samples.expansion(samples.well_formed(out), paths[0], samples.VIEWS) <= BARS[name]
    samples.agree(out, paths, [samples.draw(name, 32, batch=1, sequence=7)], levels=LEVELS[::3])


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_weights_are_stored_once_for_cuda(name: str, exporter: str, tmp_path: Path) -> None:
    """A graph that is rewritten for CUDA reads no weight in a second form."""
    paths = samples.exported(name, exporter)
    out, _ = merged(paths, tmp_path, target="cuda")
    assert samples.stored(samples.well_formed(out)) <= 1.01 * samples.distinct_bytes(paths) + 8192


# --------------------------------------------------------------------------- trained families


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("magika", {}),
        ("funcnet_head", {}),
        ("ppocr_det", {"dims": {"p2o.DynamicDimension.0": 1}}),  # 960 x 960: one batch is a second of work
        ("seizure", {}),
    ],
)
def test_trained(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    paths = samples.trained(name)
    out, report = merged(paths, tmp_path, **options)
    assert report.proof is not None and report.proof.values.spread is not None
    assert report.proof.values.spread.telling
    assert replicated(report) == ({"LSTM"} if name == "seizure" else set())
    samples.well_formed(out)


# --------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", ["mlp", "bert"])
def test_the_same_bytes_from_everywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = samples.exported(name, "torchscript")
    out, _ = merged(paths, tmp_path, verify=False)
    monkeypatch.chdir(tmp_path)
    Path("elsewhere").mkdir()
    relative = [os.path.relpath(path) for path in paths]
    assert cli.main(["merge", *relative, "-o", "elsewhere/other.onnx"]) == 0
    assert samples.same_bytes(out, "elsewhere/other.onnx")
    assert sorted(os.listdir()) == ["elsewhere", "merged.onnx"]
    assert os.listdir("elsewhere") == ["other.onnx"]


@pytest.mark.parametrize("name", ["bert", "resnet50", "lstm"])
def test_a_model_with_itself_stores_its_weights_once(name: str, tmp_path: Path) -> None:
    first = samples.exported(name, "torchscript")[0]
    again = shutil.copy(first, tmp_path / "again.onnx")
    out, _ = merged([first, str(again), first], tmp_path)
    assert samples.stored(samples.well_formed(out)) <= 1.01 * samples.distinct_bytes([first]) + 4096


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_external_data_in_and_out(io: str, tmp_path: Path) -> None:
    paths = []
    for index, path in enumerate(samples.exported("bert", "dynamo")):
        paths.append(str(tmp_path / f"m{index}.onnx"))
        data = {"save_as_external_data": True, "location": f"m{index}.bin"}
        onnx.save_model(onnx.load(path), paths[-1], **data)
    out, report = merged(paths, tmp_path, io=io, data="external")
    assert [Path(file).name[:7] for file in report.files] in (["merged-", "merged."], ["merged.", "merged-"])
    want = [samples.draw("bert", len(paths))]
    samples.agree(out, paths, want, io=io, levels=LEVELS[-1:])

    (tmp_path / "moved").mkdir()
    moved = [shutil.move(file, tmp_path / "moved") for file in report.files]
    (found,) = (path for path in moved if path.endswith(".onnx"))
    samples.well_formed(found)
    samples.agree(found, paths, want, io=io, levels=LEVELS[-1:])
    assert netfuse_onnx.verify(found, paths).ok


def test_mixed_opsets_and_ir_versions(tmp_path: Path) -> None:
    paths = [samples.exported("mlp", exporter)[0] for exporter in EXPORTERS]
    assert len({onnx.load(path).opset_import[0].version for path in paths}) == 2
    assert len({onnx.load(path).ir_version for path in paths}) == 2
    paths = [str(shutil.copy(path, tmp_path / f"m{i}.onnx")) for i, path in enumerate(paths)]
    paths += [
        save(tmp_path / f"m{2 + i}.onnx", model(MLP_TEXT, MLP, i, opset)) for i, opset in enumerate((11, 18))
    ]
    for pair in (paths[:2], paths[2:]):
        out, report = merged(pair, tmp_path)
        assert replicated(report) == set()
        assert onnx.load(out).opset_import[0].version == 18
        samples.well_formed(out)


# --------------------------------------------------------------------------- the command line


def test_all_verbs_on_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> Any:
        assert cli.main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    monkeypatch.chdir(tmp_path)
    first, second, third = samples.exported("bert", "torchscript")
    for folder in ("with space", "sub", "out"):
        Path(folder).mkdir()
    shutil.copy(first, 'with space/it\'s "one".onnx')
    shutil.copy(second, "sub/model [red].onnx")
    Path("link.onnx").symlink_to(third)
    paths = ['with space/it\'s "one".onnx', "sub/../sub/model [red].onnx", "link.onnx"]

    assert run("check", *paths)["equivalent"]
    report = run("merge", *paths, "-o", "out/of it.onnx", "--share-input", "token_type_ids")
    assert report["models"] == ['it\'s "one"', "model [red]", "link"]
    assert report["ok"]
    inspected = run("inspect", "out/of it.onnx")
    assert inspected["lowered"] == report["lowered"]
    assert run("verify", "out/of it.onnx", *paths)["ok"]
    assert cli.main(["verify", "out/of it.onnx", *paths[::-1]]) == 2
    assert "another order" in capsys.readouterr().err
    assert os.listdir("out") == ["of it.onnx"]
