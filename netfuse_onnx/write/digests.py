"""SHA-256 of the sources, on a thread of its own while the weights are copied: the pages that one of the
two reads are still in memory for the other, and hashlib releases the interpreter lock.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from netfuse_onnx.errors import FileFault
from netfuse_onnx.original import Piece
from netfuse_onnx.storage import external, steady
from netfuse_onnx.storage.elements import Files
from netfuse_onnx.types import Extent, Source

JOINED = "+"
"""The sign between the digest of a base and that of an adapter."""
_BLOCK = 1 << 18  # bytes: stays in the second-level cache between the read and the hash

Stamps = Mapping[str, steady.Stamp | None]


class Digests:
    """Computes the digests of a family, from the moment of construction.

    A source of one file has that file's SHA-256. One with external data has the SHA-256 of the digests of its
    files, the model first, one a line; names don't count. An adapter with its base has two digests, that of
    the base and that of the adapter's files. A source that a merged file gives back has the digest recorded
    there. It is a context manager, which stops unfinished work at its end.
    """

    def __init__(
        self, sources: Sequence[Source], others: Stamps | None = None, *, checked: bool = False
    ) -> None:
        """`others` are other files that must not change, with the stamps that they had when they were read.
        With `checked`, models that a merged file gives back are hashed and compared with what it records."""
        self._sources, self._checked = sources, checked
        self._files: dict[str, str] = {}
        self._fault: BaseException | None = None
        paths = (os.path.abspath(file) for source in sources for file in source.files)
        self._stamps = {**{path: steady.stamp(path) for path in paths}, **(others or {})}
        read = (os.path.abspath(file) for source in sources if not source.original for file in source.files)
        self._unknown = tuple(dict.fromkeys(read))
        self._replaced: set[str] = set()  # before they were hashed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
        self._thread.start()

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def result(self) -> tuple[str, ...]:
        """Waits for one digest per source, in hex. FileFault when a file can't be read."""
        return tuple(self._of(source, self.files()) for source in self._sources)

    @staticmethod
    def _of(source: Source, files: Mapping[str, str]) -> str:
        if source.original:
            return source.original.digest
        own = [files[os.path.abspath(path)] for path in source.files]
        count = len(source.adapted.files) if source.adapted else 0
        return JOINED.join(
            _joined(part) for part in (own[: len(own) - count], own[len(own) - count :]) if part
        )

    def files(self) -> Mapping[str, str]:
        """Waits for the digest of every file that is hashed, by absolute path. FileFault as above."""
        self._thread.join()
        if self._fault is not None:
            raise self._fault
        return self._files

    def confirm(self) -> None:
        """Waits; raises FileFault when a file of a source is no longer what it was at construction. Where
        only its stamp differs, which some network file systems change by themselves, it is hashed again."""
        files = self.files()
        for path, stamp in self._stamps.items():
            changed = path in self._replaced or steady.stamp(path) != stamp
            if changed and (path not in files or path in self._replaced or of_files([path]) != files[path]):
                raise FileFault(f"{path} was replaced or changed while it was merged.", "Run it again.")

    def lent(self) -> Digests:
        """Returns the same digests for one of several writes: its failure does not stop the work."""
        return _Lent(self)

    def cancel(self) -> None:
        """Stops the work, and returns when it has stopped."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            digests: dict[tuple[int, int], str] = {}  # one source given twice is read once
            for path in self._unknown:
                stamp, status = self._stamps[path], os.stat(path)
                key = (status.st_dev, status.st_ino)
                if key not in digests:
                    digests[key] = _hash(path, self._stop)
                self._files[path] = digests[key]
                if steady.stamp(path) != stamp:
                    self._replaced.add(path)
            for source in self._sources if self._checked else ():
                self._check(source)
        except OSError as error:
            self._fault = external.unreadable(path, error)
        except BaseException as error:  # raised again by the thread that asks for the result
            self._fault = error

    def _check(self, source: Source) -> None:
        """Raises FileFault where a merged file gives back another model than was merged. One whose file does
        not come back byte for byte can't be compared."""
        original = source.original
        if original is None or original.note:
            return
        with Files() as files:
            held = [_hash_pieces(file.pieces, files, self._stop) for file in original.files]
        if _joined(held) != original.digest:
            raise FileFault(
                f"{source.path} is no longer the model that was merged: its SHA-256 differs.",
                "A tool has changed the merged file: give the one that netfuse-onnx wrote, or --no-verify.",
            )


class _Lent(Digests):
    """Digests that somebody else owns."""

    def __init__(self, owner: Digests) -> None:
        self._owner = owner

    def result(self) -> tuple[str, ...]:
        return self._owner.result()

    def files(self) -> Mapping[str, str]:
        return self._owner.files()

    def confirm(self) -> None:
        self._owner.confirm()

    def cancel(self) -> None:
        """Leaves the work to its owner."""


def of_each(sources: Sequence[Sequence[Sequence[str]]], threads: int) -> tuple[str, ...]:
    """Returns one digest per source, as Digests does, read by so many threads. A source is a list of parts,
    the base and the adapter or one alone, and each part a list of files, the model first. FileFault as
    above."""
    paths = dict.fromkeys(path for parts in sources for part in parts for path in part)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        files = dict(zip(paths, pool.map(lambda path: of_files([path]), paths), strict=True))
    return tuple(
        JOINED.join(_joined([files[path] for path in part]) for part in parts if part) for parts in sources
    )


def of_files(paths: Sequence[str]) -> str:
    """Returns the digest of one source that consists of these files, the model first. FileFault as above."""
    try:
        return _joined([_hash(path, threading.Event()) for path in paths])
    except OSError as error:
        raise external.unreadable(str(error.filename or paths[0]), error) from error


def _joined(digests: Sequence[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _hash_pieces(pieces: Sequence[Piece], files: Files, stop: threading.Event) -> str:
    total = hashlib.sha256()
    for piece in pieces:
        size = piece.length if isinstance(piece, Extent) else len(piece)
        for at in range(0, size, _BLOCK):
            if stop.is_set():
                raise FileFault("Hashing the sources was stopped.")
            total.update(files.read(piece, at, min(_BLOCK, size - at)))
    return total.hexdigest()


def _hash(path: str, stop: threading.Event) -> str:
    total, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            if stop.is_set():
                raise FileFault("Hashing the sources was stopped.")
            total.update(block[:count])
    return total.hexdigest()
