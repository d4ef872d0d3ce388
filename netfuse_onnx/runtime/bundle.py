"""Reads the manifest of a bundle: a folder with a merged file, its data, and a view of each of its sources.

A view is a graph of one source whose weights lie in the data of the merged file. The manifest,
`manifest.json`, is written last and in one step, so a folder is one whole bundle or another at every moment.
What the merged file says by itself (its names, how values cross its edge) is repeated here for readers that
open no model; `netfuse-onnx bundle` checks that both agree.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from netfuse_onnx import edges
from netfuse_onnx.errors import FileFault

MANIFEST = "manifest.json"
KEY = "netfuse_bundle"
"""The key of the manifest that has its format; no other program's manifest has it."""
FORMAT = 1
"""The format is raised when a reader of the old one would misread the new one. New keys do not raise it."""
MOST_BYTES = 1 << 28
"""The largest manifest that is read, in bytes."""
_ATTEMPTS = 10
AGAIN = "Merge again with --views, or name the folder of a bundle."
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a bundle: its size in bytes, and its SHA-256 in hex."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class View:
    """The graph of one source. `inputs` and `outputs` are its own names, in the order of the first model's.

    `exact` says that its outputs are those of the source bit for bit; else `note` says how they differ.
    `shared` and `again` are bytes of its weights: those that lie in the data of the merged file, and those
    that are stored once more, in the view itself or in the data file of the views.
    """

    model: str
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    exact: bool = True
    note: str = ""
    shared: int = 0
    again: int = 0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle, as its manifest has it. Files are named by their base names in `folder`.

    `io` is a word of edges.py, and `share` are the inputs that a merged call takes once. `rows` are the
    inputs whose first axis is the batch, and `batch` are the symbols of that axis: none where it is fixed at
    1, and `INPUT.POSITION` where it has no name. All names are those of the first model. `rows_apart` is True
    where each row of a batch is proven to be computed by itself, and `mixes` the reason where that is not
    known.
    """

    folder: str
    version: str
    merged: str
    io: str
    share: tuple[str, ...]
    views: tuple[View, ...]
    batch: tuple[str, ...]
    rows: tuple[str, ...]
    rows_apart: bool
    mixes: str
    files: Mapping[str, File]

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, in the order of the merge."""
        return tuple(view.model for view in self.views)

    @property
    def merged_path(self) -> str:
        """The path of the merged file."""
        return self.path(self.merged)

    @property
    def view_paths(self) -> tuple[str, ...]:
        """The paths of the views, in the order of the models."""
        return tuple(self.path(view.file) for view in self.views)

    def path(self, name: str) -> str:
        """Return the path of a file of the bundle."""
        return os.path.join(self.folder, name)


def is_bundle(path: str) -> bool:
    """Return True for a folder, which can only be a bundle, and False for the path of a model file."""
    return os.path.isdir(path)


def read(folder: str) -> Bundle:
    """Read the bundle in `folder`: its manifest, and that each of its files is there with the right size.

    The graphs, which are small, are compared by their SHA-256 as well. `netfuse-onnx bundle` does so with the
    weights. Raises FileFault, with one sentence, for a folder without a manifest, a manifest that is torn, of
    another program or in another format, and for a file that is missing or is another one.
    """
    found = parse(folder, manifest(folder))
    for name, file in found.files.items():
        path = found.path(name)
        if not os.path.isfile(path):
            raise FileFault(f"{path} is missing, which the manifest of the bundle names.", AGAIN)
        if (size := os.path.getsize(path)) != file.bytes:
            raise FileFault(f"{path} has {size} bytes, and its manifest says {file.bytes}.", AGAIN)
    for path in (found.merged_path, *found.view_paths):
        if digest_of(path) != found.files[os.path.basename(path)].sha256:
            raise FileFault(f"{path} is not the file that was written: its SHA-256 differs.", AGAIN)
    return found


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def opened(folder: str, use: Callable[[Bundle], Result]) -> Result:
    """Return what `use` makes of the bundle. Where it fails because another bundle took the place of this one
    meanwhile, the new one is read, and `use` is called again. Raises FileFault as `read`, and what `use`
    raises."""
    for attempt in range(_ATTEMPTS):
        before = _stamp(folder)
        try:
            return use(read(folder))
        except Exception:
            if attempt == _ATTEMPTS - 1 or _stamp(folder) == before:
                raise
    raise AssertionError("the last attempt returns or raises")


def _stamp(folder: str) -> tuple[int, int, int]:
    """Return what differs between two manifests in a folder, also of one content; zeros where there is
    none."""
    try:
        status = os.stat(os.path.join(folder, MANIFEST))
    except OSError:
        return 0, 0, 0
    return status.st_dev, status.st_ino, status.st_mtime_ns


