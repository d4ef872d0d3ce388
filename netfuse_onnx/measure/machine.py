"""On what it was measured: a figure without its machine and versions is worth nothing."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from netfuse_onnx.measure import memory
from netfuse_onnx.run import ort_compat

PACKAGES = ("numpy", "onnx", "torch")


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
    """The load of the machine in the last minute; 0 where the system can't tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
