"""Opens ONNX Runtime sessions for serving: providers, threads, custom operators, and one clear error.

One-thread sessions own no threads at all. Sessions of several threads share the one pool that ONNX Runtime
keeps for the process, so that a thousand sessions have the threads of one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnxruntime

from netfuse_onnx.errors import FileFault, UsageFault

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Provider = str | tuple[str, Mapping[str, Any]]
"""A provider as ONNX Runtime takes it: its name, or its name with options."""

_POOL_LOCK = threading.Lock()
_pool_threads = 0
"""Threads of the pool that this process shares; 0 while it has none, -1 where somebody else made it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The way in which sessions are opened. `threads` compute one operator."""

    providers: tuple[Provider, ...] = (CPU,)
    threads: int = 1
    libraries: tuple[str, ...] = ()
    entries: Mapping[str, str] = field(default_factory=dict)
    """Further configuration entries of SessionOptions."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the providers, in order."""
        return tuple(one if isinstance(one, str) else one[0] for one in self.providers)

    @property
    def on_cuda(self) -> bool:
        """True where CUDA is the first provider."""
        return self.names[:1] == (CUDA,)

    def with_threads(self, threads: int) -> Setup:
        """Return this setup with another number of threads."""
        return replace(self, threads=threads)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(path: str | os.PathLike[str], setup: Setup) -> Any:
    """Return an InferenceSession of a file.

    Raises FileFault for a file that does not open, and UsageFault for a provider that does not run.
    """
    absent = [name for name in setup.names if name not in onnxruntime.get_available_providers()]
    if absent:
        raise UsageFault(
            f"This ONNX Runtime ({onnxruntime.__version__}) has no {absent[0]}.",
            f"It has {', '.join(onnxruntime.get_available_providers())}.",
        )
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), _options(setup), providers=list(setup.providers), enable_fallback=0
        )
    except Exception as error:
        raise FileFault(
            f"ONNX Runtime does not open {os.fspath(path)}: {first_line(error)}.",
            "Give a file that this version of ONNX Runtime can run.",
        ) from error
    if setup.names[0] not in session.get_providers():
        raise UsageFault(f"ONNX Runtime fell back from {setup.names[0]} to the CPU.", "Is there a device?")
    return session


def share_pool(threads: int) -> int:
    """Make the pool of the process, once, and return the number of its threads, or 0 where somebody else made
    it, so that it is not known."""
    global _pool_threads
    with _POOL_LOCK:
        if not _pool_threads:
            try:
                onnxruntime.set_global_thread_pool_sizes(threads, 1)
                _pool_threads = threads
            except Exception:
                _pool_threads = -1
        return max(_pool_threads, 0)


def first_line(error: BaseException) -> str:
    """Return the text of an ONNX Runtime error without its prefix and without further lines."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text.strip().rstrip(".")[:400]


def _options(setup: Setup) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if setup.threads == 1:
        options.intra_op_num_threads = 1
    else:
        share_pool(setup.threads)
        options.use_per_session_threads = False
    for key, value in setup.entries.items():
        options.add_session_config_entry(key, value)
    for library in setup.libraries:
        options.register_custom_ops_library(library)
    return options


def names_of(ports: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of inputs or outputs of a session."""
    return tuple(port.name for port in ports)
