"""Claims about merged files on CUDA, checked without a GPU: bench/launches shows what ONNX Runtime's CUDA provider
would launch. These tests need the environment that bench/launches/build.sh makes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest
from samples import exported

import netfuse_onnx
from bench.launches import trace
from bench.paper import figures
from sample_models.families import FAMILIES
from sample_models.zoo import ZOO

MODELS = 4
BATCHES = (1, 8)
SIZES = {"sequence": 16, "past": 5, "past + 1": 6}
MOST_LAUNCHES = {"cuda": 1.05, "generic": 1.3}
"""Launches of a stacked file, as a multiple of one source's. Where no target is named, a norm with a scale for
each model is three nodes instead of one, since OpenVINO takes a scale of one axis only."""
MOST_FUSED = 0.45
"""The same for ResNets with the target cuda, which fuses convolutions with bias, sum and activation."""
AT_THE_EDGE = 2
"""Launches that do not grow with the network, and count in networks of two layers: the table of each model's
words is read by three kernels instead of one, of which the first checks the indices."""

CASES = (
    *((name, "dynamo") for name in ("resnet50", "resnext50", "bert", "xlnet", "mlp")),
    ("bert", "torchscript"),
    ("xlnet", "torchscript"),
    ("vit", "torchscript"),
    ("gpt2_step", "torchscript"),
)
FIRST = (("generic", "separate"), ("cuda", "stacked"))
REST = (("generic", "stacked"), ("cuda", "separate"))

Figures = Mapping[str, Any]


def problem() -> str:
    """Returns why the tracer can't run here, or nothing."""
    env = trace.environment()
    if not trace.python_of(env).exists():
        return f"bench/launches/build.sh was not run: {env} does not exist"
    return "" if any((env / "lib").glob("libcudart.so*")) else f"{env} has no stub libraries"


pytestmark = pytest.mark.skipif(bool(problem()), reason=problem())


@functools.cache
def traced(path: str, batch: int) -> Figures:
    settings = trace.Settings(dims={**SIZES, "batch": batch}, graph=True)
    report = trace.trace(path, settings, trace.environment())
    assert "error" not in report, report["error"]
    return figures(report) | {"warnings": report.get("warnings", [])}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@functools.cache
def sources(name: str, exporter: str, exports: Path) -> list[str]:
    """Returns two models of a family of the tests or of the zoo."""
    if name in FAMILIES:
        return exported(name, exporter, count=2)
    from sample_models.export import export_family

    return [str(path) for path in export_family(ZOO[name].family, exports, count=2, exporter=exporter)]


def broken_claims(merged: Figures, source: Figures, *, most: float) -> Iterator[str]:
    """Yields what a merged file has that it must not have beside its source."""
    if merged["gemms"]["pointers"]:
        yield f"{merged['gemms']['pointers']} GEMMs by pointers"
    for key, name in (("memcpys", "Memcpy nodes"), ("copies", "copies between host and device")):
        if merged[key] > source[key]:
            yield f"{merged[key]} {name}, the source has {source[key]}"
    if source["graph"] == "accepted" != merged["graph"]:
        yield f"CUDA graph: {merged['graph']}"
    if merged["launches"] > most * source["launches"] + AT_THE_EDGE:
        yield f"{merged['launches']} launches, the source has {source['launches']}"
    yield from merged["warnings"]


def check(two: list[str], out: str, target: str, io: str, most: float) -> None:
    paths = [two[model % 2] for model in range(MODELS)]
    names = [f"m{model}" for model in range(MODELS)]
    netfuse_onnx.merge(paths, out, names=names, io=io, target=target, verify=False)
    for batch in BATCHES:
        at_most = most if io == "stacked" else float("inf")  # separate files also join and split
        broken = list(broken_claims(traced(out, batch), traced(two[0], batch), most=at_most))
        assert not broken, f"batch {batch}: {'; '.join(broken)}"


def most_launches(name: str, target: str) -> float:
    is_fused = target == "cuda" and name in ("resnet50", "resnext50")
    return MOST_FUSED if is_fused else MOST_LAUNCHES[target]


@pytest.mark.parametrize(("target", "io"), FIRST)
@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_merged_files_fit_cuda(
    name: str, exporter: str, target: str, io: str, exports: Path, tmp_path: Path
) -> None:
    check(sources(name, exporter, exports), str(tmp_path / "m.onnx"), target, io, most_launches(name, target))


@pytest.mark.slow
@pytest.mark.parametrize(("target", "io"), REST)
@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_merged_files_fit_cuda_with_the_other_settings(
    name: str, exporter: str, target: str, io: str, exports: Path, tmp_path: Path
) -> None:
    check(sources(name, exporter, exports), str(tmp_path / "m.onnx"), target, io, most_launches(name, target))


# ------------------------------------------------------------------------ the tracer sees what is claimed

PLAIN = """<ir_version: 8, opset_import: ["": 17]>
g (float[2,3,4,5] x, float[2,3,4,5] z) => (float[2,3,4,5] y) { y = Add(x, z) }"""
POINTERS = """<ir_version: 8, opset_import: ["": 17]>
g (float[2,3,4,5] x, float[2,1,5,6] w) => (float[2,3,4,6] y) { y = MatMul(x, w) }"""
ON_CPU = """<ir_version: 8, opset_import: ["": 17]>
g (float[2,3,4,4] x) => (float[2,3] y) { t = Abs(x) u = Det(t) y = Neg(u) }"""
ONE_SCALE = """<ir_version: 8, opset_import: ["": 17]>
g (float[2,3,4,5] x, float[2,1,1,5] s) => (float[2,3,4,5] y) { y = LayerNormalization<axis = -1>(x, s) }"""


def text_model(text: str, folder: Path) -> Figures:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return traced(str(path), 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (POINTERS, "GEMMs by pointers"),
        (POINTERS, "copies between host and device"),
        (ON_CPU, "Memcpy nodes"),
        (ON_CPU, "CUDA graph"),
        (ON_CPU, "launches, the source has 1"),
        (ONE_SCALE, "LayerNormalization read only the first row"),
    ],
)
def test_a_broken_claim_is_seen(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    plain = text_model(PLAIN, tmp_path / "plain")
    assert any(words in broken for broken in broken_claims(text_model(text, tmp_path), plain, most=1.0))


def test_a_file_keeps_its_own_claims(tmp_path: Path) -> None:
    plain = text_model(PLAIN, tmp_path)
    assert not list(broken_claims(plain, plain, most=1.0))
