"""The command split."""

from __future__ import annotations

import click

from .answering import answer
from .options import common_options


@click.command()
@click.argument("merged", metavar="merged.onnx")
@click.option("-o", "--output", "folder", required=True, metavar="DIR", help="Folder for the models.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model. Repeatable.")
@click.option("--force", is_flag=True, help="Replace files that are there already.")
@common_options
def split(merged: str, folder: str, models: tuple[str, ...], force: bool, as_json: bool) -> int:
    """Write each model that was merged to a folder, from the merged file alone.

    A model comes back as the file that was merged, byte for byte, which its SHA-256 proves. Where that can't
    be, the answer says in what it differs. A folder of merge --views may stand in the place of the file.

    \b
    Example:
      netfuse-onnx split merged.onnx -o models
      netfuse-onnx split merged.onnx -o models --model b
    """
    return answer("split", as_json, merged, folder, models=models, force=force)
