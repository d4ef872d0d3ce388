"""bench/ranking.py and calibrate.py: what they collect, build and conclude. No timing is looked at."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from families import model, save

from bench import calibrate, ranking
from bench.shapes import Shape, Way
from netfuse_onnx.errors import FileFault
from netfuse_onnx.plan import targets
from netfuse_onnx.plan.targets import Kernel
from netfuse_onnx.plan.work import Work
from netfuse_onnx.tune.calibrate import Timer, fitted
from netfuse_onnx.tune.kernel_cases import Case

LAYERS = """g (float[batch, 4, 6, 6] x) => (float[batch, 3] y) {
    c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, filters)
    p = GlobalAveragePool(c)
    f = Flatten(p)
    h = MatMul(f, square)
    y = MatMul(h, w)
}"""
WEIGHTS = {"filters": (8, 4, 3, 3), "square": (8, 8), "w": (8, 3)}


@pytest.fixture
def found(tmp_path: Path) -> list[ranking.Shape]:
    paths = [tmp_path / f"{i}.onnx" for i in range(2)]
    for i, path in enumerate(paths):
        save(path, model(LAYERS, WEIGHTS, seed=i))
    return list(ranking.shapes(list(map(str, paths)), 3, {"batch": 2}))


def test_each_shape_has_its_lowerings(found: list[ranking.Shape]) -> None:
    convolution, square, last = found
    assert str(convolution) == "Conv [4, 6, 6] [8, 4, 3, 3] /2"
    assert [(way.name, way.launches) for way in convolution.ways] == [("conv", 1), (ranking.APART, 3)]
    assert {way.name for way in square.ways} == {"matmul", "pointwise", ranking.APART}
    assert {(way.work.m, way.work.k, way.work.n) for way in last.ways} == {(2, 8, 3)}


def test_every_lowering_runs(found: list[ranking.Shape]) -> None:
    timer = Timer(1, 1)
    for what in found:
        taken = ranking.measure(what, timer, {True: 0.0, False: 0.0})
        assert taken is not None and set(taken) == {way.name for way in what.ways}
        assert all(t > 0.0 for t in taken.values())


def test_times_within_a_twentieth_are_tied() -> None:
    right = ranking.verdict({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 10.4, "b": 10.0, "c": 20.0})
    assert (right.chosen, right.fastest, right.right, right.pairs, right.pairs_right) == (
        "a",
        "b",
        True,
        2,
        2,
    )
    wrong = ranking.verdict({"a": 1.0, "b": 2.0}, {"a": 12.0, "b": 10.0})
    assert (wrong.right, wrong.loss, wrong.pairs_right) == (False, 1.2, 0)


def test_measured_shapes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    for i in range(2):
        (tmp_path / f"{i}.onnx").rename(folder / f"policy-{i}.onnx")
    out = tmp_path / "out.json"
    options = [
        "--models",
        str(tmp_path),
        "--only",
        "policy",
        "--out",
        str(out),
        "--count",
        "2",
        "--threads",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["ranking.py", *options])
    assert ranking.main() == 0
    first = json.loads(out.read_text())
    assert first["summary"]["shapes"] == len(first["shapes"]) == 3
    monkeypatch.setattr(ranking, "measure", lambda *_: pytest.fail("measured again"))
    assert ranking.main() == 0
    assert json.loads(out.read_text())["shapes"] == first["shapes"]


def test_the_fit_finds_the_constants_that_made_the_times() -> None:
    kernel, launch = Kernel(200.0, (8.0, 4.0, 16.0), 5.0), 0.5
    sizes = [(c, m, n, k) for c in (1, 8) for m in (1, 16, 512) for n in (8, 64, 768) for k in (16, 256)]
    times = [(Case("", *size, 1, b""), launch + kernel.microseconds(*size)) for size in sizes]
    found, factor = fitted(times, launch)
    assert factor < 1.02
    for size in sizes:
        assert found.microseconds(*size) == pytest.approx(kernel.microseconds(*size), rel=0.1)


def test_constants_without_a_start_have_none() -> None:
    """Files of earlier calibrations are still read."""
    value = json.loads((calibrate.TARGETS / "cpu.json").read_text())
    for kernel in value["kernels"].values():
        del kernel["start"]
    assert {kernel.start for kernel in targets.parsed("earlier", value).kernels.values()} == {0.0}


def test_a_target_without_a_kind_of_kernel_is_told(tmp_path: Path) -> None:
    value = json.loads((calibrate.TARGETS / "cpu.json").read_text())
    del value["kernels"]["einsum"]
    (tmp_path / "old.json").write_text(json.dumps(value))
    with pytest.raises(FileFault, match=r"old\.json holds no constants of a target \('einsum'\)"):
        targets.target(str(tmp_path / "old.json"))


def test_a_later_kind_of_kernel_is_taken_for_the_one_it_was(tmp_path: Path) -> None:
    """Files that were written before convolutions along one axis were told apart are still read."""
    value = json.loads((calibrate.TARGETS / "cpu.json").read_text())
    del value["kernels"]["convolution_line"]
    kernels = targets.parsed("earlier", value).kernels
    assert kernels["convolution_line"] == kernels["convolution_plain"]


SIGNAL = """g (float[batch, 16, 9] x) => (float[batch, 16, 9] y) {
    c = Conv<pads = [2, 0], dilations = [2]>(x, u)
    d = Conv<pads = [1, 1], group = 16>(c, v)
    e = Conv(d, w)
    y = Relu(e)
}"""


def test_the_lowerings_of_signals_run_as_they_are_priced(tmp_path: Path) -> None:
    """Along one axis only an image has blocks of channels; a row of points is a product."""
    paths = [tmp_path / f"{i}.onnx" for i in range(2)]
    for i, path in enumerate(paths):
        save(path, model(SIGNAL, {"u": (16, 16, 3), "v": (16, 1, 3), "w": (16, 16, 1)}, seed=i))
    found = list(ranking.shapes(list(map(str, paths)), 3, {"batch": 1}))
    kernels = [{way.name: way.work.kernel for way in what.ways} for what in found]
    lines = dict.fromkeys(("conv", ranking.APART), "convolution_line")
    points = dict.fromkeys(("conv", ranking.APART), "pointwise_plain")
    assert kernels == [
        lines | {"conv_of_a_row": "convolution_blocked"},
        lines | {"conv_of_a_row": "convolution_depthwise"},
        points | {"conv_of_a_row": "pointwise_blocked"},
    ]
    for what in found[:2]:
        taken = ranking.measure(what, Timer(1, 1), {True: 0.0, False: 0.0})
        assert taken is not None and min(taken.values()) > 0.0


def test_the_installed_target_of_a_cpu_has_every_kind_of_kernel() -> None:
    value = json.loads((calibrate.TARGETS / "cpu.json").read_text())
    assert set(value["kernels"]) == set(targets.KINDS)


def test_an_einsum_can_be_ranked() -> None:
    what = Shape("Product", (), (), (), (Way("einsum", 1, Work("einsum", 2, 4, 3, 5)),))
    taken = ranking.measure(what, Timer(1, 1), {True: 0.0, False: 0.0})
    assert taken is not None and taken["einsum"] > 0.0
