"""The command add."""

from __future__ import annotations

from typing import Any

import click

from netfuse_onnx.errors import UsageFault

from .answering import answer
from .options import (
    change_options,
    common_options,
    merged_argument,
    models_argument,
    proof_arguments,
    proof_options,
)


@click.command()
@merged_argument
@models_argument
@change_options
@proof_options
@common_options
def add(
    merged: str, models: tuple[str, ...], out: str | None, no_verify: bool, as_json: bool, **given: Any
) -> int:
    """Add models to a merged file, behind those that it holds. No other source is needed.

    The result is what a merge of all sources gives, with the options of the merge, and is proven like one.
    The merged file is replaced in one step.

    \b
    Example:
      netfuse-onnx add merged.onnx g.onnx
      netfuse-onnx add merged.onnx tenant-g=g.onnx tenant-h=h.onnx
    """
    from netfuse_onnx.names import given as named

    if not models:
        raise UsageFault("No models were given.", "Give the merged file, then the models to add.")
    paths, names = named(models)
    proof = proof_arguments(given)
    return answer("add", as_json, merged, paths, names=names, out=out, verify=not no_verify, **proof)
