"""Every rule keeps the models apart: the cases of tests/rules, with axes left open, on input that does not fit."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import oracle
import pytest
from isolation import AXES, NAMINGS, Sample, isolated

from netfuse_onnx.rules import table

RULES = Path(__file__).parent / "rules"
PER_TEST = 2
"""So many models of a test of one operator are tried, each with three ways to name its axes; of others, one
for each."""

LEFT_OUT = {
    "test_batch_norm_in_training": "ONNX Runtime writes the new statistics over what it read them from",
    "test_string_normalizer": "ONNX Runtime loads no model whose number of rows is open",
}
FIRST_AXIS = {
    "test_rotary": "ONNX Runtime leaves the last of an odd number of elements unwritten",
    "test_rotary_embedding": "ONNX Runtime leaves the last of an odd number of elements unwritten",
}
"""Tests of which no axis is left open, or the first one alone, and why."""

UNSEEN = {
    "StringNormalizer": LEFT_OUT["test_string_normalizer"],
    "SwiGLU": "ONNX Runtime has no kernel for it (1.32)",
    "ai.onnx.ml.TreeEnsemble": "only in ONNX's backend cases",
    "com.microsoft.MatMulBnb4": "the rule of MatMulNBits in another packing",
}
"""Operators with a rule that are not tried, and why. This list only gets shorter."""


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
        return tuple(_samples(tests()[name], Path(folder)))


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
def tests() -> dict[str, Callable[..., None]]:
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


NAMES = [name for name in tests() if name.partition(".")[2] not in LEFT_OUT]


@pytest.mark.parametrize("name", NAMES)
def test_the_models_stay_apart(name: str, tmp_path: Path) -> None:
    for sample in samples(name):
        turn = zlib.crc32(sample.model.SerializeToString(deterministic=True))
        for k, naming in enumerate(NAMINGS):
            first = name.partition(".")[2] in FIRST_AXIS
            isolated(
                sample, tmp_path, naming=naming, which="first" if first else AXES[(turn + k) % len(AXES)]
            )


def test_what_is_left_out_is_there() -> None:
    assert {name.partition(".")[2] for name in tests()} >= {*LEFT_OUT, *FIRST_AXIS}


def test_every_rule_is_among_them() -> None:
    """Every operator that has a rule stands in some model that is tried, but those that no test can run."""
    seen: set[str] = set()
    for name in NAMES:
        for sample in samples(name):
            seen |= operators(sample)
    assert set(table()) - seen == set(UNSEEN)
