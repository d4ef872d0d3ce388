"""Shows a progress bar on a terminal, for steps that take more than a second. Pipes and CI get none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PATIENCE = 1.0
"""Seconds of a step before its bar is shown."""

Tell = Callable[[str, int, int], None]


@contextmanager
def progress() -> Iterator[Tell | None]:
    """Yield the function to which the stages report, or None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    watch = _Watch(bars)
    try:
        yield watch.tell
    finally:
        bars.stop()


class _Watch:
    """Starts the display once a step has taken long enough, and replaces the bar at every new step."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.what = ""
        self.since = 0.0
        self.task = self.bars.add_task("", total=None)
        self.shown = False

    def tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self.what:
            self.what, self.since = what, now
            self.bars.reset(self.task, description=what)
        if not self.shown and (now - self.since > PATIENCE):
            self.shown = True
            self.bars.start()
        self.bars.update(self.task, description=what, completed=done, total=total or None)
