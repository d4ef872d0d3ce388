"""Sample families that share: what is equal in their models, what differs, and by how much."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

import netfuse_onnx
from sample_models.networks import NETWORKS, SIZES
from sample_models.sharing import sharing

RANK = 3


def made(folder: Path, kind: str, *more: str, count: int = 3, network: str = "encoder") -> list[Path]:
    """The files of a tiny family, the base first."""
    options = ["--size", "tiny", "--count", str(count), "--rank", str(RANK), "--network", network]
    result = CliRunner().invoke(sharing, [kind, "--out", str(folder), *options, *more])
    assert result.exit_code == 0, result.output
    return [Path(line) for line in result.output.splitlines() if line.startswith(str(folder))]


def values(path: Path) -> dict[str, np.ndarray]:
    return {
        one.name: numpy_helper.to_array(one, str(path.parent)) for one in onnx.load(path).graph.initializer
    }


def differing(one: Path, other: Path) -> set[str]:
    mine, theirs = values(one), values(other)
    assert mine.keys() == theirs.keys()
    return {name for name in mine if not np.array_equal(mine[name], theirs[name])}


def run(path: Path) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sizes = {"batch": 2, "sequence": 7, "past": 5, "height": 16, "width": 12}
    draw, feeds = np.random.default_rng(0), {}
    for item in session.get_inputs():
        shape = [sizes.get(dim, dim) for dim in item.shape]
        whole = "int64" in item.type
        high = 2 if "mask" in item.name else 99
        feeds[item.name] = draw.integers(0, high, shape) if whole else draw.standard_normal(shape, np.float32)
    return session.run(None, feeds)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_are_valid_and_models_of_a_family_differ(tmp_path: Path, network: str) -> None:
    tail = "fc|classifier|lm_head"
    _, *models = made(tmp_path, "frozen", "--tail", tail, network=network)
    onnx.checker.check_model(models[0], full_check=True)
    outputs = [run(path)[0] for path in models]
    for one, other in pairwise(outputs):
        assert np.isfinite(one).all()
        assert np.abs(one - other).max() > 0.05
    assert netfuse_onnx.check([str(path) for path in models]).ok


def test_the_tail_of_a_frozen_family_differs_and_the_backbone_is_the_bases(tmp_path: Path) -> None:
    base, *models = made(tmp_path, "frozen")
    tail = {f"{module}.{part}" for module in ("pooler.dense", "classifier") for part in ("weight", "bias")}
    for one, other in pairwise([base, *models]):
        assert differing(one, other) == tail


def test_of_two_backbones_each_is_that_of_every_second_model(tmp_path: Path) -> None:
    _, first, second, third, fourth = made(tmp_path, "frozen", "--backbones", "2", count=4)
    tail = differing(first, third)
    assert tail
    assert differing(second, fourth) == tail
    assert "encoder.layer.0.output.dense.weight" in differing(first, second) - tail


def test_a_lora_family_differs_from_its_base_by_the_rank_and_the_rounding(tmp_path: Path) -> None:
    base, *models = made(tmp_path, "lora", network="decoder")
    frozen = values(base)
    for path in models:
        changed = differing(base, path)
        assert len(changed) == 4 * SIZES["tiny"].layers
        assert all("self_attn" in name for name in changed)
        for name in changed:
            difference = (values(path)[name] - frozen[name]).astype(np.float64)
            sizes = np.linalg.svd(difference, compute_uv=False)
            assert sizes[RANK - 1] > 1e-2
            assert sizes[RANK] < 1e-5
            assert sizes[RANK] > 0, "the sum was rounded"


def test_tenants_adapters_and_merged_copies_of_one_seed_are_the_same_models(tmp_path: Path) -> None:
    """The three forms of one family: added to the weights, as branches of the graph, as files."""
    _, *merged = made(tmp_path / "lora", "lora")
    _, *tenants = made(tmp_path / "tenants", "tenants")
    base, *adapters = made(tmp_path / "adapters", "adapters")
    assert (tmp_path / "tenants" / "base.data").stat().st_size > tenants[0].stat().st_size
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    for whole, branch, adapter in zip(merged, tenants, adapters, strict=True):
        np.testing.assert_allclose(run(whole)[0], run(branch)[0], rtol=1e-4, atol=1e-5)
        text = adapter.read_bytes()
        (length,) = struct.unpack("<Q", text[:8])
        header = json.loads(text[8 : 8 + length])
        weights = {
            name: np.frombuffer(text, np.float32, offset=8 + length)[
                entry["data_offsets"][0] // 4 : entry["data_offsets"][1] // 4
            ].reshape(entry["shape"])
            for name, entry in header.items()
        }
        module = "base_model.model.encoder.layer.1.attention.self.query"
        a, b = weights[f"{module}.lora_A.weight"], weights[f"{module}.lora_B.weight"]
        assert (a.shape, b.shape) == ((RANK, 32), (32, RANK))
        name = "encoder.layer.1.attention.self.query.weight"
        sum_of_both = values(base)[name] + (b @ a).T * (config["lora_alpha"] / config["r"])
        np.testing.assert_allclose(sum_of_both, values(whole)[name], rtol=0, atol=1e-6)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for kind in ("frozen", "lora", "tenants", "adapters"):
        one, two = (made(tmp_path / folder / kind, kind, count=1) for folder in ("one", "two"))
        other = made(tmp_path / "other" / kind, kind, "--seed", "1", count=1)
        assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
        assert one[1].read_bytes() != other[1].read_bytes()


def test_copies_of_a_file_that_is_given(tmp_path: Path) -> None:
    (base, _) = made(tmp_path, "frozen", count=1)
    more = ("--base", str(base), "--targets", "intermediate")
    first, second = made(tmp_path / "own", "lora", *more, count=2)
    assert differing(first, second)
    assert all("intermediate.dense.weight" in name for name in differing(first, second))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lora", "--targets", "no such name"], "no weight of"),
        (["frozen", "--tail", "no such name"], "no weight of"),
        (["lora", "--base", "missing.onnx"], "missing.onnx"),
    ],
)
def test_wrong_calls_say_what_is_wrong(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(sharing, [*arguments, "--size", "tiny", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output
