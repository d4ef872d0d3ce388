"""The command check."""

from __future__ import annotations

import click

from netfuse_onnx.errors import FileFault

from .answering import answer
from .options import (
    adapter_option,
    at_least_two,
    common_options,
    models_argument,
    named_models,
    names_option,
    partial_option,
    simplify_option,
)


@click.command()
@models_argument
@adapter_option
@names_option
@partial_option
@simplify_option
@common_options
def check(
    models: tuple[str, ...],
    adapters: tuple[str, ...],
    names: str | None,
    partial: bool,
    simplify: bool,
    as_json: bool,
) -> int:
    """Tell if the models are one architecture, and if not which are, what differs, and where.

    \b
    Example:
      netfuse-onnx check a.onnx b.onnx
      netfuse-onnx check base.onnx --adapter a.safetensors --adapter b.safetensors
    """
    at_least_two(models, adapters)
    paths, called = named_models(models, names, adapters)
    try:
        return answer("check", as_json, paths, names=called, partial=partial, simplify=simplify)
    except FileFault as error:
        if not as_json:
            from .render_check import readable

            readable(error.report)
        raise
