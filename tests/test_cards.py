"""bench/cards.py: the constants of a GPU that it finds, and the time that it takes. No timing is looked at."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import calibrate, cards
from bench.cards import Clock, Graph
from netfuse_onnx.plan import targets
from netfuse_onnx.plan.card import Card
from netfuse_onnx.plan.launches import CONVOLUTION, GROUPED, LINK, MEMORY, PRODUCT, TRANSPOSED, Launch
from netfuse_onnx.plan.work import Work
from netfuse_onnx.run.runtime import onnxruntime


@pytest.fixture
def installed() -> dict[str, Any]:
    value: dict[str, Any] = json.loads((calibrate.TARGETS / "cuda.json").read_text())
    return value


def parsed(constants: dict[str, Any], installed: dict[str, Any]) -> Card:
    card = targets.parsed("made", {**installed, "constants": constants})
    assert isinstance(card, Card)
    return card


def parsed_file() -> dict[str, Any]:
    constants: dict[str, Any] = json.loads((calibrate.TARGETS / "cuda.json").read_text())["constants"]
    return constants


def faked(card: Card) -> Any:
    """A Clock.run on a card with these constants."""

    def node(op: str, shape: tuple[int, ...], filters: tuple[int, ...], size: int, groups: int) -> float:
        moved = 2.0 * size * math.prod(shape)
        if op == "Neg" and moved < 2**26:
            return moved / card.cache
        if op == "MatMul":
            element = {4: 1, 2: 10, 8: 11}[size]
            return card.work(Launch(0.0, work=Work(PRODUCT, shape[0], *shape[1:], shape[1]), element=element))
        if op == "Conv":
            work = Work(
                GROUPED if groups > 1 else CONVOLUTION, groups, shape[0] * shape[2] ** 2,
                filters[0] // groups, 9 * filters[1],
            )  # fmt: skip
            element = {4: 1, 2: 10}[size]
            return card.work(Launch(0.0, work=work, element=element, channels=filters[1]))
        return moved / card.bytes_over[TRANSPOSED if op == "Transpose" else MEMORY]

    def run(clock: Clock, made: Graph, *, graph: bool) -> float:
        size = {1: 4, 10: 2, 11: 8}[made.element]
        shapes = list(made.inputs.values())
        moved = float(size * math.prod(shapes[0]))
        total = 0.0
        for one in made.nodes:
            if one.op_type in cards.ON_HOST:
                copies = 2 * (card.issue + moved / card.bytes_over[LINK])
                total += copies + card.wait + 2 * moved / card.host
                continue
            groups = max([1, *(a.i for a in one.attribute if a.name == "group")])
            start = card.launch if graph else max(card.launch, card.issue)
            total += start + node(one.op_type, shapes[0], shapes[-1], size, groups)
        return total

    return run


def test_the_constants_that_made_the_times_are_found(
    installed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that are measured are told apart; the others stay what they were."""
    truth = parsed(installed["constants"], installed)
    rates = {"tf32": 3.1e8, "half": 6.2e8, "double": 4.0e7}
    truth = replace(
        truth, launch=1.5, issue=6.0, wait=20.0, cache=7e6, host=2e4,
        bytes_over={MEMORY: 3e6, TRANSPOSED: 1e6, LINK: 4e4},
        operations={PRODUCT: rates, CONVOLUTION: {**rates, "double": 1.6e7}},
        grouped={c: {"tf32": c * 1e6, "half": c * 2e6, "double": 5e6} for c in cards.GROUPS},
    )  # fmt: skip
    monkeypatch.setattr(Clock, "run", faked(truth))
    monkeypatch.setattr(Clock, "fed", lambda _, mebibytes: 9.0 + mebibytes * 2**20 / truth.bytes_over[LINK])
    found = parsed(cards.measured(installed, 90.0), installed)
    for name in ("launch", "issue", "wait", "cache", "host"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.05), name
    for way in (MEMORY, TRANSPOSED, LINK):
        assert found.bytes_over[way] == pytest.approx(truth.bytes_over[way], rel=0.05), way
    for kind in (PRODUCT, CONVOLUTION):
        assert found.operations[kind] == pytest.approx(truth.operations[kind], rel=0.05), kind
    for channels, expected in truth.grouped.items():
        known = {key: expected[key] for key in ("tf32", "half")}
        assert {key: found.grouped[channels][key] for key in known} == pytest.approx(known, rel=0.05)
    assert found.tiles == truth.tiles


def test_constants_for_which_no_time_is_left_stay(installed: dict[str, Any]) -> None:
    """No session is made once the time is up."""
    began = time.monotonic()
    assert parsed(cards.measured(installed, 0.0), installed) == parsed(installed["constants"], installed)
    assert time.monotonic() - began < 5.0


def test_times_without_sense_change_nothing(
    installed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain that takes no longer than a shorter one tells nothing."""
    monkeypatch.setattr(Clock, "run", lambda *_, **__: 1.0)
    monkeypatch.setattr(Clock, "fed", lambda *_: 1.0)
    assert parsed(cards.measured(installed, 90.0), installed) == parsed(installed["constants"], installed)


def test_the_file_that_is_written_is_a_target(
    installed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It says that it was measured, and which of its constants were."""
    monkeypatch.setattr(Clock, "run", faked(replace(parsed(installed["constants"], installed), launch=1.25)))
    out = tmp_path / "mine.json"
    monkeypatch.setattr(sys, "argv", ["calibrate.py", "--provider", "cuda", "--out", str(out)])
    calibrate.main()
    card = targets.target(str(out))
    assert isinstance(card, Card)
    assert card.launch == 1.25
    assert card.provenance["measured"]
    written = json.loads(out.read_text())["constants"]
    assert written["launch"]["source"] == "measured"
    assert written["product"]["measured"] == ["double", "half", "tf32"]
    assert written["tiles"] == parsed_file()["tiles"]


def test_every_probe_is_a_valid_model(installed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime loads the graphs of all probes."""
    for name, value in (
        ("IMAGE", 5),
        ("IMAGES", 2),
        ("CHANNELS", 4),
        ("GROUPED_CHANNELS", 128),
        ("PRODUCTS", (2, 4)),
    ):
        monkeypatch.setattr(cards, name, value)
    made: list[str] = []

    def run(clock: Clock, probe: Graph, **_: Any) -> float:
        session = onnxruntime().InferenceSession(probe.model(), providers=["CPUExecutionProvider"])
        made.append(session.get_outputs()[0].name)
        return float(len(probe.nodes))

    monkeypatch.setattr(Clock, "run", run)
    monkeypatch.setattr(Clock, "fed", lambda _, mebibytes: float(mebibytes))
    cards.measured(installed, 90.0)
    assert len(made) > 30
