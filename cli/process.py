"""Signals, the warnings of libraries, and a closed stdout."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, which removes temporary files."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def quiet(debug: bool) -> Iterator[None]:
    """Hide the warnings of libraries, except with --debug."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield


def discard_output() -> None:
    """Discard the rest of the output: at exit, Python would complain about the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
