"""The distances of all pairs of models are those of one pair after the other, however many go in one step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from netfuse_onnx.prove import tell
from netfuse_onnx.prove.compare import BY_PRECISION, EXACT, Magnitudes, Tolerance, compare, ratios
from netfuse_onnx.prove.tell import Teller
from netfuse_onnx.run.runtime import Array, Value
from netfuse_onnx.types import Dim

MODELS = 7
RNG = np.random.default_rng(0)


def teller(cases: Sequence[Sequence[Value]], dims: Sequence[Dim]) -> Teller:
    """A teller of one output, whose tolerance is another one for each model."""
    models = len(cases[0])

    def tolerance(name: str, value: Value, model: int) -> Tolerance:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            return EXACT
        scales = Magnitudes(dims)
        scales.add(value * (model + 1))
        base = BY_PRECISION["float32"]
        return Tolerance(base.rtol, base.atol, 1e-3 * model, scales.of(value))

    family = SimpleNamespace(
        models=models,
        names=tuple(map(str, range(models))),
        edge_type=lambda _: SimpleNamespace(dims=dims),
        tails=(),
    )
    same = [{str(k): {"y": case[m]} for k, case in enumerate(cases)} for m in range(models)]
    outputs = [[{"y": case[m]} for case in cases] for m in range(models)]
    trial = SimpleNamespace(family=family, same_input=same, outputs=outputs, cases=list(range(len(cases))))
    judge = SimpleNamespace(tolerance=tolerance, lines={})
    return Teller(cast(Any, trial), cast(Any, judge))


def alone(found: Teller, one: int, two: int, cases: Sequence[Sequence[Value]], axis: int) -> Array:
    """The distance of one pair by channel, or of the whole where there is no axis of them."""
    every: list[Array] = []
    for values in cases:
        a, b = values[one], values[two]
        allowed = found.judge.tolerance("y", b, two)
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape:
            gap = compare(a, b, allowed)
            every.append(np.asarray(np.inf if gap.problem else gap.ratio))
            continue
        each = ratios(a, b, allowed) if b.dtype.kind == "f" else np.where(a == b, 0.0, np.inf)
        others = tuple(i for i in range(each.ndim) if not axis or i != axis)
        every.append(np.asarray(each.max(axis=others, initial=0.0)))
    most = every[0]
    for more in every[1:]:
        most = np.maximum(most, more)
    return most


def floats(*shape: int) -> list[Value]:
    values: list[Value] = [RNG.standard_normal(shape).astype(np.float32) for _ in range(MODELS)]
    values[4] = values[1]  # two that are alike
    return values


def odd() -> list[Value]:
    """Results with NaN and infinities, some of them in the same places."""
    values = floats(3, 4)
    for m in (0, 1, 2):
        np.asarray(values[m])[0, 0] = np.nan
    np.asarray(values[3])[1, 1] = np.inf
    return values


def ragged() -> list[Value]:
    """Results whose number of rows depends on the model."""
    return [RNG.standard_normal((1 + m % 3, 4)).astype(np.float32) for m in range(MODELS)]


FIXED, OPEN = ("batch", 4), ("batch", "other")
CASES: dict[str, tuple[list[list[Value]], Sequence[Dim], int]] = {
    "channels": ([floats(2, 4), floats(3, 4)], FIXED, 1),
    "no channels": ([floats(2, 4), floats(3, 5)], OPEN, 0),
    "NaN": ([odd(), floats(2, 4)], FIXED, 1),
    "rows that differ": ([ragged(), floats(2, 4)], FIXED, 1),
    "rows that differ, without channels": ([ragged(), floats(2, 4)], OPEN, 0),
    "integers": ([[RNG.integers(0, 2, (2, 1)) for _ in range(MODELS)]], OPEN, 0),
    "strings": ([[np.array([["a", "b"][m % 2]], object) for m in range(MODELS)]], ("batch",), 0),
    "sequences": ([[[v] for v in floats(2, 4)]], FIXED, 0),
    "empty": ([[np.zeros((0, 4), np.float32)] * MODELS], FIXED, 1),
}


@pytest.mark.parametrize("elements", [1, 24, 1 << 16])
@pytest.mark.parametrize("what", CASES)
def test_every_pair_is_compared_as_if_alone(
    what: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tell, "BLOCK", elements)
    cases, dims, axis = CASES[what]
    found = teller(cases, dims)
    for table in (found._same_input("y"), found._own_inputs("y")):
        wanted = {
            (one, two): alone(found, one, two, cases, axis)
            for one, two in itertools.combinations(range(MODELS), 2)
        }
        best = {pair: float(distance.max(initial=0.0)) for pair, distance in wanted.items()}
        assert {(i, j): float(table.best[i, j]) for i, j in best} == best
        assert tell.nearest(table.best) == min(best, key=lambda pair: best[pair])
        assert table.pairs(below=10.0) == [pair for pair, distance in best.items() if distance < 10.0]
        channels = np.minimum.reduce(np.broadcast_arrays(*wanted.values())) if axis else np.zeros(0)
        np.testing.assert_array_equal(table.channels, channels)