def manifest(folder: str) -> bytes:
    """Return the bytes of a folder's manifest. Raises FileFault where there is none to read."""
    path = os.path.join(folder, MANIFEST)
    try:
        if os.path.isdir(folder) and not os.path.lexists(path):
            raise FileFault(f"{folder} is no bundle: it has no {MANIFEST}.", AGAIN)
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "does not exist, or is no folder" if missing else f"can't be read: {error}"
        raise FileFault(f"{folder if missing else path} {reason}.", AGAIN) from error
    if len(text) > MOST_BYTES:
        raise FileFault(f"{path} is no manifest of a bundle: it has more than {MOST_BYTES} bytes.", AGAIN)
    return text


def value(folder: str, text: bytes) -> dict[str, Any]:
    """Return the JSON value of a manifest of this format, whose other keys are not checked. Raises FileFault
    for any other text."""
    path = os.path.join(folder, MANIFEST)
    try:
        found = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileFault(f"{path} is damaged: it is not whole JSON.", AGAIN) from error
    if not isinstance(found, dict) or KEY not in found:
        raise FileFault(f"{path} is the manifest of something else: it has no {KEY!r}.", AGAIN)
    if found[KEY] != FORMAT or isinstance(found[KEY], bool):
        version = str(found.get("version"))[:40]
        raise FileFault(
            f"{path} was written by netfuse-onnx {version}, in format {str(found[KEY])[:20]}; this version "
            f"reads format {FORMAT}.",
            "Use the version that wrote it, or merge again with --views.",
        )
    return found


def parse(folder: str, text: bytes) -> Bundle:
    """Return the bundle that a manifest describes; its files are not looked at. Raises FileFault."""
    found = value(folder, text)
    try:
        return _bundle(folder, found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        key = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise FileFault(f"{os.path.join(folder, MANIFEST)} is damaged: it {key}.", AGAIN) from error


# --------------------------------------------------------------------------- the checks of single keys


def _bundle(folder: str, found: dict[str, Any]) -> Bundle:
    files = {_name(name): _file(entry) for name, entry in _mapping(found, "files").items()}
    views = tuple(_view(entry) for entry in _list(found, "models"))
    apart = found["rows_apart"]
    bundle = Bundle(
        folder=folder,
        version=_text(found, "version"),
        merged=_name(_text(found, "merged")),
        io=_text(found, "io"),
        share=_names(found, "share"),
        views=views,
        batch=_names(found, "batch"),
        rows=_names(found, "rows"),
        rows_apart=apart is True,
        mixes="" if apart is True else _reason(apart),
        files=files,
    )
    if bundle.io not in edges.MODES:
        raise ValueError(f"has inputs and outputs of an unknown form, {bundle.io[:40]!r}")
    if not views or len(set(bundle.models)) < len(views):
        raise ValueError("names no model, or one of them twice")
    for name in (bundle.merged, *(view.file for view in views)):
        if name not in files:
            raise ValueError(f"does not list its file {name!r}")
    if len({len(view.inputs) for view in views}) > 1 or not {*bundle.share, *bundle.rows} <= {
        *views[0].inputs
    }:
        raise ValueError("has models with other inputs than the first one")
    return bundle


def _view(entry: Any) -> View:
    if not isinstance(entry, dict):
        raise ValueError("has a model that is no object")
    if not isinstance(exact := entry["exact"], bool):
        raise ValueError("has a view that is neither exact nor not")
    return View(
        _text(entry, "name"), _name(_text(entry, "view")), _names(entry, "inputs"), _names(entry, "outputs"),
        exact, _text(entry, "note"), _size(entry, "shared"), _size(entry, "again"),
    )  # fmt: skip


def _file(entry: Any) -> File:
    if not isinstance(entry, dict):
        raise ValueError("has a file that is no object")
    digest = _text(entry, "sha256")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError("has a file without a SHA-256")
    return File(_size(entry, "bytes"), digest)


def _name(name: str) -> str:
    """Return the name of a file in the folder itself: a manifest can't name what lies elsewhere."""
    odd = "/" in name or "\\" in name or not name.isprintable() or len(name) > 255
    if odd or name in ("", ".", "..", MANIFEST) or name.startswith("."):
        raise ValueError(f"names a file {name[:80]!r}, which is no plain name")
    return name


def _mapping(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(entry := found[key], dict):
        raise ValueError(f"has a {key!r} that is no object")
    return entry


def _list(found: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(entry := found[key], list):
        raise ValueError(f"has a {key!r} that is no list")
    return entry


def _names(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = tuple(_list(found, key))
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"has a {key!r} that is no list of different names")
    return names


def _text(found: Mapping[str, Any], key: str) -> str:
    if not isinstance(entry := found[key], str):
        raise ValueError(f"has a {key!r} that is no text")
    return entry


def _size(found: Mapping[str, Any], key: str) -> int:
    entry = found[key]
    if isinstance(entry, bool) or not isinstance(entry, int) or entry < 0:
        raise ValueError(f"has {key!r} that are no number of bytes")
    return entry


def _reason(apart: Any) -> str:
    if not isinstance(apart, str) or not apart:
        raise ValueError("says neither that rows are apart nor why not")
    return apart
