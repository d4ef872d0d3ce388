"""Every operator with a batching rule has a test against the oracle."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from netfuse_onnx.rules import table
from netfuse_onnx.rules.fallback import REASONS

RULES = Path(__file__).parent / "rules"


def declared() -> dict[str, set[str]]:
    """Operator -> the files in tests/rules whose OPS name it."""
    found: dict[str, set[str]] = {}
    for path in sorted(RULES.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for op in module.OPS:
            found.setdefault(op, set()).add(path.name)
    return found


def test_every_rule_is_tested():
    assert set(table()) - set(declared()) == set()
