"""Every operator with a batching rule has a test against the oracle, in the file that names it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from netfuse_onnx.rules import table

UNTESTED = {
    "SwiGLU": "ONNX Runtime has no kernel for it (1.32)",
    "com.microsoft.MatMulBnb4": "the rule of MatMulNBits, which is tested, in another packing",
    "ai.onnx.ml.TreeEnsemble": "only by ONNX's backend cases",
}
"""Operators without a test here, and why. This list only gets shorter."""


def declared() -> set[str]:
    """What the files in tests/rules say that they test."""
    found: set[str] = set()
    for path in sorted((Path(__file__).parent / "rules").glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= set(module.OPS)
    return found


def test_every_rule_is_tested_or_excused():
    assert set(table()) - declared() == set(UNTESTED)


def test_no_file_names_an_operator_without_a_rule():
    assert declared() <= set(table())
