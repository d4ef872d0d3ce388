"""Made-up requests, to measure what calls cost before the first real one comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx.runtime.buckets import sized
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.elements import element
from netfuse_onnx.runtime.types import Request

SIZE = 16
"""Size of a symbolic axis that has no buckets."""


Buckets = Mapping[str, int | Sequence[int]]


class MadeUp:
    """Requests of a contract. `form` is theirs, and None where none of them runs: `run` runs one."""

    def __init__(self, contract: Contract, run: Callable[[Request], object]) -> None:
        self._contract = contract
        self._known: dict[tuple[int, int], Request] = {}
        self._seed = 0
        self.form: Any = None
        for self._seed in range(2):
            try:
                request = self._request(0, 1)
                run(request)
                self.form = request.form
                break
            except Exception:
                self._known.clear()

    def requests(self, rows: Mapping[int, int]) -> list[Request]:
        """Return requests with so many rows of each model: one for a row, as they come to a server, which
        takes longer than one of all rows; one of all where requests share no batch."""
        if self._contract.batched and not self._contract.side_by_side:
            return [self._request(model, count) for model, count in rows.items()]
        return [self._request(model, 1) for model, count in rows.items() for _ in range(count)]

    def _request(self, model: int, rows: int) -> Request:
        found = self._known.get((model, rows))
        if found is None:
            found = self._known[model, rows] = self._made(model, rows)
        return found

    def _made(self, model: int, rows: int) -> Request:
        """Return a request of a model: the numbers of the first model's, where it takes the same sizes."""
        ports = self._contract.inputs
        if model and all(port.dims[model] == port.dims[0] for port in ports):
            like = self._request(0, rows)
            return Request(model, like.inputs, rows, like.form)
        draw, feeds = np.random.default_rng(self._seed), {}
        buckets = self._contract.buckets.sizes
        sizes = sized(self._contract.axes, lambda axis: _size(axis, buckets))
        for port in ports:
            dims = port.dims[model]
            if port.element is None or dims is None:
                raise ValueError(f"input {port.own[model]!r} can't be made up")
            shape = [_known(d, sizes) for d in dims]
            if port.rows:
                shape[0] = rows
            feeds[port.own[model]] = _array(draw, port.element.dtype, shape, self._seed)
        return self._contract.check(self._contract.models[model], feeds)


def feeds_of(session: Any, buckets: Buckets) -> dict[str, Any] | None:
    """Return inputs of one row that an open session runs, or None where none of the made-up ones does."""
    shapes = [port.shape for port in session.get_inputs()]
    batches = {shape[0] for shape in shapes if shape} - {dim for shape in shapes for dim in shape[1:]}
    axes = {dim for shape in shapes for dim in shape if isinstance(dim, str)}
    sizes = sized(axes, lambda axis: 1 if axis in batches else _size(axis, buckets))
    for seed in range(2):
        draw = np.random.default_rng(seed)
        try:
            feeds = {
                port.name: _array(draw, _dtype(port.type), [_known(d, sizes) for d in port.shape], seed)
                for port in session.get_inputs()
            }
            session.run(None, feeds)
            return feeds
        except Exception:
            continue
    return None


def _dtype(kind: str) -> np.dtype[Any]:
    """Return the type of an input. Raises ValueError for what is no tensor."""
    found = element(kind)
    if found is None:
        raise ValueError(f"an input of type {kind} can't be made up")
    return found.dtype


def _size(axis: str, buckets: Buckets) -> int:
    """Return the size of a symbolic axis in made-up requests: its first bucket, or SIZE."""
    bucket = buckets.get(axis, SIZE)
    return bucket if isinstance(bucket, int) else min(bucket)


def _known(dim: Any, sizes: Mapping[str, int]) -> int:
    """Return a size: a number, that of a symbol, or 1 for one without a name."""
    return dim if isinstance(dim, int) else sizes.get(dim, 1)


def _array(draw: np.random.Generator, dtype: np.dtype[Any], shape: list[int], seed: int) -> Any:
    """Return numbers of a normal distribution; whole ones are 0 or 1, and all 1 with an odd seed."""
    if dtype.kind == "f":
        return draw.standard_normal(shape).astype(dtype)
    if dtype.kind == "O":
        return np.full(shape, "a", object)
    if dtype.kind == "b" or seed % 2:
        return np.ones(shape, dtype)
    return draw.integers(0, 2, shape).astype(dtype)
