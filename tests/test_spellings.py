"""One meaning, many spellings: they match, what is merged of them is right, and nothing else matches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import oracle
import pytest
from spellings import DEFAULTS, MANY, ONE_AXIS, Spelling, one_axis, protos, sets

from netfuse_onnx.errors import NotEquivalent, NotStackable
from netfuse_onnx.load.loader import load
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.fold import fold
from netfuse_onnx.plan.sound import sound
from netfuse_onnx.types import Correspondence

REDUCED = [
    sets(op, opset) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2") for opset in (17, 18)
]
EVERY = [*MANY, *DEFAULTS, *REDUCED, *(s for op in ONE_AXIS for s in one_axis(op, 3))]


def saved(folder: Path, name: str, proto: onnx.ModelProto) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(proto, path)
    return path


def matched(*paths: Path) -> Correspondence | None:
    """The family, or None where the files are not one."""
    try:
        return sound(fold(match([load(str(path)) for path in paths], ["a", "b"][: len(paths)])))
    except NotEquivalent:
        return None


def assert_merges_right(family: Correspondence, paths: Sequence[Path], feeds: Sequence[np.ndarray]) -> None:
    """What is merged of the files gives what each of them gives."""
    for io in ("separate", "stacked"):
        try:
            merged = oracle.materialise(lower(family, planning.plan(family, io=io), io=io))
        except NotStackable:
            continue
        names = family.names
        stacked = oracle.merged_feeds({"x": np.stack(feeds)}, {"x": "input"}, io, names)
        singles = [oracle.run(str(p), {"x": x}, oracle.LEVELS[0]) for p, x in zip(paths, feeds, strict=True)]
        for level in oracle.LEVELS:
            oracle.compare(singles, oracle.run(merged, stacked, level), io, names, io, 1e-4)


def result(path: Path, feed: np.ndarray) -> np.ndarray:
    return next(iter(oracle.run(str(path), {"x": feed}, oracle.LEVELS[0]).values()))


def drawn(spelling: Spelling, seed: int) -> np.ndarray:
    shape = [2 if isinstance(dim, str) else dim for dim in spelling.dims]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spelling", EVERY, ids=str)
def test_what_says_the_same_matches_and_what_does_not_is_never_taken_for_it(
    spelling: Spelling, tmp_path: Path
) -> None:
    groups = [
        [saved(tmp_path, f"m{i}_{j}", proto) for j, proto in enumerate(some)]
        for i, some in enumerate(protos(spelling))
    ]
    feed, other_feed = drawn(spelling, 5), drawn(spelling, 6)
    results = {path: result(path, feed) for paths in groups for path in paths}
    for paths in groups:
        for one, other in itertools.permutations(paths, 2):
            assert equal(results[one], results[other]), "the case is wrong: they differ"
            family = matched(one, other)
            assert family is not None, (one.stem, other.stem)
            assert not family.attrs
    for mine, others in itertools.permutations(groups, 2):
        assert not equal(results[mine[0]], results[others[0]]), "the case is wrong: they are equal"
        for one, other in itertools.product(mine, others):
            family = matched(one, other)
            if family is not None:  # each model keeps its own
                assert spelling.name in DATA
                assert_merges_right(family, [one, other], [feed, other_feed])


DATA = ("Pad", "Trilu", "CumSum", "com.microsoft.ExpandDims")
"""Operators whose constants may differ between the models where no shape depends on them."""


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("op", ONE_AXIS)
def test_an_axis_from_the_front_and_from_the_back(op: str, rank: int, tmp_path: Path) -> None:
    """The merged graph of two files with weights of their own gives what each file gives."""
    for spelling in one_axis(op, rank):
        pairs = zip(protos(spelling, 0), protos(spelling, 1), strict=True)
        for axis, ((front, _), (_, back)) in enumerate(pairs):
            paths = [saved(tmp_path, f"{axis}{k}", proto) for k, proto in enumerate((front, back))]
            feeds = [drawn(spelling, k) for k in range(2)]
            for turn in (1, -1):
                family = matched(*paths[::turn])
                assert family is not None and not family.attrs
                assert_merges_right(family, paths[::turn], feeds)
