"""Writes an app of Ray Serve that serves the families of bundles. The text is short: what it does stands in
netfuse_onnx/server/ray_family.py and ray_router.py, and what users may want to change stands in it."""

from __future__ import annotations

import keyword
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx import __version__, names, text_files
from netfuse_onnx.deploy.ray_template import TEMPLATE
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.report import Report
from netfuse_onnx.runtime import bundle as bundles
from netfuse_onnx.server.directory import places

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""A name of a family, which is that of its deployment and a part of addresses."""
MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.py")
HIDING = frozenset(f"{name}.py" for name in (*sys.stdlib_module_names, "ray", "netfuse_onnx", "numpy"))
"""Files in whose folder the app would find itself in place of what it, or Ray, imports."""
TAKEN = ("router", "bundles")
"""Names that the app uses itself: of the deployment in front, and of the argument that names the folder."""


@dataclass(frozen=True, slots=True)
class RayFamily:
    """A family in the app: its bundle, as the app names it below its folder, and its models by the names that
    clients use."""

    name: str
    bundle: str
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RayReport(Report):
    """The app that was written. `folder` is where it looks for bundles, seen from its own folder."""

    out: str
    folder: str
    families: tuple[RayFamily, ...]
    warnings: tuple[str, ...] = ()


def ray(bundle_paths: Sequence[str], out: str, *, force: bool = False) -> RayReport:
    """Write the app to `out`, which must be a new file; with `force` it may replace another one.

    `bundle_paths` are BUNDLE or NAME=BUNDLE. Those that are absolute stay so in the app; others are found
    from the app's folder. Raises UsageFault and FileFault, and then nothing is written.
    """
    file = os.path.basename(out)
    if not MODULE.fullmatch(file) or keyword.iskeyword(file.removesuffix(".py")):
        raise UsageFault(f"{out} is no name of a Python module.", "Name it like app.py.")
    if file in HIDING:
        raise UsageFault(f"{out} would hide the module that the app imports by this name.", "Use app.py.")
    paths, own = names.given(bundle_paths)
    families = names.completed(paths, own)
    _refuse_names(families)
    found = [_bundle(path) for path in paths]
    home = os.path.dirname(os.path.abspath(out))
    folder, listed = located(paths, home)
    _, short = places({name: bundle.models for name, bundle in zip(families, found, strict=True)})
    asked = iter(short)
    report = RayReport(out, folder, tuple(
        RayFamily(name, path, tuple(next(asked) for _ in bundle.models))
        for name, path, bundle in zip(families, listed, found, strict=True)
    ))  # fmt: skip
    _write(out, text(report), force)
    return report


def located(paths: Sequence[str], home: str) -> tuple[str, list[str]]:
    """Return the folder that holds the bundles, seen from the folder `home` of the app, and their paths in
    it. What is given as absolute stays so."""
    relative = [os.path.abspath(path) for path in paths if not os.path.isabs(path)]
    base = os.path.commonpath([os.path.dirname(path) for path in relative]) if relative else home
    listed = [path if os.path.isabs(path) else os.path.relpath(path, base) for path in paths]
    return os.path.relpath(base, home), listed


def text(report: RayReport) -> str:
    """Return the text of the app. It compiles, whatever the names in it."""
    rows = "".join(f"    {_quoted(one.name)}: {_quoted(one.bundle)},\n" for one in report.families)
    module = os.path.splitext(os.path.basename(report.out))[0]
    folder = "" if report.folder == "." else f" / {_quoted(report.folder)}"
    models = sum(len(one.models) for one in report.families)
    first = report.families[0]
    done = TEMPLATE.format(
        version=__version__, module=module, rows=rows, folder=folder, family=first.name,
        count=f"{models} models of {len(report.families)} families"
        if len(report.families) > 1 else f"the {models} models of a family",
    )  # fmt: skip
    compile(done, report.out, "exec", dont_inherit=True)
    return done


def _quoted(value: str) -> str:
    """Return a string of Python's, in double quotes as formatters want it."""
    plain = repr(value)
    return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in plain else plain


def _bundle(path: str) -> bundles.Bundle:
    if os.path.isfile(path):
        raise UsageFault(
            f"{path} is a file, and each replica opens a bundle.",
            "Write one with netfuse-onnx merge --views.",
        )
    return bundles.read(path)


def _refuse_names(families: Sequence[str]) -> None:
    for name in families:
        if not NAME.fullmatch(name) or name in TAKEN:
            raise UsageFault(
                f"A family can't be named {name!r} in Ray Serve.", "Give it another name: NAME=BUNDLE."
            )
        if families.count(name) > 1:
            raise UsageFault(f"Two families are named {name!r}.", "Give other names: NAME=BUNDLE.")


def _write(out: str, text: str, force: bool) -> None:
    """Write the file in one step. Raises FileFault, and leaves what is there as it is."""
    there = _text_of(out)
    if there == text:
        return
    if there is not None and not force:
        raise FileFault(
            f"{out} is there already, and may hold changes of yours.", "Use --force, or another -o."
        )
    text_files.write(out, text)


def _text_of(path: str) -> str | None:
    """Return the text of a file; None where there is none. What is no text is another one than ours."""
    if not os.path.lexists(path):
        return None
    if not os.path.isfile(path):
        raise FileFault(f"{path} is there already, and is no file.", "Give another -o.")
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            return file.read()
    except OSError as error:
        raise FileFault(f"{path} can't be read: {error}.", "Give another -o.") from error
