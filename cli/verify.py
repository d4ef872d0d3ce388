"""The command verify."""

from __future__ import annotations

from typing import Any

import click

from .answering import answer
from .options import (
    adapter_option,
    common_options,
    models_argument,
    proof_arguments,
    proof_options,
    sources_of,
)


@click.command()
@click.argument("merged", metavar="merged.onnx")
@models_argument
@adapter_option
@click.option("--strict", is_flag=True, help="Fail where an output's values can't tell two models apart.")
@click.option(
    "--isolation", is_flag=True, help="Feed NaN, infinities and other sizes to every model in turn."
)
@click.option(
    "--values",
    is_flag=True,
    help="For a file that another tool has changed since the merge (quantised, float16, optimised): compare "
    "values and isolation alone, not bytes and graph.",
)
@proof_options
@common_options
def verify(
    merged: str, models: tuple[str, ...], adapters: tuple[str, ...], as_json: bool, **given: Any
) -> int:
    """Prove a merged file against the models it was made of: bytes, values and graph.

    \b
    Example:
      netfuse-onnx verify merged.onnx a.onnx b.onnx
      netfuse-onnx verify merged.onnx a.onnx b.onnx --isolation --strict
      netfuse-onnx verify merged-float16.onnx a.onnx b.onnx --values
      netfuse-onnx verify merged.onnx base.onnx --adapter a.safetensors --adapter b.safetensors
    """
    paths, called = sources_of(models, adapters)
    options = {key: given[key] for key in ("strict", "isolation", "values")}
    return answer("verify", as_json, merged, paths, names=called, **options, **proof_arguments(given))
