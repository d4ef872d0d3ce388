"""Contenders in processes of their own, which measure themselves when they are asked: they take turns.

ONNX Runtime has one global thread pool for a process, and a process has one lock of Python: contenders in one
process would not be measured alone.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

Tasks = Mapping[str, Callable[..., object]]
"""Each question that a contender answers has a name."""
Make = Callable[..., AbstractContextManager[Tasks]]
"""Starts a contender, in its process. A function of a module."""


@contextmanager
def child(make: Make, *arguments: object) -> Iterator[Connection]:
    """Start a contender, which ends with the block. Raises SystemExit where it can't start."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        _answer(ours)
        yield ours
    finally:
        ours.close()
        process.join(timeout=30.0)
        if process.is_alive():
            process.kill()


def ask(contender: Connection, task: str, *arguments: object) -> Any:
    """Have a contender do a task, and return its answer. Raises SystemExit where it fails."""
    contender.send((task, arguments))
    return _answer(contender)


def _answer(contender: Connection) -> Any:
    try:
        is_done, answer = contender.recv()
    except EOFError:
        raise SystemExit("A contender's process has ended.") from None
    if not is_done:
        raise SystemExit(answer)
    return answer


def _serve(connection: Connection, make: Make, arguments: tuple[object, ...]) -> None:
    try:
        with make(*arguments) as tasks:
            connection.send((True, "ready"))
            while True:
                task, given = connection.recv()
                connection.send((True, tasks[task](*given)))
    except EOFError:
        return
    except SystemExit as error:
        connection.send((False, str(error)))
    except Exception as error:
        connection.send((False, f"{type(error).__name__}: {error}"))
        raise
