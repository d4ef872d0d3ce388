"""Writes docs/operators.md from the rules themselves: `make docs`, or `python docs/operators.py`.

tests/test_operators_doc.py fails while the page and the rules differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx

from netfuse_onnx import rules
from netfuse_onnx.ops import schemas
from netfuse_onnx.plan import control
from netfuse_onnx.rules._registry import DIFFERING
from netfuse_onnx.rules.fallback import REASONS

PAGE = Path(__file__).with_name("operators.md")

HEAD = """\
# Operators

<!-- Written by `make docs` from netfuse_onnx/rules. Do not edit. -->

What becomes of each operator when models are merged. A node that reads nothing that differs between the
models runs **once for all**, whatever its operator. Any other is **batched** by a rule, or **replicated**
once per model.

- Several rules for one operator are several ways to run it. The plan takes the cheapest for the whole graph.
- A rule may refuse, for instance where an axis is computed at run time. Where all refuse, the node is
  replicated, and `merge`, `inspect` and `--json` give the reason.
- Attributes that differ between the models replicate the node, unless a rule
  makes constants of them: see [the table](#attributes-that-differ).
- Random operators, and operators with random ones in their bodies, always run once per model.

The column *rule* is the name that `netfuse-onnx inspect` prints. In *how*, `N` is the batch, `M` the models,
and parentheses are one axis: `N(MC)HW` has M times C channels. The layouts are explained in
[concepts](concepts.md). How to add a rule: [rules/README.md](../netfuse_onnx/rules/README.md).
"""

DIFFERING_ATTRIBUTES = """\
## Attributes that differ

For these, attributes that differ between the models become constants with a model axis. Elsewhere such a
node is replicated. Outside ai.onnx.ml, differing attributes need `--partial`.

| operator | rule | how |
|---|---|---|
"""

REPLICATED = """\
## Replicated

These operators run once per model wherever they read something that differs between the models and no rule
above applies: all operators of ONNX {version} and of ONNX Runtime {runtime} that have no rule, and those that
have a reason not to be batched. So does every operator of another domain.

| operator | why |
|---|---|
"""

NO_RULE = "no batching rule yet"

CONTROL = dict.fromkeys(control.WAYS, control.HOW)
"""No rules, because they plan and lower whole graphs."""

TRAINING = {"ai.onnx.preview.training"}
"""The domains of the standard that hold no inference operators."""

RUNTIME = "1.32"
"""The version of ONNX Runtime whose schemas ops/schemas.py holds."""


def text() -> str:
    """The whole page."""
    batched = [*_batched(), *((op, "merged_inside", how) for op, how in CONTROL.items())]
    rows = sorted(batched, key=lambda row: (_split(row[0]), batched.index(row)))
    domains = list(dict.fromkeys(_split(op)[0] for op, _, _ in rows))
    parts = [HEAD]
    for domain in domains:
        ours = [(_split(op)[1], rule, how) for op, rule, how in rows if _split(op)[0] == domain]
        parts.append(f"## Batched: {domain or 'ai.onnx'}\n\n| operator | rule | how |\n|---|---|---|\n")
        parts[-1] += "".join(_line(f"`{op}`", f"`{rule}`", how) for op, rule, how in ours)
    constants = [(op, entry) for op in sorted(DIFFERING) for entry in DIFFERING[op]]
    parts.append(DIFFERING_ATTRIBUTES)
    parts[-1] += "".join(_line(f"`{op}`", f"`{entry.name}`", entry.how) for op, entry in constants)
    parts.append(REPLICATED.format(version=".".join(onnx.__version__.split(".")[:2]), runtime=RUNTIME))
    parts[-1] += "".join(_line(f"`{op}`", why) for op, why in _replicated())
    return "\n".join(parts)


def _batched() -> Iterator[tuple[str, str, str]]:
    for op, entries in rules.table().items():
        for entry in entries:
            yield op, entry.name, entry.how


def _replicated() -> list[tuple[str, str]]:
    """Operators that have a reason or no rule, by domain and name."""
    every = [
        f"{schema.domain}.{schema.name}".removeprefix(".")
        for schema in onnx.defs.get_all_schemas()
        if schema.domain in schemas.STANDARD - TRAINING and not schema.deprecated
    ]
    batched = {*rules.table(), *CONTROL, "Constant"}  # a Constant becomes a weight
    missing = {*every, *schemas.runtime_operators()} - batched
    rows = {**dict.fromkeys(missing, NO_RULE), **REASONS}
    return sorted(rows.items(), key=lambda row: _split(row[0]))


def _split(op: str) -> tuple[str, str]:
    """`com.microsoft.Gelu` -> ("com.microsoft", "Gelu")."""
    domain, _, name = op.rpartition(".")
    return domain, name


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(text())
