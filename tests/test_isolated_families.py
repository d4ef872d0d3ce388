"""One model never sees another's data: on odd input a merged family fails, or each model gives its own
values. With separate inputs, which the caller may size and fill as he likes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import samples
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

import netfuse_onnx

MODELS = 3
SIZED = {"mlp": False, "resnet50": False, "lstm": True, "bert": True, "xlnet": True}
"""Families, and whether they have a dynamic sequence."""

Feeds = dict[str, np.ndarray]
Sizes = tuple[tuple[int, int], ...]


class Family:
    """A merged family in ONNX Runtime, beside its sources."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.paths = samples.exported(name, "torchscript", count=MODELS)
        self.models = [Path(path).stem for path in self.paths]
        out = str(folder / "merged.onnx")
        netfuse_onnx.merge(self.paths, out, verify=False)
        self.run = samples.session(out)

    def draw(self, sizes: Sizes) -> Feeds:
        """Inputs by the merged model's names; (batch, sequence) of each model."""
        feeds = {}
        for model, (batch, sequence) in zip(self.models, sizes, strict=True):
            drawn = samples.draw(self.name, 1, batch=batch, sequence=sequence)
            feeds |= {f"{model}/{name}": value[0] for name, value in drawn.items()}
        return feeds

    def own(self, feeds: Mapping[str, np.ndarray], index: int) -> Feeds:
        """What one source gives on its inputs, by the merged model's names."""
        prefix = f"{self.models[index]}/"
        inputs = {name.removeprefix(prefix): v for name, v in feeds.items() if name.startswith(prefix)}
        return {prefix + name: v for name, v in samples.session(self.paths[index])(inputs).items()}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Gives the family of a name, which is merged once."""
    return functools.cache(lambda name: Family(name, tmp_path_factory.mktemp(name)))


def close(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> None:
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def refused(family: Family, feeds: Feeds) -> None:
    with pytest.raises((InvalidArgument, RuntimeException, Fail)):
        family.run(feeds)


@pytest.mark.parametrize("name", SIZED)
def test_unequal_sizes_fail(name: str, families: Callable[[str], Family]) -> None:
    family = families(name)
    batches = [(2, 1, 2), (1, 2, 2), (2, 2, 4), (6, 2, 1)]
    cases: list[Sizes] = [tuple((batch, 9) for batch in case) for case in batches]
    if SIZED[name]:
        cases += [((2, 9), (2, 1), (2, 9)), ((1, 9), (1, 9), (1, 18)), ((2, 9), (9, 2), (2, 9))]
    for sizes in cases:
        refused(family, family.draw(sizes))


@pytest.mark.parametrize("name", SIZED)
def test_an_empty_batch_beside_others_fails(name: str, families: Callable[[str], Family]) -> None:
    """ONNX Runtime's Concat skips inputs without elements, and leaves rows unwritten."""
    family = families(name)
    for batches in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 2, 2)]:
        refused(family, family.draw(tuple((batch, 9) for batch in batches)))


@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_one_input_of_another_size_fails(name: str, families: Callable[[str], Family]) -> None:
    family = families(name)
    for odd in (n for n in family.draw(((2, 9),) * MODELS) if n.startswith(family.models[1])):
        for size in ((1, 9), (2, 1)):
            feeds = family.draw(((2, 9),) * MODELS)
            feeds[odd] = family.draw((size,) * MODELS)[odd]
            refused(family, feeds)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", ["mlp", "resnet50", "lstm"])
def test_numbers_that_spread_stay_in_their_model(
    name: str, value: float, families: Callable[[str], Family]
) -> None:
    family = families(name)
    feeds = family.draw(((2, 9),) * MODELS)
    before = family.run(feeds)
    for name_ in feeds:
        if name_.startswith(family.models[1]):
            feeds[name_] = np.full_like(feeds[name_], value)
    after = family.run(feeds)
    for name_, want in before.items():
        if not name_.startswith(family.models[1]):
            np.testing.assert_array_equal(after[name_], want)


@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_indices_at_and_beyond_the_edge(name: str, families: Callable[[str], Family]) -> None:
    """The table has 99 rows: from -99 to 98 every index is right, all others are refused."""
    family = families(name)
    for index in (98, -1, -99, 99, -100, 10**6, -(10**9)):
        feeds = family.draw(((2, 9),) * MODELS)
        ids = f"{family.models[1]}/input_ids"
        feeds[ids] = np.full_like(feeds[ids], index)
        if -99 <= index < 99:
            got = family.run(feeds)
            for model in range(MODELS):
                close(got, family.own(feeds, model))
        else:
            refused(family, feeds)
