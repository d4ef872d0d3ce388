"""The cases of tests/rules, for tests that put other questions to every rule."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import oracle
from isolation import Sample

RULES = Path(__file__).parent / "rules"
PER_TEST = 2
"""So many models of a test of one operator are tried, each with three ways to name its axes; of others, one
for each."""

LEFT_OUT = {
    "test_batch_norm_in_training": "ONNX Runtime writes the new statistics over what it read them from",
    "test_string_normalizer": "ONNX Runtime loads no model whose number of rows is open",
}
"""Tests that give no case, and why."""


def calls(function: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """The arguments with which pytest would call a test."""
    marks = [mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"]
    rows = []
    for mark in marks:
        names, values = mark.args
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        rows.append([dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in values])
    for row in itertools.product(*rows):
        yield {name: value for part in row for name, value in part.items()}


@functools.cache
def samples(name: str) -> tuple[Sample, ...]:
    """The cases that a test checks against the oracle, once for each model: with as many inputs as it has fed."""
    with tempfile.TemporaryDirectory() as folder:
        return tuple(_samples(functions()[name], Path(folder)))


def _samples(function: Callable[..., None], folder: Path) -> Iterator[Sample]:
    best: dict[bytes, tuple[int, Sample]] = {}

    def note(model: onnx.ModelProto, values: Mapping[str, Any], role: Mapping[str, str], *_: Any, **how: Any):
        sample = Sample(
            model, {k: np.asarray(v) for k, v in values.items()}, role, how.get("keep_opset", False)
        )
        fed = 0 if how.get("reason") or len(next(iter(values.values()))) < 2 else len(sample.fed)
        key = model.SerializeToString(deterministic=True)
        if fed and (key not in best or best[key][0] < fed):
            best[key] = fed, sample

    places = [function.__globals__, vars(oracle)]
    with mock.patch.dict(places[0], {"check": note}), mock.patch.dict(places[1], {"check": note}):
        for arguments in calls(function):
            function(**arguments, tmp_path=folder)
    alike: dict[frozenset[str], list[Sample]] = {}
    for _, sample in best.values():
        alike.setdefault(operators(sample), []).append(sample)
    most = 1 if len(alike) > 1 else PER_TEST
    for some in alike.values():
        yield from some[:: max(1, len(some) // most)][:most]


def operators(sample: Sample) -> frozenset[str]:
    return frozenset(f"{node.domain}.{node.op_type}".removeprefix(".") for node in sample.model.graph.node)


@functools.cache
def functions() -> dict[str, Callable[..., None]]:
    """The tests of tests/rules by file and name. Files that never call the oracle for one model, such as those of
    learned tables, whose attributes differ, have no cases to give."""
    found = {}
    for path in sorted(RULES.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"isolated_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if vars(module).keys().isdisjoint({"check", "sweep"}):
            continue
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("test_") and "tmp_path" in inspect.signature(function).parameters:
                found[f"{path.stem}.{name}"] = function
    return found


NAMES = [name for name in functions() if name.partition(".")[2] not in LEFT_OUT]
