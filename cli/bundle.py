"""The command bundle."""

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
@click.argument("folder", metavar="DIR")
@models_argument
@adapter_option
@proof_options
@common_options
def bundle(
    folder: str, models: tuple[str, ...], adapters: tuple[str, ...], as_json: bool, **given: Any
) -> int:
    """List and check a bundle, the folder that merge --views writes.

    All files must be those that were written, and each view must read the weights of its own model alone.
    With the models that were merged, each view is run against its source, and must give the same.

    \b
    Example:
      netfuse-onnx bundle served
      netfuse-onnx bundle served a.onnx b.onnx
      netfuse-onnx bundle served base.onnx --adapter a.safetensors --adapter b.safetensors
    """
    paths, called = sources_of(models, adapters) if models or adapters else ((), None)
    return answer("bundle", as_json, folder, paths, names=called, **proof_arguments(given))
