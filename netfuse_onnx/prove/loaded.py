"""Sessions of sources. An adapted source has no file of its own: it is written, loaded and removed."""

from __future__ import annotations

from netfuse_onnx.load import folded
from netfuse_onnx.run.runtime import Runtime, Session
from netfuse_onnx.types import Source


def session_of(source: Source, runtime: Runtime, *, optimise: bool = True) -> Session:
    """Return a session of one source. Raises RunFailed when ONNX Runtime does not load it."""
    with folded.opened(source) as path:
        return Session(path, runtime, optimise=optimise)
