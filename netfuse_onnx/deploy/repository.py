"""The folder of a repository: written beside its place, then exchanged with what stood there in one step.

`netfuse.json` in it lists its files. Triton looks at folders alone, so it does not see that file. A folder
without it, or with files that it does not list or that were edited, is somebody's own and never replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from netfuse_onnx import __version__
from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.bundle import digest_of
from netfuse_onnx.write import staging
from netfuse_onnx.write.placing import sync_folder

MANIFEST = "netfuse.json"
KEY = "netfuse_triton"
FORMAT = 1
OTHER = "Name a new folder."
DIGESTED = 1 << 20
"""The largest file in bytes whose content is compared; of larger ones it is the size."""
MADE_BY_PYTHON = "__pycache__"
_EXCHANGE, _AT_CWD = 2, -100


def write(out: str, fill: Callable[[str, str], Mapping[str, Any]]) -> None:
    """Write a repository to the folder `out`. `fill` gets the folder to write into and that of the repository
    which will be replaced ('' where there is none), and returns more keys of the manifest. Raises FileFault
    where `out` is no repository of ours, and for a disk that is full; then all is as it was."""
    target = staging.real(out)
    _check(out, target)
    stage = None
    try:
        stage = staging.Staging(target)
        fresh = os.path.join(stage.folder, "new")
        os.mkdir(fresh)
        facts = fill(fresh, target if os.path.lexists(os.path.join(target, MANIFEST)) else "")
        _write_manifest(fresh, facts)
        _check(out, target)  # it may have changed meanwhile
        _place(fresh, target)
        sync_folder(os.path.dirname(target))
    except OSError as error:
        raise staging.unwritable(out, error) from error
    finally:
        if stage is not None:
            stage.remove()


def read(folder: str) -> dict[str, Any]:
    """Return the manifest of a repository. Raises FileFault where it is none of ours."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            found = json.load(file)
        if found[KEY] != FORMAT or not isinstance(found["files"], dict):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFault(f"{folder} is no repository that netfuse-onnx wrote.", OTHER) from error
    return dict(found)


def _check(out: str, target: str) -> None:
    """Raise FileFault unless `out` can be written: it does not exist, is empty, or is ours and unchanged."""
    home = os.path.dirname(target)
    if not out or not os.path.isdir(home):
        raise FileFault(f"{out or chr(39) * 2} can't be written: {home} is no folder.", "Create it first.")
    if not os.path.lexists(target):
        return
    if not os.path.isdir(target):
        raise FileFault(f"{out} is no folder, and a repository is one.", OTHER)
    if not os.listdir(target):
        return
    files = read(target)["files"]
    for name, path in _files(target):
        if name not in files and name != MANIFEST:
            raise FileFault(f"{path} is no file of the export, and would be lost.", f"Move it, or: {OTHER}")
        if name != MANIFEST and _fact(path) != files[name]:
            raise FileFault(f"{path} was changed since the export, which would be lost.", f"Or: {OTHER}")


def _files(folder: str) -> Iterator[tuple[str, str]]:
    """Yield the name in the folder and the path of each file, and of each link, below a folder."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != MADE_BY_PYTHON)
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        for name in sorted([*files, *links]):
            path = os.path.join(where, name)
            yield os.path.relpath(path, folder).replace(os.sep, "/"), path


def _fact(path: str) -> str | int:
    """Return by which a file is known again: its SHA-256, or the size of a large one."""
    size = os.path.getsize(path)
    return size if size > DIGESTED else digest_of(path)


def _write_manifest(folder: str, facts: Mapping[str, Any]) -> None:
    files = {name: _fact(path) for name, path in _files(folder)}
    value = {KEY: FORMAT, "version": __version__, **facts, "files": files}
    with open(os.path.join(folder, MANIFEST), "x", encoding="ascii") as file:
        file.write(json.dumps(value, indent=1) + "\n")


def _place(fresh: str, target: str) -> None:
    """Put a folder in the place of another, which goes to where the new one was."""
    if not os.path.lexists(target):
        os.rename(fresh, target)
    elif not _exchanged(fresh, target):
        old = f"{fresh}.old"
        os.rename(target, old)
        try:
            os.rename(fresh, target)
        except BaseException:
            os.rename(old, target)
            raise


def _exchanged(one: str, other: str) -> bool:
    """Exchange two folders in one step; False where the system can't."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def put(source: str, target: str, *, link: bool) -> None:
    """Copy a file, or with `link` give it a second name where that can be done. Folders are made."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if link:
        with contextlib.suppress(OSError):
            os.link(os.path.realpath(source), target)
            return
    shutil.copyfile(source, target)
