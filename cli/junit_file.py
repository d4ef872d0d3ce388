"""Writes the JUnit file of a proof, however the proof ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from netfuse_onnx.errors import FileFault, InternalError, NetfuseError

Keep = Callable[[Any], None]
"""Takes the report of the proof, before it is printed."""
OURS = b"<testsuite"
"""The element with which a JUnit file begins."""
_BEGIN = 4096


@contextlib.contextmanager
def kept(path: str | None, merged: str, paths: Sequence[str]) -> Iterator[Keep]:
    """Write the report that is given, or the error that is raised in its place, to `path`; None writes
    nothing. Raises FileFault before any work where the file can't be written."""
    if path is None:
        yield lambda report: None
        return
    refuse_others(path, merged, paths)
    began = time.monotonic()

    def keep(outcome: Any) -> None:
        _write(path, outcome, merged, time.monotonic() - began)

    try:
        yield keep
    except NetfuseError as error:
        _write_fault(keep, error)
        raise
    except Exception as error:  # a bug, which is told as one
        _write_fault(keep, InternalError(f"{type(error).__name__}: {error}"))
        raise


def refuse_others(path: str, merged: str, paths: Sequence[str]) -> None:
    """Raise FileFault where `path` is a model, or some other file that is no JUnit XML: `--junit merged.onnx`
    without a file of its own must not replace it."""
    from netfuse_onnx import sources, text_files

    text_files.refuse_folder(path)
    own = any(os.path.exists(one) and _same(one, path) for one in (merged, *sources.files(paths)))
    if own or path.lower().endswith(".onnx"):
        raise FileFault(f"{path} is a model, not a file for JUnit XML.", "Write --junit FILE.xml.")
    if os.path.lexists(path) and not _is_ours(path):
        raise FileFault(f"{path} is there, and is no JUnit XML.", "Give another file, or remove it.")


def _same(one: str, two: str) -> bool:
    return os.path.exists(two) and os.path.samefile(one, two)


def _is_ours(path: str) -> bool:
    """Return True for a file of JUnit XML, and for an empty one."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            begin = file.read(_BEGIN)
    except OSError as error:
        raise FileFault(f"{path} can't be read: {error.strerror}.", "Give another file.") from error
    return not begin or OURS in begin


def _write(path: str, outcome: Any, merged: str, seconds: float) -> None:
    from netfuse_onnx import text_files
    from netfuse_onnx.write import metadata

    from . import junit

    head = junit.Head(merged, seconds=seconds)
    with contextlib.suppress(FileFault):  # the error that is written says so
        about = metadata.read(merged)
        digests = dict(zip(about.models, about.sha256, strict=True))
        head = junit.Head(merged, about.version, digests, seconds)
    text_files.write(path, junit.document(outcome, head))


def _write_fault(keep: Keep, error: NetfuseError) -> None:
    """Write an error. Where that fails, too, the exit code stays that of the error itself."""
    try:
        keep(error)
    except FileFault as fault:
        click.echo(f"netfuse-onnx: warning: {fault.message}", err=True)
