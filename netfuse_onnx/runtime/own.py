"""The models' own sessions, opened when they are asked for and that pays.

A session costs memory of its own even where its weights lie in a file that others map as well: ONNX Runtime
copies the matrices of products and convolutions into the order that its kernels read, as many bytes again as
these weights have. So only so many sessions, and so many bytes of files, are kept open; the one that was used
longest ago goes first.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SHARE_OF_MEMORY = 4
"""The sessions that are kept may hold a quarter of the machine's memory in weights."""
EMPTY = 128 << 10
"""Bytes that a session takes beside its weights; measured with five nodes."""


class OwnSessions:
    """The sessions of files, in the order of the models. Threads may share it.

    `open` opens one file. At most `most` sessions are kept, all where it is None, and those that have at most
    `most_bytes` together, but always one. `sizes` are the bytes of the weights, by default of the files. A
    session that a call still uses is closed when that call ends.
    """

    def __init__(
        self,
        paths: Sequence[str],
        open: Callable[[str], Any],
        most: int | None,
        sizes: Sequence[int] | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self.paths = tuple(paths)
        weights = sizes if sizes is not None else map(os.path.getsize, self.paths)
        self.sizes = tuple(size + EMPTY for size in weights)
        self.most = len(self.paths) if most is None else most
        self.most_bytes = memory() // SHARE_OF_MEMORY if most_bytes is None else most_bytes
        self._open = open
        self._kept = OrderedDict[int, Any]()
        self._bytes = 0
        self._lock = threading.Lock()
        self._opening: dict[int, threading.Lock] = {}

    def __len__(self) -> int:
        """The number of sessions that are open now."""
        return len(self._kept)

    def has(self, model: int) -> bool:
        """Return True where the session of a model is open."""
        return model in self._kept

    @property
    def fitting(self) -> int:
        """The number of sessions that are kept open together, whichever they are."""
        count = held = 0
        for size in sorted(self.sizes, reverse=True)[: self.most]:
            held += size
            if held > self.most_bytes and count:
                break
            count += 1
        return count

    def fits(self, times: int) -> bool:
        """Return True where the sessions of all models, so many times over, are kept open."""
        return self.most >= len(self.paths) and times * sum(self.sizes) <= self.most_bytes

    def get(self, model: int) -> Any:
        """Return the session of a model, opened if need be. Raises what `open` raises."""
        session = self._found(model)
        if session is not None:
            return session
        with self._lock:
            turn = self._opening.setdefault(model, threading.Lock())
        with turn:  # two threads that want one model open it once; other models don't wait
            session = self._found(model)
            if session is None:
                session = self._open(self.paths[model])
                self.put(model, session)
        return session

    def put(self, model: int, session: Any) -> None:
        """Keep a session that is open already."""
        with self._lock:
            if model not in self._kept:
                self._bytes += self.sizes[model]
            self._kept[model] = session
            self._kept.move_to_end(model)
            while len(self._kept) > 1 and (len(self._kept) > self.most or self._bytes > self.most_bytes):
                oldest, _ = self._kept.popitem(last=False)
                self._bytes -= self.sizes[oldest]

    def clear(self) -> None:
        """Close all."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _found(self, model: int) -> Any:
        with self._lock:
            session = self._kept.get(model)
            if session is not None:
                self._kept.move_to_end(model)
            return session


class Openings:
    """Tells when it pays to open the session of a model.

    To open one takes as long as many calls. Until then merged calls answer the model's requests, which take
    longer than calls of its own. It is opened when the time that was lost so has reached that of opening:
    then at most twice as much is lost as by somebody who knows which requests will come (the rule by which
    one rents skis before buying them). Threads may share it.
    """

    def __init__(self) -> None:
        self._seconds, self._count = 0.0, 0
        self._lost: dict[int, float] = {}

    def pays(self, model: int, lost: float) -> bool:
        """Take in the seconds that a model's next requests lose without a session; True where it now pays to
        open one. Nothing is known of the first: it does."""
        total = self._lost[model] = self._lost.get(model, 0.0) + lost
        return not self._count or total >= self._seconds / self._count

    @contextmanager
    def timed(self, model: int) -> Iterator[None]:
        """Note the time that opening takes. What was lost before is forgotten: the session may be closed
        again."""
        self._lost.pop(model, None)
        began = time.perf_counter()
        yield
        self._seconds, self._count = self._seconds + time.perf_counter() - began, self._count + 1


def memory() -> int:
    """Return the bytes of the machine's memory; 16 GiB where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 16 << 30
