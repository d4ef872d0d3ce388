"""Sessions of sources. An adapted source has no file of its own: it is written, loaded and removed."""

from __future__ import annotations

from netfuse_onnx.load import folded
from netfuse_onnx.run.runtime import Runtime, Session
from netfuse_onnx.types import Source


def session_of(source: Source, runtime: Runtime, *, optimise: bool = True, moved: int = 0) -> Session:
    """Return a session of one source. Raises RunFailed when ONNX Runtime does not load it. `moved` is for
    adapted sources: with a seed, their changed weights are moved by rounding."""
    with folded.opened(source, moved=moved) as path:
        return Session(path, runtime, optimise=optimise)
