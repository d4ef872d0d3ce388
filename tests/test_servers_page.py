"""docs/servers.md names tests for what it claims: they are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "servers.md").read_text()


def test_the_tests_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) >= 6
    for file, name in named:
        assert f"\ndef {name}(" in (TESTS / file).read_text(), f"{file}::{name}"
