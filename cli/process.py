"""This process: its signals, the warnings of libraries, and a stdout that nobody reads any more."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, so that temporary files are removed on the way."""

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
    """Warnings of libraries are not for users."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield


def nobody_reads() -> None:
    """Sends the rest of the output, for a closed pipe, nowhere: Python would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
