"""Architectures of the zoo, merged and proved by the API: a handful here, all of them when slow tests run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.architectures import measure
from sample_models.weights import randomise
from sample_models.zoo import ZOO

QUICK = (
    ("shufflenet", "torchscript"),
    ("yolo", "torchscript"),
    ("gpt2_step", "torchscript"),
    ("hifigan", "torchscript"),
    ("gat", "torchscript"),
    ("dlrm", "torchscript"),
    ("lstm_tagger", "torchscript"),
    ("tcn", "dynamo"),
)
"""One of each kind. TorchScript exports in a tenth of the time."""

ALL = [(item.name, exporter) for item in ZOO.values() for exporter in item.exporters]


def check(name: str, exporter: str, work: Path) -> None:
    row = measure(ZOO[name], exporter, work)
    assert not row.problem
    assert row.spread > 10, "two models swapped would not have been seen"


@pytest.mark.parametrize(("name", "exporter"), QUICK)
def test_architecture(name: str, exporter: str, tmp_path: Path) -> None:
    check(name, exporter, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "exporter"), [case for case in ALL if case not in QUICK])
def test_every_architecture(name: str, exporter: str, tmp_path: Path) -> None:
    check(name, exporter, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_each_parameter_differs_between_seeds(name: str) -> None:
    network = ZOO[name].build()
    states = []
    for seed in (0, 1):
        randomise(network, seed)
        states.append({key: value.clone() for key, value in network.named_parameters()})
    assert not [key for key, value in states[0].items() if torch.equal(value, states[1][key])]


def test_the_zoo_is_broad() -> None:
    assert len(ZOO) >= 45
    assert sum("torchscript" in item.exporters for item in ZOO.values()) >= 15
    assert all("dynamo" in item.exporters for item in ZOO.values())
