"""Every operator with a batching rule has a test against the oracle, in the file that names it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from netfuse_onnx import rules
from netfuse_onnx.ops import schemas
from netfuse_onnx.rules import table

RULES = Path(rules.__file__).parent

UNTESTED = {
    "SwiGLU": "ONNX Runtime has no kernel for it (1.32)",
    "com.microsoft.MatMulBnb4": "the rule of MatMulNBits, which is tested, in another packing",
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


ASKED = ("dims", "has", "is_mapped", "own_layout", "position", "rank")
"""Methods of a Site that take names of inputs."""


def named_inputs(tree: ast.AST) -> Iterator[str]:
    """The names of inputs that a rule's source asks for: `site["bias"]`, `ins["bias"]`, `site.rank("bias")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") in ("site", "ins"):
            keys = [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKED:
            keys = node.args
        else:
            continue
        yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def test_every_input_that_a_rule_names_is_in_a_schema() -> None:
    """A name that no operator has would read as an input that is always absent."""
    inputs = {
        name.lower()
        for key in {*table(), *schemas.runtime_operators()}
        for version in range(7, 27)
        for name in schemas.input_names(key.rpartition(".")[2], key.rpartition(".")[0], version)
    }
    asked = {
        (path.name, name) for path in RULES.glob("*.py") for name in named_inputs(ast.parse(path.read_text()))
    }
    assert len(asked) > 50
    assert {(file, name) for file, name in asked if name.lower() not in inputs} == set()
