"""Waits in an event loop for futures that other threads complete."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future

from netfuse_onnx.runtime.types import Outputs

Waiter = asyncio.Future[None]


class Bridge:
    """Wakes the tasks of one event loop. A thread that completes many futures wakes the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[Waiter] = deque()
        self._is_called = False

    async def result(self, future: Future[Outputs]) -> Outputs:
        """Return the result of a future, which is cancelled where the task is."""
        if not future.done():
            waiter: Waiter = self._loop.create_future()
            future.add_done_callback(lambda _: self._completed(waiter))
            try:
                await waiter
            except asyncio.CancelledError:
                future.cancel()
                raise
        return future.result()

    async def results(self, futures: list[Future[Outputs]]) -> list[Outputs]:
        """Return the results of futures, in order."""
        return [await self.result(future) for future in futures]

    def _completed(self, waiter: Waiter) -> None:
        self._done.append(waiter)
        if not self._is_called:  # two threads may both call: the second finds nothing
            self._is_called = True
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_called = False  # before the first is taken: what is appended later calls again
        while self._done:
            waiter = self._done.popleft()
            if not waiter.done():
                waiter.set_result(None)
