"""The sizes of a proof on CUDA are those that the sources take without optimisations, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import stubs
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

    def __init__(self, model: str, runtime: Runtime, *, optimise: bool = True) -> None:
        super().__init__(model, Runtime("cpu"), optimise=optimise)
        self.lenient = optimise

    def run(self, feeds: Mapping[str, Value], seconds: float = 60.0) -> dict[str, Value]:
        if self.lenient:
            scores = np.asarray(feeds["cache"]).shape[1] + 1
            feeds = {**feeds, "bias": np.resize(np.asarray(feeds["bias"]), scores)}
        return super().run(feeds, seconds)


def fits(sizes: Mapping[str, int]) -> bool:
    return sizes["past1"] in (1, sizes["past"] + 1)


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
        def __init__(self, model: str, runtime: Runtime, *, optimise: bool = True) -> None:
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
