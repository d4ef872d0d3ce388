"""The session that users hold: `MergedSession`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.bounds import Bounds
from netfuse_onnx.runtime.opening import Opening, open_engine
from netfuse_onnx.runtime.ort import Provider
from netfuse_onnx.runtime.schedule import Limits
from netfuse_onnx.runtime.serving import Serving

Path = str | os.PathLike[str]


class MergedSession(Serving):
    """Serves the models of a merged file or bundle: `run(model, feeds)` gives what the model itself would.

    `path` is a merged file, or the folder that `netfuse-onnx merge --views` wrote. Use it as a context
    manager, or call `close()`. All methods may be called from any thread. A session does not survive a fork:
    open one in each process.
    """

    def __init__(
        self,
        path: Path,
        *,
        sources: Sequence[Path] = (),
        providers: Sequence[Provider] | None = None,
        libraries: Sequence[Path] = (),
        threads: int | None = None,
        workers: int | None = None,
        max_rows: int = 8,
        max_batch: int = 64,
        max_queue: int = 1024,
        max_queue_per_model: int = 256,
        max_wait: float = 0.0,
        timeout: float | None = None,
        buckets: Mapping[str, int | Sequence[int]] | None = None,
        pad: Mapping[str, Any] | None = None,
        rows_apart: bool | None = None,
        own_sessions: int | None = None,
        calibrate: float = 1.0,
    ) -> None:
        """Open the files, and measure for at most `calibrate` seconds what calls cost.

        `sources` are the models' own files in the order of the merge, where `path` is no bundle; without
        either, every call is a merged one. `providers` are those of ONNX Runtime, the CPU by default, and
        `libraries` have custom operators. `threads` compute one operator, and `workers` calls run at the same
        time: both are measured where they are not given.

        A merged call has at most `max_rows` rows of a model; a request has at most `max_batch`, and so has a
        call of a model's own session.
        At most `max_queue_per_model` requests of one model wait; another is refused with QueueFull. Where
        `max_queue` wait in all, so is one of a model that has its share, `max_queue` / models and one at
        least; up to its share a model always enters, so that others can't keep it out.
        `max_wait` is the number of seconds that a request may wait on purpose for a merged call to pay.
        `timeout` is that of requests that name none, in seconds.

        `buckets` gives symbolic axes the sizes that they are padded to: a number is a multiple, a list has
        the sizes; `pad` has the values of inputs that are not padded by 0. `rows_apart=True` is your word
        that each row's outputs depend on that row alone, where the files do not say so. At most
        `own_sessions` of the models' own sessions are open at a time, the last used ones: by default as many
        as hold a quarter of the machine's memory. They are opened when they are first needed.

        Raises FileFault for files that can't be read or served, UsageFault for options that make no sense.
        """
        at_least(1, max_rows=max_rows, max_batch=max_batch, max_queue=max_queue, own_sessions=own_sessions)
        at_least(1, max_queue_per_model=max_queue_per_model, workers=workers)
        at_least(0, max_wait=max_wait, timeout=timeout, calibrate=calibrate, threads=threads)
        whole(max_rows=max_rows, max_batch=max_batch, max_queue=max_queue, own_sessions=own_sessions)
        whole(max_queue_per_model=max_queue_per_model, workers=workers, threads=threads)
        opening = Opening(
            sources=tuple(os.fspath(source) for source in sources),
            providers=None if providers is None else tuple(providers),
            libraries=tuple(os.fspath(library) for library in libraries),
            threads=threads,
            workers=workers,
            max_rows=min(max_rows, max_batch),
            max_batch=max_batch,
            buckets=dict(buckets or {}),
            pad=dict(pad or {}),
            rows_apart=rows_apart,
            own_sessions=own_sessions,
            calibrate=calibrate,
        )
        limits = Limits(max_rows=opening.max_rows, max_batch=max_batch, max_wait=max_wait)
        bounds = Bounds(max_queue, max_queue_per_model)
        files = partial(open_engine, opening=opening)
        super().__init__(files, path, limits, bounds, workers=workers, timeout=timeout)


def at_least(least: int, **options: float | None) -> None:
    """Raise UsageFault for an option below the least number that makes sense; None is left out."""
    for name, value in options.items():
        if value is not None and (not isinstance(value, Real) or not value >= least):
            raise UsageFault(f"{name} must be a number of at least {least}, not {value!r}.")


def whole(**options: int | None) -> None:
    """Raise UsageFault for an option that is no whole number; None is left out."""
    for name, value in options.items():
        if value is not None and not isinstance(value, Integral):
            raise UsageFault(f"{name} must be a whole number, not {value!r}.")
