"""Random graphs of the rules' operators, merged and compared (tests/fuzz.py)."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest
from fuzzing.case import Case, draw
from fuzzing.shrink import shrink
from fuzzing.trial import Discard, Failure, examine

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.layouts import Layout

SEED = 20
"""Of the graphs that every run of the tests tries."""


def failures(seed: int, count: int) -> list[fuzz.Verdict]:
    counts, found = fuzz.summary(fuzz.fuzz(seed, count), say=False)
    assert counts["discard"] <= counts["ok"], f"most graphs do not run alone: {counts}"
    return found


def told(found: list[fuzz.Verdict]) -> str:
    return "\n".join(f"python tests/fuzz.py --one {seed}\n{text}" for seed, _, text, _ in found)


def test_random_graphs() -> None:
    found = failures(SEED, 150)
    assert not found, told(found)


@pytest.mark.slow
def test_many_random_graphs() -> None:
    found = failures(SEED + 1, 5000)
    assert not found, told(found)


def test_a_seed_is_one_graph() -> None:
    for seed in range(30, 40):
        once, again = draw(seed), draw(seed)
        assert str(once) == str(again)
        assert once.model.SerializeToString(deterministic=True) == again.model.SerializeToString(
            deterministic=True
        )


@pytest.fixture
def no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that are not padded give the right shape and wrong values where N equals a dim."""

    def unpadded(self: Emitter, x: Tensor, layout: Layout, rank: int, to: int, at: int) -> Tensor:
        return x

    monkeypatch.setattr(Emitter, "pad_rank", unpadded)


def wrong(folder: Path) -> tuple[Case, Failure]:
    """The first graph with wrong values."""
    for seed in range(SEED * fuzz.SPAN, SEED * fuzz.SPAN + 300):
        try:
            examine(draw(seed), folder)
        except Failure as failure:
            if failure.kind == "values":
                return draw(seed), failure
        except Discard:
            continue
    pytest.fail("no graph shows it")


@pytest.mark.usefixtures("no_padding")
def test_a_wrong_lowering_is_seen_and_shrunk(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    case, failure = wrong(tmp_path)
    smaller, again = shrink(case, failure, tmp_path)
    assert again.kind == "values"
    assert len(smaller.model.graph.node) <= 2 < len(case.model.graph.node)
    assert len(smaller.model.graph.output) == 1
