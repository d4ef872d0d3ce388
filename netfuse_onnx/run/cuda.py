"""The shared libraries of CUDA and cuDNN that ONNX Runtime's CUDA provider loads: finds them, names missing
ones.

`pip install 'netfuse-onnx[gpu]'` brings all of them but the driver's. Pip puts them where the system's loader
does not look, so ONNX Runtime has to load them from there first (`preload_dlls`, since 1.21).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
from typing import Any

DRIVER = "libcuda.so.1"
CUDNN = "libcudnn.so.9"
NEEDED = ("libcudart", "libcublasLt", "libcublas", "libcurand", "libcufft")
"""CUDA's libraries that the provider is linked to or opens when an operator wants one."""
FILE_VERSIONS = {"libcurand": {"12": "10", "13": "10"}, "libcufft": {"12": "11", "13": "12"}}
"""Version in the file's name by CUDA's version, where it is another."""
NO_CUDNN = "cuDNN is unavailable"
"""Text of the error with which ONNX Runtime refuses an operator that needs cuDNN (since 1.30)."""
FROM_PIP = "pip install 'netfuse-onnx[gpu]' brings the libraries of CUDA and cuDNN."
FROM_NVIDIA = f"{DRIVER} comes with NVIDIA's driver, which has to be installed on the machine."


@functools.cache
def preload(onnxruntime: Any) -> None:
    """Load the libraries that pip installed, so that ONNX Runtime finds them. Does nothing where ONNX Runtime
    can't do that, or has no CUDA."""
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


def names(version: str) -> tuple[str, ...]:
    """Return the file names of the libraries for a version of CUDA, such as '13.0'."""
    major = version.partition(".")[0]
    files = [f"{stem}.so.{FILE_VERSIONS.get(stem, {}).get(major, major)}" for stem in NEEDED]
    return (DRIVER, *files, CUDNN)


def missing(onnxruntime: Any) -> tuple[str, ...]:
    """Return the libraries that do not load. Empty on Windows, or where CUDA's version is unknown."""
    version = getattr(onnxruntime, "cuda_version", "")
    if os.name != "posix" or not version:
        return ()
    preload(onnxruntime)
    return tuple(name for name in names(version) if not _loads(name))


def remedy(absent: tuple[str, ...]) -> str:
    """Say what brings missing libraries; '' where none is missing."""
    parts = [FROM_NVIDIA] if DRIVER in absent else []
    parts += [FROM_PIP] if set(absent) - {DRIVER} else []
    return " ".join(parts)


def explained(text: str) -> str:
    """Return ONNX Runtime's error; in plain words where it is about cuDNN."""
    if NO_CUDNN not in text:
        return text
    return f"it needs {CUDNN}, which can't be loaded"


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
