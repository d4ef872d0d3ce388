"""The command remove."""

from __future__ import annotations

from typing import Any

import click

from .answering import answer
from .options import change_options, common_options, merged_argument, proof_arguments, proof_options


@click.command()
@merged_argument
@click.argument("names", nargs=-1, metavar="NAME ...")
@change_options
@proof_options
@common_options
def remove(
    merged: str, names: tuple[str, ...], out: str | None, no_verify: bool, as_json: bool, **given: Any
) -> int:
    """Remove models from a merged file. Two or more must stay. No source is needed.

    The result is what a merge of the others gives, with the options of the merge, and is proven like one.
    The merged file is replaced in one step.

    \b
    Example:
      netfuse-onnx remove merged.onnx b
      netfuse-onnx remove merged.onnx b c -o smaller.onnx
    """
    proof = proof_arguments(given)
    return answer("remove", as_json, merged, names, out=out, verify=not no_verify, **proof)
