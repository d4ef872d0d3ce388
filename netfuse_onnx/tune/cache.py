"""The cache of measured times: one JSON file per machine, provider, ONNX Runtime and number of threads.

It lies below the user's cache folder and may be deleted at any time: nothing depends on it. Two processes may
use it at once: each writes what it measured beside what the other did, and renames. A file that can't be
read is taken for an empty one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netfuse_onnx.run import hardware
from netfuse_onnx.run.runtime import Runtime, onnxruntime
from netfuse_onnx.write.lock import LockHeld, exclusive

VERSION = 1
"""The version of the file. Files of other versions are not read."""
LARGEST = 64 << 20
"""The bytes of the largest file that is read."""


def folder() -> Path:
    """The folder of this package below the user's cache folder (XDG Base Directory Specification)."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path(os.path.expanduser("~")) / ".cache"
    return base / "netfuse-onnx" / "times"


def about(runtime: Runtime, threads: int) -> dict[str, str | int]:
    """All on which a time depends but what is measured."""
    gpu = {"gpu": hardware.gpu_name()} if runtime.provider == "cuda" else {}
    return {
        "processor": hardware.processor(),
        "cores": hardware.cores(),
        "provider": runtime.provider,
        "onnxruntime": onnxruntime().__version__,
        "threads": threads,
        **gpu,
    }


class Cache:
    """The file of the machine that `about` describes. It is never an error: where the folder can't be
    written, times are measured anew each time."""

    def __init__(self, about: Mapping[str, str | int], where: Path | None = None) -> None:
        self.about = dict(about)
        digest = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()
        self.path = (where or folder()) / f"{self.about['provider']}-{digest[:16]}.json"

    def read(self) -> dict[str, float]:
        """The times in microseconds, by their keys; none where there is no file, or none of this version."""
        try:
            if self.path.stat().st_size > LARGEST:
                return {}
            value = json.loads(self.path.read_text("utf-8"))
            if value["version"] != VERSION or value["about"] != self.about:
                return {}
            return {key: float(time) for key, time in value["times"].items() if _is_time(time)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def add(self, times: Mapping[str, float]) -> None:
        """Write these times beside those in the file."""
        if not times:
            return
        with contextlib.suppress(OSError, LockHeld):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with exclusive(f"{self.path}.lock"):
                self._replace({**self.read(), **times})

    def _replace(self, times: Mapping[str, float]) -> None:
        value: dict[str, Any] = {"version": VERSION, "about": self.about, "unit": "microseconds"}
        value["times"] = {key: round(time, 3) for key, time in sorted(times.items())}
        fd, beside = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(value, file, indent=0)
                file.write("\n")
            os.replace(beside, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise


def _is_time(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
