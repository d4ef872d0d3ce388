"""The verbs update, add and remove."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Unpack

from netfuse_onnx.lifecycle import places
from netfuse_onnx.lifecycle.changing import change
from netfuse_onnx.names import completed
from netfuse_onnx.options import Proof
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.report import MergeReport


def update(
    merged: str,
    files: Mapping[str, str],
    *,
    out: str | None = None,
    verify: bool = True,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> MergeReport:
    """Replace models of a merged file by new files, given by the models' names, and prove the result.

    No other source is needed. The file is replaced in one step, or `out` is written. Raises NotEquivalent for
    a file of another architecture, UsageFault for an unknown name, FileFault where the merged file does not
    hold its models, and the errors of merge; in these cases the merged file is as it was.
    """
    choose = functools.partial(places.updated, merged, files=files)
    return change(merged, choose, out=out, verify=verify, progress=progress, proof=proof)


def add(
    merged: str,
    paths: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    out: str | None = None,
    verify: bool = True,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> MergeReport:
    """Add models to a merged file, behind those that it holds. As `update`."""
    own = completed(paths, [""] * len(paths) if names is None else names)
    choose = functools.partial(places.added, merged, paths=paths, given=own)
    return change(merged, choose, out=out, verify=verify, progress=progress, proof=proof)


def remove(
    merged: str,
    names: Sequence[str],
    *,
    out: str | None = None,
    verify: bool = True,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> MergeReport:
    """Remove models from a merged file, which keeps two or more. As `update`."""
    choose = functools.partial(places.removed, merged, gone=names)
    return change(merged, choose, out=out, verify=verify, progress=progress, proof=proof)
