"""The demo and its models: copies of trained models, and a program that runs the merged file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from families import MLP_TEXT, save
from families import model as build
from onnx import numpy_helper

import netfuse_onnx
from sample_models import demo, real
from sample_models.__main__ import real as real_command
from sample_models.networks import SIZES
from sample_models.perturbed import add_copies

LARGE = {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}


def trained(folder: Path, count: int) -> list[Path]:
    """Models whose second weight is the same in all of them."""
    paths = []
    for k in range(count):
        model = build(MLP_TEXT, LARGE, seed=k)
        same = numpy_helper.from_array(np.ones(LARGE["w2"], np.float32), "w2")
        next(one for one in model.graph.initializer if one.name == "w2").CopyFrom(same)
        paths.append(Path(save(folder / f"m{k}.onnx", model)))
    return paths


def values(path: Path) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def test_copies_have_other_weights_near_the_first(tmp_path: Path) -> None:
    (first,) = trained(tmp_path, 1)
    copies = list(add_copies([first], 3))
    assert [path.name for path in copies] == ["m0-copy-1.onnx", "m0-copy-2.onnx"]
    one, two, own = values(copies[0]), values(copies[1]), values(first)
    for name in LARGE:
        np.testing.assert_allclose(one[name], own[name], rtol=0.15)
        assert (one[name] != own[name]).any()
        assert (one[name] != two[name]).any()
    before = copies[0].read_bytes()
    assert next(add_copies([first], 2)).read_bytes() == before, "the same in every run"
    assert netfuse_onnx.check([str(first), *map(str, copies)]).ok


def test_what_trained_models_share_is_shared_by_copies(tmp_path: Path) -> None:
    paths = trained(tmp_path, 2)
    (copy,) = add_copies(paths, 3)
    assert (values(copy)["w2"] == 1).all()
    assert (values(copy)["w1"] != values(paths[0])["w1"]).any()


def test_small_tensors_and_constants_of_nodes(tmp_path: Path) -> None:
    """Eight numbers in a Constant are weights, four are left alone: sizes and limits are such."""
    text = """g (float[8] x) => (float[8] y) {
        w = Constant <value = float[8] {1, 2, 3, 4, 5, 6, 7, 8}> ()
        p = Mul (x, w)
        y = Clip (p, low, high)
    }"""
    model = build(text, {})
    for name, value in (("low", 0.0), ("high", 6.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    (copy,) = add_copies([Path(save(tmp_path / "a.onnx", model))], 2)
    constant = numpy_helper.to_array(onnx.load(copy).graph.node[0].attribute[0].t)
    assert (constant != np.arange(1, 9)).all()
    assert values(copy) == {"low": 0.0, "high": 6.0}


@pytest.fixture
def thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of two models that are there already."""
    folder = tmp_path / "out" / "thing"
    folder.mkdir(parents=True)
    paths = trained(folder, 2)
    members = [real.Member("thing==1", path.name, real._digest(path.read_bytes())) for path in paths]
    monkeypatch.setitem(real.REAL, "thing", tuple(members))


def test_fetching_more_models_than_are_trained(thing: None, tmp_path: Path) -> None:
    result = CliRunner().invoke(real_command, ["thing", "--out", str(tmp_path / "out"), "--count", "4"])
    assert result.exit_code == 0
    assert [Path(line).name for line in result.output.split()] == [
        "m0.onnx", "m1.onnx", "m0-copy-1.onnx", "m0-copy-2.onnx",
    ]  # fmt: skip


@pytest.mark.parametrize("io", ["stacked", "separate"])
def test_the_program_of_the_demo_runs(thing: None, tmp_path: Path, io: str) -> None:
    merged = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge([str(tmp_path / f"out/thing/m{k}.onnx") for k in range(2)], merged, io=io)
    code = demo.snippet(merged, io)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    want = "y (2, 1, 4)\n" if io == "stacked" else "m0/y (1, 4)\nm1/y (1, 4)\n"
    assert done.stdout == want
    assert ("that of model k: m0, m1\n" in code) is (io == "stacked")


def test_the_demo_ends_with_a_program_and_with_what_to_do(
    thing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SECONDS", 1)
    monkeypatch.setattr(demo.demo.params[0].type, "choices", ("thing",))
    result = CliRunner().invoke(demo.demo, ["thing", "--count", "3", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == (
        "thing: 2 trained models out of thing==1, and 1 copy of the first with weights a few percent off."
    )
    assert (
        f"$ netfuse-onnx merge {tmp_path}/out/thing/*.onnx -o {tmp_path}/out/merged.onnx --io stacked"
        in lines
    )
    assert "    session = ort.InferenceSession" in result.output
    assert result.output.index("run.py") < result.output.index("What to do next")
    assert (tmp_path / "out/run.py").exists()
    assert len(netfuse_onnx.inspect(str(tmp_path / "out/merged.onnx")).models) == 3


def test_the_families_have_pins_digests_and_names_of_their_own() -> None:
    for name, members in real.REAL.items():
        files = [member.file for member in members]
        assert len(set(files)) == len(files), name
        assert all("==" in member.wheel and len(member.sha256) == 64 for member in members)
        assert all(file.endswith(".onnx") and "/" not in file for file in files)
    assert set(demo.COUNTS) <= {demo.LORA, *real.REAL}


def test_the_demo_of_lora_copies_stores_the_base_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SECONDS", 1)
    monkeypatch.setitem(SIZES, "small", SIZES["tiny"])
    result = CliRunner().invoke(demo.demo, ["lora", "--count", "3", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (
        f"$ netfuse-onnx merge {tmp_path}/lora/lora-*.onnx -o {tmp_path}/merged.onnx --io stacked --low-rank "
        f"--base {tmp_path}/lora/base.onnx --target cpu"
    ) in result.output
    sizes = [path.stat().st_size for path in sorted((tmp_path / "lora").glob("lora-*.onnx"))]
    assert len(sizes) == 3
    assert (tmp_path / "merged.onnx").stat().st_size < 2 * sizes[0]
