"""The command update."""

from __future__ import annotations

from typing import Any

import click

from netfuse_onnx.errors import UsageFault

from .answering import answer
from .options import change_options, common_options, merged_argument, proof_arguments, proof_options


@click.command()
@merged_argument
@click.option(
    "--model",
    "models",
    nargs=2,
    multiple=True,
    metavar="NAME FILE",
    help="A model of the merged file, and the file that takes its place. May be given several times.",
)
@change_options
@proof_options
@common_options
def update(
    merged: str,
    models: tuple[tuple[str, str], ...],
    out: str | None,
    no_verify: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Replace models of a merged file by new files. No other source is needed.

    The result is what a merge of all sources gives, with the options of the merge, and is proven like one.
    The merged file is replaced in one step.

    \b
    Example:
      netfuse-onnx update merged.onnx --model b new_b.onnx
      netfuse-onnx update merged.onnx --model b new_b.onnx --model c new_c.onnx -o next.onnx
    """
    names = [name for name, _ in models]
    for name in names:
        if names.count(name) > 1:
            raise UsageFault(f"The model {name!r} is given twice.", "Give one file for each model.")
    proof = proof_arguments(given)
    return answer("update", as_json, merged, dict(models), out=out, verify=not no_verify, **proof)
