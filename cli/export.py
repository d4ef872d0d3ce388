"""The command export: a group with a command for each engine."""

from __future__ import annotations

import click

from .export_ray import ray
from .export_triton import triton


@click.group()
def export() -> None:
    """Write what another server loads to serve a family.

    \b
    Example:
      netfuse-onnx export triton served -o repository
      netfuse-onnx export ray served -o app.py
    """


export.add_command(ray)
export.add_command(triton)
