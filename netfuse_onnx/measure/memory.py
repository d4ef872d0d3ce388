"""Measures the memory of this process and of the GPU, in bytes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os

from netfuse_onnx.run import hardware


def resident() -> int:
    """Return the resident bytes of this process, without freed memory; 0 where the system can't tell."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def available() -> int:
    """Return the bytes that are available without swapping; 0 where the system can't tell."""
    try:
        with open("/proc/meminfo") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return 0


def gpu() -> tuple[int, int]:
    """Return the bytes of the first GPU that are in use, and those that are free; (0, 0) without a GPU."""
    words = hardware.nvidia_smi("memory.used,memory.free").split(",")
    try:
        return int(words[0]) << 20, int(words[1]) << 20
    except (ValueError, IndexError):
        return 0, 0
