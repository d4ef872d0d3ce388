"""The sizes of a proof on CUDA are those that the sources take without optimisations, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import stubs
from families import model, save
from routed_families import KINDS

from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.prove import loaded
from netfuse_onnx.prove.trial import Options, Trial
from netfuse_onnx.run.runtime import Runtime, Session, Value

KIND = KINDS["decoder with a cache"]
"""Its bias has as many elements as its scores, one more than the cache: ONNX can't say so."""
OVER_STUBS = """
import json, sys
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.prove.trial import Options, Trial
from netfuse_onnx.run.runtime import Runtime
trial = Trial(match([*map(load, sys.argv[1:])], ["a", "b"]), Options(Runtime("cuda"), search=False))
trial.run_sources(lambda *words: None, most=1)
print(json.dumps([dict(case.sizes) for case in trial.cases]))
"""


class Unchecked(Session):
    """A session whose optimised form takes a bias of any size, as CUDA's BiasSoftmax does."""

    def __init__(self, model: str, runtime: Runtime, *, optimise: bool = True, folder: str = "") -> None:
        super().__init__(model, Runtime("cpu"), optimise=optimise, folder=folder)
        self.lenient = optimise

    def run(self, feeds: Mapping[str, Value], seconds: float = 60.0) -> dict[str, Value]:
        if self.lenient:
            scores = np.asarray(feeds["cache"]).shape[1] + 1
            feeds = {**feeds, "bias": np.resize(np.asarray(feeds["bias"]), scores)}
        return super().run(feeds, seconds)


def fits(sizes: Mapping[str, int]) -> bool:
    """A bias of one element is no exception: Add broadcasts it, and BiasSoftmax reads beyond its end."""
    return sizes["past1"] == sizes["past"] + 1


def test_sizes_are_those_that_a_source_takes_without_optimisations(tmp_path: Path) -> None:
    family = match([*map(load, KIND.write(tmp_path, 2))], ["a", "b"])
    with mock.patch.object(loaded, "Session", Unchecked):
        trial = Trial(family, Options(Runtime("cuda"), search=False))
        trial.run_sources(lambda *words: None)
    assert len(trial.cases) > 1
    assert all(fits(case.sizes) for case in trial.cases), [case.sizes for case in trial.cases]


def test_a_source_that_loads_only_when_optimised_is_run_unchecked(tmp_path: Path) -> None:
    family = match([*map(load, KIND.write(tmp_path, 2))], ["a", "b"])

    class Loads(Unchecked):
        def __init__(self, model: str, runtime: Runtime, *, optimise: bool = True, folder: str = "") -> None:
            if not optimise:
                raise loaded.RunFailed("no kernel")
            super().__init__(model, runtime)

    with mock.patch.object(loaded, "Session", Loads):
        trial = Trial(family, Options(Runtime("cuda"), search=False))
        trial.run_sources(lambda *words: None)
    assert trial.cases


def test_cuda_takes_no_bias_that_is_too_short(tmp_path: Path) -> None:
    """ONNX Runtime's CUDA provider fuses Add and Softmax, and does not compare sizes."""
    done = stubs.python(tmp_path, "-c", OVER_STUBS, *KIND.write(tmp_path, 2))
    assert done.returncode == 0, done.stderr[-2000:]
    cases = json.loads(done.stdout.splitlines()[-1])
    assert len(cases) > 1 and all(map(fits, cases)), cases


@pytest.mark.parametrize(
    ("left", "right", "fed", "refused"),
    [
        ("batch, k", "m", ((2, 5), (5,)), False),
        ("batch, k", "m", ((2, 5), (1,)), True),  # read beyond its end
        ("batch, k", "1", ((2, 5), (1,)), False),  # not fused: the file says that it is one element
        ("batch, 3, k", "batch, 1, m", ((2, 3, 5), (2, 1, 5)), False),
        ("batch, 3, k", "b, s, m", ((2, 3, 5), (2, 1, 5)), True),
        ("batch, 3, k", "b, s, m", ((2, 3, 5), (2, 3, 5)), False),
    ],
)
def test_a_bias_that_is_broadcast_must_be_declared_so(
    left: str, right: str, fed: tuple[tuple[int, ...], ...], refused: bool, tmp_path: Path
) -> None:
    text = f"g (float[{left}] x, float[{right}] b) => (float[{left}] y) {{ s = Add(x, b) y = Softmax (s) }}"
    graph = load(save(tmp_path / "m.onnx", model(text))).graph
    (sum_of,) = loaded.biased(graph)
    shapes = dict(zip(sum_of.operands, fed, strict=True))
    if refused:
        with pytest.raises(loaded.RunFailed, match="broadcasts 1 to"):
            sum_of.refuse(shapes)
    else:
        sum_of.refuse(shapes)


@pytest.mark.parametrize("end", ["y = Identity (s) z = Softmax (s)", "z = Softmax (s) y = Relu (s)"])
def test_sums_that_others_read_are_not_fused(end: str, tmp_path: Path) -> None:
    text = f"g (float[n, k] x, float[m] b) => (float[n, k] y, float[n, k] z) {{ s = Add(x, b) {end} }}"
    assert not loaded.biased(load(save(tmp_path / "m.onnx", model(text))).graph)
