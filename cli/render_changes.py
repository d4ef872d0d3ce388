"""Prints the change of a merged file."""

from __future__ import annotations

from netfuse_onnx.changes import Changes
from netfuse_onnx.proofs import KeptProof

from .screen import REASONS, Screen, some


def changes(found: Changes | None, console: Screen) -> None:
    """Print which models were replaced, joined, left and stayed."""
    if found is None:
        return
    groups = (
        ("updated", found.updated), ("added", found.added), ("removed", found.removed),
        ("as before", found.kept),
    )  # fmt: skip
    console.say("; ".join(f"{what}: {some(names)}" for what, names in groups if names) + ".")
    for note in found.notes:
        console.say(note)


def kept(proof: KeptProof | None, console: Screen) -> None:
    """Print the comparison of the models that stayed, before and after."""
    if proof is None:
        return
    for problem in proof.problems[:REASONS]:
        console.say(f"Before and after: {problem}")
    if proof.ok and proof.outputs:
        exact = "all bit for bit" if proof.exact == proof.outputs else f"{proof.exact} bit for bit"
        console.say(
            f"Before and after: {proof.outputs} outputs of the {proof.models} models that stayed are equal, "
            f"{exact}."
        )
