"""Describes the machine and the versions that figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from importlib import metadata

from netfuse_onnx.measure import memory
from netfuse_onnx.run import hardware
from netfuse_onnx.run.runtime import onnxruntime

PACKAGES = ("numpy", "onnx", "torch")
LOOK = 0.3  # seconds


def machine(provider: str) -> dict[str, str | int]:
    """Return the processor, usable cores, free memory in bytes, the system, and the GPU where it is used."""
    facts: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": hardware.processor(),
        "cores": hardware.cores(),
        "memory_available": memory.available(),
    }
    return facts | ({"gpu": hardware.gpu_name()} if provider == "cuda" else {})


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that it measures with."""
    versions = {"python": platform.python_version(), "onnxruntime": onnxruntime().__version__}
    for name in ("netfuse-onnx", *PACKAGES):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def load() -> float:
    """Return the number of cores that other processes keep busy now, while this one waits; 0 where the system
    can't tell. (The usual load average covers a minute, so it includes the measurement before this one.)"""
    before = _ticks()
    time.sleep(LOOK)
    busy, every = (after - old for after, old in zip(_ticks(), before, strict=True))
    return (os.cpu_count() or 1) * busy / every if every else 0.0


def _ticks() -> tuple[int, int]:
    """Return the busy ticks of all cores, and all ticks."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # without idle and waiting for a disk
