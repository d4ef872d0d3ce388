"""The command export triton."""

from __future__ import annotations

import click

from .options import common_options


@click.command()
@click.argument("served", metavar="BUNDLE|merged.onnx")
@click.option("-o", "--out", required=True, metavar="DIR", help="The model repository to write.")
@common_options
def triton(served: str, out: str, as_json: bool) -> int:
    """Write a model repository for NVIDIA Triton: the family, and an endpoint for each of its models.

    \b
    Example:
      netfuse-onnx export triton served -o repository
    """
    raise NotImplementedError
