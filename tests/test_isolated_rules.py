"""Every rule keeps the models apart: the cases of tests/rules, with axes left open, on input that does not fit."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from isolation import AXES, NAMINGS, isolated
from rule_cases import LEFT_OUT, NAMES, functions, operators, samples

from netfuse_onnx.rules import table

FIRST_AXIS = {
    "test_rotary": "ONNX Runtime leaves the last of an odd number of elements unwritten",
    "test_rotary_embedding": "ONNX Runtime leaves the last of an odd number of elements unwritten",
}
"""Tests of which the first axis alone is left open, and why."""

UNSEEN = {
    "StringNormalizer": LEFT_OUT["test_string_normalizer"],
    "SwiGLU": "ONNX Runtime has no kernel for it (1.32)",
    "ai.onnx.ml.TreeEnsemble": "only in ONNX's backend cases",
    "com.microsoft.MatMulBnb4": "the rule of MatMulNBits in another packing",
}
"""Operators with a rule that are not tried, and why. This list only gets shorter."""


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
    assert {name.partition(".")[2] for name in functions()} >= {*LEFT_OUT, *FIRST_AXIS}


def test_every_rule_is_among_them() -> None:
    """Every operator that has a rule stands in some model that is tried, but those that no test can run."""
    seen: set[str] = set()
    for name in NAMES:
        for sample in samples(name):
            seen |= operators(sample)
    assert set(table()) - seen == set(UNSEEN)
