"""How much memory is in use, of this process and of the GPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import subprocess


def resident() -> int:
    """Bytes of this process in memory, after what is free was given back. 0 where the system can't tell."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def available() -> int:
    """Bytes that can be had without swapping; 0 where the system can't tell."""
    try:
        with open("/proc/meminfo") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return 0


def gpu() -> tuple[int, int]:
    """Bytes of the first GPU that are in use, and that are free. (0, 0) without one."""
    words = _nvidia_smi("memory.used,memory.free").split(",")
    try:
        return int(words[0]) << 20, int(words[1]) << 20
    except (ValueError, IndexError):
        return 0, 0


def gpu_name() -> str:
    """Name and driver of the first GPU; '' without one."""
    return _nvidia_smi("name,driver_version")


def _nvidia_smi(query: str) -> str:
    command = ["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
