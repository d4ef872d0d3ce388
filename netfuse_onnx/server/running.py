"""The verb `serve`: opens a family, serves it until a signal comes, drains, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.cost_table import CostTable
from netfuse_onnx.server.options import Options

if TYPE_CHECKING:
    from netfuse_onnx.server.session import Session

Path = str | os.PathLike[str]
Say = Callable[[str], None]
NEEDED = ("grpc", "httptools", "prometheus_client", "starlette", "tritonclient.grpc", "uvicorn")
"""The packages of the extra."""
LAST_CALL = 1.0
"""Seconds for which calls are waited for that still run when the time to drain is up."""
PROVIDERS = {"cpu": None, "cuda": ("CUDAExecutionProvider",)}
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def to_stderr(line: str) -> None:
    """Write a line for people."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def require_packages() -> None:
    """Raise UsageFault where a package of the extra is missing."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # tritonclient raises the latter for what it needs
            raise UsageFault(
                f"Serving needs the package {name.partition('.')[0]}: {error}.",
                "pip install 'netfuse-onnx[serve]'",
            ) from error


def name_of(path: Path) -> str:
    """Return the name of the family in a bundle's folder or a merged file."""
    base = os.path.basename(os.path.abspath(path))
    return base.removesuffix(".onnx")


def opened(path: Path, sources: Sequence[Path], provider: str, **given: Any) -> Any:
    """Return the session of a path."""
    from netfuse_onnx.runtime.session import MergedSession

    if provider not in PROVIDERS:
        raise UsageFault(f"The provider is {' or '.join(PROVIDERS)}, not {provider!r}.")
    chosen = {name: value for name, value in given.items() if value is not None}
    if "max_queue" in chosen:
        chosen["max_queue_per_model"] = min(256, chosen["max_queue"])
    session = MergedSession(path, sources=sources, providers=PROVIDERS[provider], **chosen)
    session.in_loop = True
    return session


def serve(
    path: Path,
    *,
    sources: Sequence[Path] = (),
    provider: str = "cpu",
    max_queue: int | None = None,
    timeout: float | None = None,
    say: Say = to_stderr,
    tell_costs: Callable[[CostTable], None] | None = None,
    **options: Any,
) -> None:
    """Serve a bundle or merged file until SIGTERM or SIGINT, then answer what was accepted and return.

    `sources` are the models' own files, where `path` is no bundle. Requests that wait are at most
    `max_queue`, and start within `timeout` seconds unless they say so themselves. `options` are those of
    `Options`. `say` gets lines for people, and `tell_costs` the table of costs once files are open.

    Raises FileFault for files that can't be served, UsageFault for options that make no sense, for addresses
    that are taken, and where the packages of the extra `serve` are missing.
    """
    fill_standard_streams()
    require_packages()
    chosen = Options(**{"name": name_of(path), "path": os.fspath(path)} | options)
    refuse_taken(chosen)
    with opened(path, sources, provider, max_queue=max_queue, timeout=timeout) as session:
        if tell_costs is not None:
            tell_costs(session.cost_table())
        settle()
        is_drained = run_loop(until_signal(session, chosen, say))
        session.close(drain=is_drained, timeout=None if is_drained else LAST_CALL)


def fill_standard_streams() -> None:
    """Open the null device in place of standard streams that are closed, as those of daemons may be. Else
    connections get their numbers: libraries would write log lines to clients, and uvloop ends in SIGABRT."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


def refuse_taken(options: Options) -> None:
    """Raise UsageFault for an address that can't be listened on, before files are opened, which takes
    longer."""
    from netfuse_onnx.server.app import bound

    for address in (options.http, options.grpc):
        if address:
            bound(address).close()


def settle() -> None:
    """Release the memory that opening took, and let the garbage collector pass by all that stays."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # a C library other than that of GNU
        ctypes.CDLL(None).malloc_trim(0)


def run_loop(main: Coroutine[Any, Any, bool]) -> bool:
    """Run a coroutine in the fastest event loop that there is."""
    try:
        factory = importlib.import_module("uvloop").new_event_loop
    except ImportError:  # there is none for Windows
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def until_signal(session: Session, options: Options, say: Say = to_stderr) -> bool:
    """Serve a session until a signal comes, then drain; a second signal ends the process at once. Return True
    where all accepted requests were answered."""
    from netfuse_onnx.server.app import App, is_loopback

    app, ends, loop = App(session, options), asyncio.Event(), asyncio.get_running_loop()

    def caught(number: int) -> None:
        app.core.is_ready = False
        if ends.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        ends.set()

    await app.start()
    for number in SIGNALS:
        loop.add_signal_handler(number, caught, number)
    for kind, address in (("HTTP", app.http), ("gRPC", app.grpc)):
        if address:
            say(f"{kind}: {'http://' if kind == 'HTTP' else ''}{address}")
            if not is_loopback(address):
                say(f"Warning: {kind} is open to other machines, and asks nobody who they are.")
    say(f"Serving {len(session.models)} models by their names, and their family as {options.name!r}.")
    await ends.wait()
    say("Answering what was accepted; again to end at once.")
    is_drained = await app.stop()
    say("All that was accepted is answered." if is_drained else "The time is up: some are not answered.")
    return is_drained
