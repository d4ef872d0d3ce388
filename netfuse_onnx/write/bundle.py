"""The folder of a bundle: which folders may become one, its manifest, and the step from one to the next.

All files but the manifest are named by their content, so those of a new bundle can stand beside those of the
old one. They come first; then one rename puts the new manifest in the place of the old one, which is the step
from the old bundle to the new. The files of the old one stay until the next merge, because a session that has
it open opens views when they are first asked for. Those of bundles before it are removed last, and what a
killed run has left. Nothing else in the folder is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime import bundle as reader
from netfuse_onnx.write import lock, placing, staging

MODEL = "merged.onnx"
"""The merged file, before it has a name by its content; its data file is marked with this name."""
_BY_SHA256 = re.compile(r"(?:merged|views|view-[0-9]+)-([0-9a-f]{16})\.(?:onnx|data)")
_DATA = re.compile(r"merged-[0-9a-f]{8}\.data")
_HIDDEN = ".netfuse-onnx-"
OTHER = "Name a new folder, or one that holds a bundle alone."


def check_folder(out: str, read: Iterable[str]) -> None:
    """Raise FileFault unless a bundle can be written to the folder `out`: it does not exist yet, or is empty,
    or holds a bundle, to which none of the files in `read` belongs."""
    path = os.path.realpath(out)
    home = path if os.path.isdir(path) else os.path.dirname(path)
    if not out or (os.path.lexists(out) and not os.path.isdir(path)):
        raise FileFault(f"{out or chr(39) * 2} is no folder, and a bundle is one.", OTHER)
    if not os.path.isdir(home):
        raise FileFault(f"{out} can't be written: {home} does not exist.", "Create it, or name another one.")
    if not os.access(home, os.W_OK | os.X_OK):
        raise FileFault(f"{home} may not be written to.", "Check its permissions, or name another folder.")
    if home != path:
        return
    if os.path.lexists(os.path.join(path, reader.MANIFEST)):
        reader.value(out, reader.manifest(out))  # another program's manifest, or that of a later version
    elif strangers := sorted(name for name in os.listdir(path) if not _is_ours(name)):
        raise FileFault(f"{out} is no bundle, and holds files: {strangers[0]}, for one.", OTHER)
    for source in read:
        if os.path.realpath(os.path.dirname(source)) == path and _is_ours(os.path.basename(source)):
            raise FileFault(f"{source} is one of the models' own files, and part of the bundle {out}.", OTHER)


def model_path(out: str) -> str:
    """Return the path that the merged file has while the bundle in the folder `out` is written."""
    return os.path.join(os.path.realpath(out), MODEL)


@contextlib.contextmanager
def folder(out: str) -> Iterator[None]:
    """Make the folder `out` where there is none, and remove it where it is empty at the end. FileFault where
    it can't be made."""
    made = False
    try:
        if not os.path.isdir(out):
            os.mkdir(out)
            made = True
    except OSError as error:
        raise FileFault(f"{out} can't be made: {error.strerror}.", OTHER) from error
    try:
        yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                os.rmdir(out)


def named(home: str, name: str) -> str:
    """Give a file in the folder `home` a name by its content, and return it."""
    stem, ending = os.path.splitext(name)
    final = f"{stem}-{reader.digest_of(os.path.join(home, name))[:16]}{ending}"
    os.rename(os.path.join(home, name), os.path.join(home, final))
    return final


def write_manifest(home: str, value: Mapping[str, Any]) -> None:
    """Write the manifest into the folder `home`: a line for each key, in order."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(entry, sort_keys=True, separators=(',', ':'))}"
        for key, entry in value.items()
    )
    with open(os.path.join(home, reader.MANIFEST), "x", encoding="ascii") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
        file.flush()
        os.fsync(file.fileno())


def put(source: staging.Staging, names: Sequence[str], check: Callable[[], None] = lambda: None) -> None:
    """Unless `check` raises, move the files `names` from a staging folder into its home, then the manifest,
    and remove what is left of earlier bundles. OSError when that fails, FileFault where a file of somebody
    else has one of the names; then the old bundle still stands."""
    placing.sync_folder(source.folder)
    with lock.exclusive(source.lock_file) as alone:
        check()
        listed = _listed(source.home)
        for name in names:
            _refuse_other(source, name, listed)
        fresh = [name for name in names if not os.path.lexists(os.path.join(source.home, name))]
        try:
            for name in names:
                os.replace(os.path.join(source.folder, name), os.path.join(source.home, name))
            placing.sync_folder(source.home)
            manifest = os.path.join(source.home, reader.MANIFEST)
            os.replace(os.path.join(source.folder, reader.MANIFEST), manifest)
        except BaseException:
            if os.path.lexists(os.path.join(source.folder, reader.MANIFEST)):
                _remove(source.home, fresh)
            raise
        placing.sync_folder(source.home)
        if alone:  # else another merge may be placing its files
            _remove(source.home, _left(source, listed.union(names)))


def _refuse_other(source: staging.Staging, name: str, listed: set[str]) -> None:
    """Raise FileFault for a file in the folder that has the name of a new one, and another content."""
    there = os.path.join(source.home, name)
    if not os.path.lexists(there) or name in listed:
        return
    same = os.path.isfile(there) and reader.digest_of(there) == reader.digest_of(
        os.path.join(source.folder, name)
    )
    if not same:
        raise FileFault(f"{there} is no file of the bundle, and would be overwritten.", "Move it away.")


def _listed(home: str) -> set[str]:
    """Return the files of the bundle in a folder that have the names of ours; none where there is no bundle.
    A manifest from elsewhere may list any file."""
    try:
        files = reader.value(home, reader.manifest(home)).get("files")
    except FileFault:
        return set()
    return {name for name in files if _is_ours(name)} if isinstance(files, dict) else set()


def _left(source: staging.Staging, names: set[str]) -> set[str]:
    """Return the files of earlier bundles, those of a killed run too: their names are their content's, so
    they were written by this program."""
    paths = {name: os.path.join(source.home, name) for name in set(os.listdir(source.home)) - names}
    files = {name: path for name, path in paths.items() if os.path.isfile(path) and not os.path.islink(path)}
    return {name for name, path in files.items() if _was_written(path)}


def _was_written(path: str) -> bool:
    name = os.path.basename(path)
    if match := _BY_SHA256.fullmatch(name):
        return reader.digest_of(path).startswith(match[1])
    if _DATA.fullmatch(name):
        mark = placing.mark(MODEL)
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - len(mark)))
            return file.read() == mark
    return False


def _remove(home: str, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(home, name))


def _is_ours(name: str) -> bool:
    """Return True for the names that this program gives to files of a bundle, and to those beside them."""
    return bool(_BY_SHA256.fullmatch(name) or _DATA.fullmatch(name)) or name.startswith(_HIDDEN)
