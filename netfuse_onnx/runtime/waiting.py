"""The requests that wait, as the scheduler reads them: a line for each form and model of which one waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

from netfuse_onnx.runtime.types import Call, Request


class Line:
    """The requests of one form for one model that wait, oldest first; never empty while it is in a queue."""

    __slots__ = ("arrived", "first", "requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0
        """Rows of all requests."""
        self.first = 0
        """Rows of the oldest request."""
        self.arrived = 0.0
        """The arrival of the oldest request."""

    def look(self) -> None:
        """Take note of the oldest request."""
        if self.requests:
            oldest = self.requests[0]
            self.first, self.arrived = oldest.rows, oldest.arrived

    def fitting(self, most: int, apart: bool) -> int:
        """Return how many of the oldest requests have at most so many rows together, but one at least. Where
        the rows of requests are not apart it is one."""
        requests = self.requests
        if not apart:
            return 1
        if self.rows == len(requests) or self.rows <= most:
            return min(len(requests), max(most, 1))
        count = rows = 0
        for request in requests:
            rows += request.rows
            if rows > most:
                break
            count += 1
        return max(count, 1)


class Waiting:
    """All requests that wait. Lines that are empty are gone, so a choice costs nothing for models of which
    none wait."""

    def __init__(self) -> None:
        self.lines: dict[Hashable, dict[int, Line]] = {}
        self.rows = 0
        """Rows of all requests."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        """Yield all requests, line by line, each line's oldest first."""
        return (r for lines in self.lines.values() for line in lines.values() for r in line.requests)

    def add(self, request: Request) -> None:
        """Append a request: it is the youngest of its line."""
        lines = self.lines.get(request.form)
        if lines is None:
            lines = self.lines[request.form] = {}
        line = lines.get(request.model)
        if line is None:
            line = lines[request.model] = Line()
            line.first, line.arrived = request.rows, request.arrived
        line.requests.append(request)
        line.rows += request.rows
        self.rows += request.rows
        self._count += 1

    def take(self, call: Call) -> list[Request]:
        """Remove and return the requests of a call, model by model, each model's oldest first."""
        taken: list[Request] = []
        lines = self.lines[call.form]
        for model, count in call.taken:
            line = lines[model]
            for _ in range(count):
                taken.append(line.requests.popleft())
                line.rows -= taken[-1].rows
            self._settle(call.form, model, line)
        self._count -= len(taken)
        self.rows -= sum([request.rows for request in taken])
        return taken

    def remove(self, request: Request) -> bool:
        """Remove a request that was cancelled or is too late; False where it does not wait."""
        line = self.lines.get(request.form, {}).get(request.model)
        if line is None or request not in line.requests:
            return False
        line.requests.remove(request)
        line.rows -= request.rows
        self._settle(request.form, request.model, line)
        self._count -= 1
        self.rows -= request.rows
        return True

    def _settle(self, form: Hashable, model: int, line: Line) -> None:
        """Take note of a line's oldest request, or remove the line where it is empty."""
        if line.requests:
            line.look()
            return
        lines = self.lines[form]
        del lines[model]
        if not lines:
            del self.lines[form]
