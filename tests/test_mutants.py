"""The list of small mistakes (tests/mutants) fits the code. `make mutants` puts them in, one at a time."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest
from mutants import MUTATIONS
from mutants.mutation import ROOT, Mutation, mutated

TESTS = ROOT / "tests"
LEAST = 60
"""Fewest mistakes that the list holds, those marked equivalent not counted."""


def named(change: Mutation) -> str:
    return change.name


@pytest.mark.parametrize("change", MUTATIONS, ids=named)
def test_a_mistake_fits_the_code(change: Mutation) -> None:
    """Its text stands once in its file, and the file is Python with the mistake in it."""
    ast.parse(mutated((ROOT / change.file).read_text(), change))


@pytest.mark.parametrize("change", MUTATIONS, ids=named)
def test_a_mistake_names_its_tests_or_a_reason(change: Mutation) -> None:
    assert bool(change.tests) != bool(change.equivalent)
    assert not change.equivalent or change.equivalent.endswith(".")
    for test in change.tests:
        file, _, name = test.partition("::")
        assert (TESTS / file).is_file(), test
        assert not name or name.partition("[")[0] in functions(TESTS / file), test


@functools.cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_there_are_enough_and_each_has_a_name() -> None:
    assert sum(not change.equivalent for change in MUTATIONS) >= LEAST
    assert len({change.name for change in MUTATIONS}) == len(MUTATIONS)


def test_a_text_that_does_not_stand_there_once_is_an_error() -> None:
    change = Mutation("m", "f.py", "a", "b")
    assert mutated("x a y", change) == "x b y"
    for text in ("x y", "a a"):
        with pytest.raises(ValueError, match=r"times in f\.py"):
            mutated(text, change)
