"""The command hook: what the pre-commit hook netfuse-onnx-check runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence

import click

from netfuse_onnx.errors import FileFault, NetfuseError, UsageFault

from .options import partial_option
from .text import printable

MODEL = ".onnx"


@click.command()
@click.argument("files", nargs=-1, metavar="[CHANGED.onnx ...]")
@click.option(
    "--family",
    "families",
    multiple=True,
    metavar="GLOB",
    help="The models of one family, as 'models/*.onnx'; repeatable. Default: each folder is a family.",
)
@partial_option
@click.option("--debug", is_flag=True, expose_value=False, help="On an error, print the traceback.")
def hook(files: tuple[str, ...], families: tuple[str, ...], partial: bool) -> int:
    """Check each family of models in a git repository of which a file has changed; for pre-commit.

    A family is all models of a folder that git tracks, but for merged ones. Without files, all are checked.

    \b
    Example:
      netfuse-onnx hook models/a.onnx
      netfuse-onnx hook --family 'models/*.onnx' --family 'heads/*/model.onnx'
    """
    code = 0
    for name, paths in _groups(files, families):
        models = [path for path in paths if not _is_merged(path)]
        if len(models) > 1:
            click.echo(printable(f"{name}: {len(models)} models"), err=True)
            code = max(code, _check(models, partial))
    return code


def _groups(files: Sequence[str], families: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each family that has one of the files, with all of its models. Without files, yield them all."""
    changed = {os.path.normpath(file) for file in files}
    if families:
        every = {glob: _tracked(f":(glob){glob}") for glob in families}
    else:
        every = {}
        for path in _tracked(f":(glob)**/*{MODEL}"):
            every.setdefault(os.path.dirname(path) or os.curdir, []).append(path)
    for name, paths in every.items():
        if not changed or changed.intersection(paths):
            yield name, paths


def _tracked(pattern: str) -> list[str]:
    """Return the files of a pattern that git tracks and that exist. Raises UsageFault where git fails."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--", pattern], capture_output=True, check=False
        )
    except OSError as error:
        raise UsageFault(f"git can't be run: {error}.", "Install git.") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageFault(
            f"git finds no files: {said[-1] if said else 'no reason given'}.", "Run it in a repository."
        )
    names = sorted(map(os.fsdecode, filter(None, done.stdout.split(b"\0"))))
    return [os.path.normpath(name) for name in names if os.path.exists(name)]


def _is_merged(path: str) -> bool:
    """Return True for a file that netfuse-onnx wrote. One that can't be read is none: the check says so."""
    from netfuse_onnx.storage import wire
    from netfuse_onnx.write import metadata

    try:
        return any(entry.key == metadata.KEY for entry in wire.scan(path).model.metadata_props)
    except FileFault:
        return False


def _check(models: list[str], partial: bool) -> int:
    """Check one family and print the answer. An error is printed, too: the other families are still to
    come."""
    from netfuse_onnx import api

    from . import render

    try:
        return render.answer(api.check(models, partial=partial), as_json=False)
    except NetfuseError as error:
        click.echo(f"netfuse-onnx: error: {printable(error.message)}", err=True)
        click.echo(f"  {printable(error.hint)}", err=True)
        return error.exit_code
