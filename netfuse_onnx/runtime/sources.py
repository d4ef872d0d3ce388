"""The own files of the models, given by the user: are they those that were merged, in the same order?"""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime.bundle import digest_of

_EXTERNAL = b"location"
"""The key under which a model names a file with its weights. Such a model's digest covers that file, too."""


def check(paths: Sequence[str], digests: Sequence[str], models: Sequence[str]) -> None:
    """Raise UsageFault where there are not as many files as models, or they come in another order, and
    FileFault where one of them is not the file that was merged, or can't be read.

    `digests` are those that the merge wrote. The digest of a model whose weights lie in other files covers
    these as well, and that of an adapter its base: such a file is not compared.
    """
    if len(paths) != len(models):
        raise UsageFault(f"{len(paths)} sources are given for {len(models)} models.", "Give one for each.")
    for path, digest, model in zip(paths, digests, models, strict=True):
        found = _digest(path)
        if found == digest:
            continue
        if found in digests:
            right = models[list(digests).index(found)]
            raise UsageFault(
                f"The sources are given in another order than merged: {path} is model {right!r}, not "
                f"{model!r}.", f"Give them in the order {', '.join(models)}.",
            )  # fmt: skip
        if len(digest) == len(found) and not _has_external_data(path):
            raise FileFault(
                f"{path} is not the file that was merged as {model!r}: its SHA-256 differs.",
                "Give the files that were merged, or merge again.",
            )


def _digest(path: str) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise FileFault(f"{path} can't be read: {error}.") from error


def _has_external_data(path: str) -> bool:
    with open(path, "rb") as file:
        return _EXTERNAL in file.read()
