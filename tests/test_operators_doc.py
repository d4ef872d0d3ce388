"""docs/operators.md says what the rules say: `make docs` writes it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from netfuse_onnx import rules
from netfuse_onnx.rules.fallback import REASONS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_what_make_docs_writes() -> None:
    written = runpy.run_path(str(DOCS / "operators.py"))["text"]()
    assert (DOCS / "operators.md").read_text() == written, "run `make docs`"


def test_every_operator_with_a_rule_or_a_reason_has_its_lines() -> None:
    page = (DOCS / "operators.md").read_text()
    lines = set(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", page, re.MULTILINE))
    for op, entries in rules.table().items():
        name = op.rpartition(".")[2]
        for entry in entries:
            assert any(line == name and f"`{entry.name}` |" in rest for line, rest in lines), op
    assert set(REASONS.items()) <= lines
