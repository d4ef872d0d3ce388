"""On what it was measured: a figure without its machine and versions is worth nothing."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata

from netfuse_onnx.measure import memory
from netfuse_onnx.run import ort_compat

PACKAGES = ("numpy", "onnx", "torch")
LOOK = 0.3  # seconds


def machine(provider: str) -> dict[str, str | int]:
    """Processor, cores that may be used, memory that is free, system, and the GPU where it is used."""
    found: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_available": memory.available(),
    }
    return found | ({"gpu": memory.gpu_name()} if provider == "cuda" else {})


def versions() -> dict[str, str]:
    """Of Python, of this package and of what it measures with."""
    found = {"python": platform.python_version(), "onnxruntime": ort_compat.onnxruntime().__version__}
    for name in ("netfuse-onnx", *PACKAGES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load() -> float:
    """How many cores are busy just now, by whatever runs beside this process, which waits; 0 where the
    system can't tell. (The usual load average remembers a minute: the case before this one.)"""
    before = _ticks()
    time.sleep(LOOK)
    busy, every = (after - old for after, old in zip(_ticks(), before, strict=True))
    return (os.cpu_count() or 1) * busy / every if every else 0.0


def _ticks() -> tuple[int, int]:
    """Of all cores: busy, and in all."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and waiting for a disk


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
