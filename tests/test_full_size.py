"""The paper's four networks at full size, four models of each, from both exporters. Slow: tens of gigabytes
of weights are exported, unless $NETFUSE_SAMPLES names a folder of ready ones. Every figure is printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from samples import LEVELS

import netfuse_onnx
from netfuse_onnx.report import MergeReport

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])]

MODELS = 4
BARS = {"resnet50": 1.10, "resnext50": 1.10, "bert": 1.25, "xlnet": 1.25}
SIZES = {
    "resnet50": ({"batch": 1}, {"batch": 5}),
    "resnext50": ({"batch": 1}, {"batch": 5}),
    "bert": ({"batch": 1, "sequence": 7}, {"batch": 3, "sequence": 128}),
    "xlnet": ({"batch": 1, "sequence": 7}, {"batch": 3, "sequence": 128}),
}
SHARE = {"bert": "input_ids", "xlnet": "attention_mask", "resnet50": "image", "resnext50": "image"}
Tell = Callable[[str], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Tell:
    """Prints a figure although the test passes."""

    def say(text: str) -> None:
        with capsys.disabled():
            import sys

            sys.stderr.write(f"\n{request.node.name}: {text}")

    return say


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Emptied at once: pytest keeps the folders of three runs, which would be a hundred gigabytes."""
    yield tmp_path
    samples.discard(tmp_path)


def merged(paths: list[str], out: Path, **options: Any) -> tuple[MergeReport, float]:
    start = time.monotonic()
    report = netfuse_onnx.merge(paths, str(out), **options)
    return report, time.monotonic() - start


def assert_proven(report: MergeReport) -> None:
    assert report.proof is not None
    assert report.proof.bytes.ok and report.proof.values.ok
    assert report.proof.values.spread is not None and report.proof.values.spread.telling
    assert not report.lowered.replicated


@pytest.mark.parametrize("name", BARS)
def test_separate(name: str, exporter: str, folder: Path, tell: Tell) -> None:
    paths = samples.exported(name, exporter, tiny=False, count=MODELS, out=folder)
    out = folder / "merged.onnx"
    report, seconds = merged(paths, out)
    assert_proven(report)
    proof = report.proof
    tell(
        f"merged and proven in {seconds:.1f} s; error {proof.values.worst.ratio:.2g} of what is allowed, "
        f"models {proof.values.spread.ratio:.2g} times that apart"
    )

    model = samples.well_formed(str(out))
    ratio = samples.expansion(model, paths[0])
    lowered = report.lowered
    tell(
        f"{lowered.source_nodes} nodes, {lowered.merged_nodes} merged, {lowered.boundary_nodes} at the edge, "
        f"replicated {len(lowered.replicated)}: expansion {ratio:.3f}"
    )
    assert ratio == pytest.approx(lowered.merged_nodes / lowered.source_nodes)
    assert samples.expansion(model, paths[0], samples.VIEWS) <= BARS[name]

    distinct, size = samples.distinct_bytes(paths), samples.size(str(out))
    tell(f"{size / 1e6:.1f} MB for {distinct / 1e6:.1f} MB of weights: {size - distinct:,} bytes more")
    assert size == report.size
    assert size <= 1.01 * distinct + 2e6

    cases = [samples.draw(name, MODELS, tiny=False, **sizes) for sizes in SIZES[name]]
    error = max(
        samples.agree(str(out), paths, cases, levels=LEVELS[-1:]),
        samples.agree(str(out), paths, cases[:1], levels=LEVELS[:-1]),
    )
    tell(f"relative error at {SIZES[name]}, and of the first at all four levels: {error:.2g}")


@pytest.mark.parametrize("name", BARS)
def test_stacked_with_a_shared_input(name: str, exporter: str, folder: Path, tell: Tell) -> None:
    paths = samples.exported(name, exporter, tiny=False, count=MODELS, out=folder)
    out, share = folder / "merged.onnx", [SHARE[name]]
    report, seconds = merged(paths, out, io="stacked", share=share)
    assert_proven(report)
    model = samples.well_formed(str(out))
    ratio = samples.expansion(model, paths[0], samples.VIEWS)
    tell(f"merged and proven in {seconds:.1f} s, {share[0]} shared: expansion {ratio:.3f}")
    assert ratio <= BARS[name]
    cases = [samples.draw(name, MODELS, tiny=False, **sizes) for sizes in SIZES[name]]
    error = samples.agree(str(out), paths, cases, io="stacked", share=share, levels=LEVELS[-1:])
    tell(f"relative error at {SIZES[name]}: {error:.2g}")


@pytest.mark.parametrize("name", BARS)
def test_the_same_bytes_again(name: str, exporter: str, folder: Path, tell: Tell) -> None:
    paths = samples.exported(name, exporter, tiny=False, count=MODELS, out=folder)
    seconds, files = [], []
    for turn in ("one", "two"):
        (folder / turn).mkdir()
        report, took = merged(paths, folder / turn / "merged.onnx", verify=False)
        seconds.append(took)
        files.append(report.files)
    tell(f"without proofs in {seconds[0]:.1f} and {seconds[1]:.1f} s")
    for one, two in zip(*files, strict=True):
        assert Path(one).name == Path(two).name
        assert samples.same_bytes(one, two)
