"""The plans that were chosen on this machine, remembered: one JSON file each, beside the cache of times.

A file may be deleted at any time. One that can't be read, or that another version wrote, is taken for none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from netfuse_onnx import __version__
from netfuse_onnx.tune.cache import folder
from netfuse_onnx.types import Choice, Correspondence

VERSION = 1
"""The version of the file. Files of other versions are not read."""
LARGEST = 16 << 20
"""The bytes of the largest file that is read."""


def fingerprint(family: Correspondence) -> str:
    """The SHA-256 of the structure of a family: its operators, their attributes, all types, which weights are
    equal in all models, and the numbers of those that the plan may read. Names of models do not count."""
    digest = hashlib.sha256()
    for part in _parts(family):
        digest.update(repr(part).encode())
    return digest.hexdigest()


def _parts(family: Correspondence) -> Iterator[Any]:
    yield family.models, sorted(family.opsets.items()), family.graph.inputs, family.graph.outputs
    for node in family.graph.nodes:
        attrs = [(key, _plain(value)) for key, value in sorted(node.attrs.items())]
        yield node.op, node.domain, node.inputs, node.outputs, node.captured, attrs
    for tail in family.tails:
        yield [(node.op, node.domain, node.inputs, node.outputs) for node in tail.nodes], tail.outputs
    for index, each in sorted(family.attrs.items()):
        yield index, [[(key, _plain(value)) for key, value in sorted(own.items())] for own in each]
    for name, kind in sorted(family.graph.types.items()):
        yield name, kind.dtype, kind.dims
    for name, parts in sorted(family.weights.items()):
        small = parts[0].data if len(parts) == 1 and isinstance(parts[0].data, bytes) else b""
        yield name, len(parts), parts[0].dtype, parts[0].shape, small
    yield sorted(family.ragged)


def _plain(value: Any) -> Any:
    """An attribute as a value whose repr is the same in each process."""
    if hasattr(value, "SerializeToString"):
        return value.SerializeToString(deterministic=True)
    if hasattr(value, "tobytes"):
        return value.tobytes()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


class Remembered:
    """The plan that was chosen for one question. `about` is all on which the answer depends. It is never an
    error: where the folder can't be written, nothing is remembered."""

    def __init__(self, about: Mapping[str, Any], where: Path | None = None) -> None:
        asked = json.dumps({"netfuse-onnx": __version__, **about}, sort_keys=True)
        self.about = json.loads(asked)  # as a file gives it back: without tuples
        digest = hashlib.sha256(asked.encode()).hexdigest()
        self.path = (where or folder()) / f"plan-{digest[:24]}.json"

    def read(self) -> dict[str, Any] | None:
        """The value that was written for this question; None where there is none."""
        try:
            if self.path.stat().st_size > LARGEST:
                return None
            value = json.loads(self.path.read_text("utf-8"))
            if value["version"] != VERSION or value["about"] != self.about:
                return None
            answer = value["answer"]
            return answer if isinstance(answer, dict) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, answer: Mapping[str, Any]) -> None:
        value = {"version": VERSION, "about": self.about, "answer": answer}
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd, beside = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
            try:
                with os.fdopen(fd, "w", encoding="utf-8") as file:
                    json.dump(value, file)
                os.replace(beside, self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise


def written(rows: tuple[Choice, ...]) -> list[list[Any]]:
    """The rows of a plan as JSON values."""
    return [[row.became, row.rule, [*row.takes], [*row.gives]] for row in rows]


def rows(value: Any) -> tuple[Choice, ...]:
    """The rows that `written` gave. Raises TypeError or ValueError."""
    return tuple(
        Choice(str(became), str(rule), tuple(map(str, takes)), tuple(map(str, gives)))
        for became, rule, takes, gives in value
    )
