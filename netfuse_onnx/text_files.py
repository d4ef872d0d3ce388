"""Writes text files: the whole new file or the old one, at every moment."""

from __future__ import annotations

import contextlib
import os
import tempfile

from netfuse_onnx.errors import FileFault


def write(out: str, text: str) -> None:
    """Replace the file at `out` by `text`, by way of a file beside it. A link stays a link. Raises
    FileFault."""
    target = os.path.realpath(out) if os.path.islink(out) else out
    folder, name = os.path.split(target)
    try:
        number, beside = tempfile.mkstemp(dir=folder or ".", prefix=f".{name}-")
    except (OSError, ValueError) as error:
        raise FileFault(f"{out} can't be written: {error}.", "Check the folder.") from error
    try:
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, target)
    except (OSError, ValueError) as error:
        raise FileFault(f"{out} can't be written: {error}.", "Check the path.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)


def refuse_folder(out: str) -> None:
    """Raise FileFault where the folder of `out` does not exist."""
    if not os.path.isdir(os.path.dirname(out) or "."):
        raise FileFault(f"{out} can't be written: there is no such folder.", "Create it first.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
