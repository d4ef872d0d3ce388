"""Loads ONNX Runtime with its telemetry off, for the compiler and for serving alike."""

from __future__ import annotations

import functools
import os
from typing import Any

from netfuse_onnx.errors import UsageFault

TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
"""ONNX Runtime reads this variable once, when it is loaded (run/gaps.py, TELEMETRY)."""
INSTALL = "Install it with pip install 'netfuse-onnx[cpu]' (or 'netfuse-onnx[gpu]' for CUDA)."


@functools.cache
def onnxruntime() -> Any:
    """Return the onnxruntime module with its telemetry off.

    Raises UsageFault, naming the extras, when it is not installed. On Windows, and where the caller had
    imported onnxruntime before, telemetry is only switched off from here on.
    """
    os.environ[TELEMETRY_OFF] = "1"
    try:
        import onnxruntime as ort
    except ImportError as error:
        if error.name not in (None, "onnxruntime"):
            raise UsageFault(f"ONNX Runtime does not load: {error}.", INSTALL) from error
        raise UsageFault("ONNX Runtime is not installed.", INSTALL) from error
    ort.disable_telemetry_events()
    return ort
