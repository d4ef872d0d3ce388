"""Names the processor and the GPU, and counts the cores, of the machine at hand."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress


def processor() -> str:
    """Return the name of the processor."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_name() -> str:
    """Return the name and the driver of the first GPU; '' without a GPU."""
    return nvidia_smi("name,driver_version")


def nvidia_smi(query: str) -> str:
    """Return the answer of nvidia-smi for the first GPU; '' without one."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
