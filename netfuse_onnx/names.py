"""The names of the models: those that are given as NAME=PATH, else the part in which the paths differ.

`tenant-a/model.onnx` and `tenant-b/model.onnx` are `tenant-a` and `tenant-b`. Names are unique, not empty and
without a slash, and depend on the paths alone.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence

from netfuse_onnx.errors import UsageFault

FALLBACK = "model"
VERSION = re.compile(r"v?\d+(?:[._-]\d+)*", re.IGNORECASE)
"""A folder called like this is a version: other folders make better names."""


def given(arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split arguments of the form PATH or NAME=PATH into the paths and the names; '' where none is given.

    An argument that exists as a file is a path, whatever it holds, and so is one whose first = comes after a
    slash.
    """
    pairs = [_given(argument) for argument in arguments]
    return tuple(path for path, _ in pairs), tuple(name for _, name in pairs)


def _given(argument: str) -> tuple[str, str]:
    name, mark, path = argument.partition("=")
    is_named = mark and name and path and not _separators(name) and not os.path.exists(argument)
    return (path, name) if is_named else (argument, "")


def from_command_line(
    arguments: Sequence[str], names: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the paths of the models and their names; None where all names are to be derived from the paths.
    Raises UsageFault where names are given in both ways."""
    paths, own = given(arguments)
    if not any(own):
        return paths, None if names is None else tuple(names)
    if names is not None:
        first = next(one for one, name in zip(arguments, own, strict=True) if name)
        raise UsageFault(
            f"Names are given by --names and by {first}.",
            "Give them in one of the two ways. If this is the path of a file, it does not exist.",
        )
    return paths, completed(paths, own)


def all_or_none(arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return the paths of a merged file's sources and their names; None where no argument is NAME=PATH.
    Raises UsageFault where some are and others are not: neither the order nor the names would tell."""
    paths, own = given(arguments)
    if not any(own):
        return paths, None
    if not all(own):
        raise UsageFault(
            f"{paths[own.index('')]} has no name, others have one.",
            "Give NAME=PATH for every model, in any order, or for none, in the order of the merge.",
        )
    return paths, own


def completed(paths: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Return the names in `own`, with names from the paths in place of those that are empty."""
    rest = [path for path, name in zip(paths, own, strict=True) if not name]
    derived = iter(_numbered(_parts(rest), taken=filter(None, own)))
    return tuple(name or next(derived) for name in own)


def from_paths(paths: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each path: the stems of the files where different files have different stems, else
    the part of the paths that tells the files apart. The same path again gets -2, -3."""
    return completed(paths, [""] * len(paths))


def models_in_order(
    paths: Sequence[str], names: Sequence[str], models: Sequence[str], merged: str
) -> tuple[str, ...]:
    """Return the paths in the order of the merged file's `models`, whatever the order in which they are
    given. Raises UsageFault where the names are not those of the models."""
    if len(names) != len(paths):
        raise UsageFault(f"{len(names)} names for {len(paths)} models.", "Give one name per model, in order.")
    holds = f"It holds: {', '.join(models)}."
    for name in names:
        if name not in models:
            raise UsageFault(f"{merged} holds no model {name!r}.", holds)
        if list(names).count(name) > 1:
            raise UsageFault(f"Two models are called {name!r}.", "Give every model once.")
    for model in models:
        if model not in names:
            raise UsageFault(f"The model {model!r} of {merged} is not given.", holds)
    return tuple(paths[names.index(model)] for model in models)


# --------------------------------------------------------------------------- from paths


def _parts(paths: Sequence[str]) -> list[str]:
    """The part of each path that its name is made of."""
    split = {path: _split(path) for path in paths}
    distinct = list(dict.fromkeys(split.values()))
    chosen = dict(zip(distinct, _labels(distinct), strict=True))
    return [chosen[split[path]] for path in paths]


def _split(path: str) -> tuple[str, ...]:
    """The stem of the file, then the folders from the innermost to the outermost."""
    folder, file = os.path.split(os.path.normpath(path))
    folders = [part for part in folder.split(os.sep) if part not in ("", os.curdir, os.pardir)]
    return ("" if file == os.curdir else os.path.splitext(file)[0], *reversed(folders))


def _labels(files: Sequence[tuple[str, ...]]) -> list[str]:
    """Labels of different files: the part that tells all of them apart and is nearest to the file, but
    versions only where nothing else does; else all parts that differ."""
    outermost = zip(*(file[:0:-1] for file in files), strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda folders: len(set(folders)) == 1, outermost))
    columns = list(itertools.zip_longest(*(file[: len(file) - common] for file in files), fillvalue=""))
    if not columns or len(set(columns[0])) == len(files):
        return [file[0] for file in files]
    telling = [column for column in columns if "" not in column and len(set(column)) == len(files)]
    named = [column for column in telling if not all(map(VERSION.fullmatch, column))]
    differing = [column for column in columns if len(set(column)) > 1]
    if named or (telling and len(differing) == 1):
        return list((named or telling)[0])
    rows = zip(*reversed(differing), strict=True)
    return ["-".join(filter(None, row)) or file[0] for row, file in zip(rows, files, strict=True)]


def _numbered(labels: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Valid names: the labels, and -2, -3 where they clash."""
    names, used = list[str](), set(taken)
    for label in labels:
        valid = _valid(label)
        name = valid
        for count in itertools.count(2):
            if name not in used:
                break
            name = f"{valid}-{count}"
        used.add(name)
        names.append(name)
    return names


def _valid(label: str) -> str:
    """The label with what names can't hold replaced. A file name need not be UTF-8, ONNX names are."""
    return os.fsencode(label).decode(errors="replace").replace("/", "_") or FALLBACK


def _separators(text: str) -> bool:
    return os.sep in text or bool(os.altsep and os.altsep in text)
