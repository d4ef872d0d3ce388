"""The bounds of calls, and what a choice of the next one must know of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a call, and the waiting on purpose."""

    max_rows: int = 8
    """Most rows of a model in a merged call. A request with more runs on its model's own session."""
    max_batch: int = 64
    """Most rows in a call of a model's own session. A request with more runs by itself."""
    rows_apart: bool = True
    """Rows of several requests may share a batch. Else a call has one request of a model, and the requests
    of a form have equal rows."""
    own_sessions: bool = True
    """Models have sessions of their own. Else every call is a merged call."""
    max_wait: float = 0.0
    """Seconds that a request may wait on purpose until a merged call pays."""


class Load(NamedTuple):
    """The calls and requests beside those that wait."""

    workers: int = 1
    """Calls that may run at the same time."""
    running: int = 0
    """Calls that do."""
    rate: float = 0.0
    """Requests that arrive in a second in which a call runs."""
    one_caller: bool = False
    """One caller brought all that waits, and goes on when he has the last answer."""


NO_LOAD = Load()
