"""Opens ONNX Runtime sessions for serving: providers, threads, custom operators, and one clear error.

A session of one thread has no threads of its own: its caller computes everything. A session of several has a
pool of its own, whose threads stop spinning when the call ends, so that they take no core from the next call.

ONNX Runtime also has one pool for a whole process (`onnxruntime.set_global_thread_pool_sizes`). Whoever makes
it decides for all sessions of the process: from then on each session that does not use it is refused, and its
size can't be changed. So this module never makes it; where the program has made it, all sessions share it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from netfuse_onnx import library
from netfuse_onnx.errors import FileFault, UsageFault

onnxruntime = library.onnxruntime()

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
Provider = str | tuple[str, Mapping[str, Any]]
"""A provider as ONNX Runtime takes it: its name, or its name with options."""
ALL = 0
"""As many threads as ONNX Runtime takes by default: one for each physical core."""
_SHARED = "use_per_session_threads must be false"
"""Part of the error of a session with threads of its own, in a process whose sessions share one pool."""


@dataclass(frozen=True, slots=True)
class Setup:
    """The way in which sessions are opened. `threads` compute one operator; ALL is ONNX Runtime's default."""

    providers: tuple[Provider, ...] = (CPU,)
    threads: int = 1
    libraries: tuple[str, ...] = ()
    """Paths of shared libraries with custom operators."""
    entries: Mapping[str, str] = field(default_factory=dict)
    """Further configuration entries of SessionOptions."""
    dims: Mapping[str, int] = field(default_factory=dict)
    """Sizes of symbolic axes that are fixed when a session opens."""

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


def cores(quota: str = "/sys/fs/cgroup/cpu.max") -> int:
    """Return the number of cores that this process may use: those that it may run on, and no more than the
    time of a container's limit makes up."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open(quota) as file:
            allowed, period = file.read().split()[:2]
        return max(1, min(found, -(-int(allowed) // int(period))))
    except (OSError, ValueError):  # no such limit
        return found


def open_session(path: str | os.PathLike[str], setup: Setup) -> Any:
    """Return an InferenceSession of a file.

    Raises FileFault for a file that does not open, and UsageFault for a provider that does not run.
    """
    _require(setup)
    if not os.path.exists(path):
        raise FileFault(f"{os.fspath(path)} does not exist.", "Check the path.")
    try:
        session = _opened(os.fspath(path), setup)
    except Exception as error:
        raise FileFault(
            f"ONNX Runtime does not open {os.fspath(path)}: {first_line(error)}.",
            "Give a file that this version of ONNX Runtime can run.",
        ) from error
    if setup.names[0] not in session.get_providers():
        raise UsageFault(
            f"ONNX Runtime fell back from {setup.names[0]} to {session.get_providers()[0]}.",
            "Is there a device, with its driver and libraries?",
        )
    return session


def shares_pool(session: Any) -> bool:
    """Return True for a session that uses the pool of the process."""
    return not session.get_session_options().use_per_session_threads


def first_line(error: BaseException) -> str:
    """Return the text of an ONNX Runtime error without its prefix and without further lines."""
    text = (str(error) or type(error).__name__).strip().splitlines()[0]
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return text.strip().rstrip(".")[:400]


def names_of(ports: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of inputs or outputs of a session."""
    return tuple(port.name for port in ports)


def _require(setup: Setup) -> None:
    """Raise UsageFault for a provider or a library that is not there."""
    available = onnxruntime.get_available_providers()
    for name in setup.names or ("no provider",):
        if name not in available:
            raise UsageFault(
                f"This ONNX Runtime ({onnxruntime.__version__}) has no {name}.",
                f"It has {', '.join(available)}.",
            )
    for custom in setup.libraries:
        if not os.path.isfile(custom):
            raise FileFault(f"{custom} does not exist.", "Give a library of custom operators.")


def _opened(path: str, setup: Setup) -> Any:
    """Return a session that shares the process's pool where the program has made one."""
    if setup.on_cuda and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    try:
        return _session(path, setup, shared=False)
    except Exception as error:
        if _SHARED not in str(error):
            raise
    return _session(path, setup, shared=True)


def _session(path: str, setup: Setup, shared: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.use_per_session_threads = not shared
    options.intra_op_num_threads = ALL if shared else setup.threads
    if setup.threads != 1 and not shared:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in setup.entries.items():
        options.add_session_config_entry(key, value)
    for name, size in setup.dims.items():
        options.add_free_dimension_override_by_name(name, size)
    for custom in setup.libraries:
        options.register_custom_ops_library(custom)
    providers, own = [], []
    for one in setup.providers:
        providers.append(one if isinstance(one, str) else one[0])
        own.append({} if isinstance(one, str) else dict(one[1]))
    return onnxruntime.InferenceSession(path, options, providers, own, enable_fallback=0)
