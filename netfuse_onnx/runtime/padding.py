"""Proves at load that padding to buckets changes nothing: a request is run padded and not padded.

Padding is only right where the models leave out what is padded, by a mask for instance. Nothing in a file
says so, and a model that does not gives wrong values of the right shape. So the outputs of both runs are
compared, cut back to the sizes of the request.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.buckets import sized
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.elements import Element
from netfuse_onnx.runtime.packing.buffers import shape
from netfuse_onnx.runtime.packing.cut import cut_back
from netfuse_onnx.runtime.packing.fill import write
from netfuse_onnx.runtime.ports import Port
from netfuse_onnx.runtime.types import Array, Feeds, Outputs

Run = Callable[[Sequence[int], Sequence[Feeds]], Sequence[Outputs]]
"""Runs models, each on feeds by its own names, and returns the outputs of each by its own names."""
OTHERS = 4
"""The size of symbolic axes that have no buckets."""
WHOLE = (50, 2, 1)
"""The numbers of values that whole numbers of made-up requests have, one after the other, until a run
succeeds: indices are below the sizes of their tables."""
TOLERANCE = {8: 1e-6, 4: 1e-3, 2: 2e-2}
"""The part of an output's largest value by which padding may change it, by the bytes of its type: sums of
another length are rounded in another order."""
REMEDY = "Leave out buckets, give pad= the values that the models leave out, or export them with a mask."


def prove(contract: Contract, alone: Run | None, merged: Run | None, seed: int = 0) -> None:
    """Raise UsageFault, with model and output, where outputs depend on the padding, or where no made-up
    request could be run.

    `alone` runs one model on its own session, and `merged` all of them in one merged call; neither pads by
    itself. Both are proven where both are there, since a mask may be lost in either. The merged call is a
    proof for every model: the weights of one, a bias say, may let through what those of another do not.
    Without it, each model is proven alone.
    """
    every = range(len(contract.models))
    sizes = _sizes(contract)
    if not contract.buckets or sizes == _padded(contract, sizes):
        return
    if alone is not None:
        for model in every[:1] if merged else every:
            _prove(contract, alone, (model,), sizes, seed)
    if merged is not None:
        _prove(contract, merged, every, sizes, seed)


def _prove(contract: Contract, run: Run, models: Sequence[int], sizes: tuple[Any, ...], seed: int) -> None:
    who = f"model {contract.models[models[0]]!r}" if len(models) == 1 else "the merged file"
    first, fed = "", list[dict[str, Any]]()
    for values in WHOLE:
        fed = _drawn(contract, models, sizes, values, seed)
        try:
            plain = run(models, fed)
            break
        except Exception as error:
            first = first or str(error)
    else:
        raise UsageFault(
            f"The buckets could not be checked: {who} ran on no made-up request ({first[:200]}).",
            "Leave out buckets.",
        )
    wide = _padded(contract, sizes)
    try:
        padded = run(models, [_pad(contract, m, feeds, wide) for m, feeds in zip(models, fed, strict=True)])
    except Exception as error:
        raise UsageFault(
            f"{who[0].upper()}{who[1:]} runs on a request, and not when {_axes(contract)} is "
            f"padded ({str(error)[:200]}).",
            REMEDY,
        ) from error
    for model, feeds, before, after in zip(models, fed, plain, padded, strict=True):
        _compare(contract, model, feeds, before, after)


def _axes(contract: Contract) -> str:
    return ", ".join(map(repr, contract.buckets.sizes))


def _sizes(contract: Contract) -> tuple[Any, ...]:
    """Return sizes of a request, in the order of the contract's axes: sizes that are padded, if any."""
    known = contract.buckets.sizes
    sizes = sized(contract.axes, lambda axis: _between(known[axis]) if axis in known else OTHERS)
    return tuple(sizes[axis] for axis in contract.axes)


def _between(sizes: int | Sequence[int]) -> int:
    """Return a size that is padded, about halfway to a bucket; a bucket where each size has one."""
    bounds = [0, sizes] if isinstance(sizes, int) else [0, *sizes]
    for low, high in itertools.pairwise(bounds):
        if high - low > 1:
            return high - (high - low) // 2
    return bounds[-1]


def _padded(contract: Contract, sizes: Sequence[Any]) -> tuple[Any, ...]:
    pairs = zip(contract.axes, sizes, strict=True)
    return tuple(contract.buckets.padded("", axis, size) for axis, size in pairs)


def _drawn(
    contract: Contract, models: Sequence[int], sizes: Sequence[Any], values: int, seed: int
) -> list[dict[str, Any]]:
    """Return the inputs of each model. Those of one shape are equal for all models, so that they may share a
    call, which takes some inputs once."""
    draw, found = np.random.default_rng(seed), [dict[str, Any]() for _ in models]
    for port in contract.inputs:
        known: dict[tuple[int, ...], Array] = {}
        for model, feeds in zip(models, found, strict=True):
            if port.element is None:
                raise UsageFault(f"Input {port.own[model]!r} can't be made up, so buckets can't be checked.")
            dims = shape(contract, port, model, sizes, 1)
            if dims not in known:
                known[dims] = _value(draw, port, dims, values)
            feeds[port.own[model]] = known[dims]
    return found


def _value(draw: np.random.Generator, port: Port, dims: tuple[int, ...], values: int) -> Array:
    """Return numbers as such an input usually has them: masks let everything through, positions count."""
    kind, name = port.element, port.own[0].lower()
    assert kind is not None
    if kind.is_text:
        return np.full(dims, "a", object)
    if kind.number:
        return draw.integers(0, 1 << 6, dims).astype(kind.dtype)  # small positive numbers, as bits
    if "mask" in name or kind.dtype.kind == "b":
        return np.ones(dims, kind.dtype)
    if kind.dtype.kind in "fc":
        return draw.standard_normal(dims).astype(kind.dtype)
    if "position" in name and dims:
        return np.broadcast_to(np.arange(dims[-1]), dims).astype(kind.dtype)
    return draw.integers(0, values, dims).astype(kind.dtype)


def _pad(contract: Contract, model: int, feeds: Mapping[str, Any], sizes: Sequence[Any]) -> dict[str, Any]:
    padded = {}
    for port in contract.inputs:
        value = feeds[port.own[model]]
        padded[port.own[model]] = place = np.empty(shape(contract, port, model, sizes, 1), value.dtype)
        write(place, value, contract.buckets.value(port))
    return padded


def _compare(
    contract: Contract,
    model: int,
    feeds: Mapping[str, Any],
    plain: Mapping[str, Any],
    padded: Mapping[str, Any],
) -> None:
    inputs = [feeds[port.own[model]] for port in contract.inputs]
    for port in contract.outputs:
        name = port.own[model]
        if name not in plain:
            continue
        if port.element is None:
            raise UsageFault(f"Output {name!r} is no tensor, so buckets can't be checked.", "Leave them out.")
        expected, found = np.asarray(plain[name]), np.asarray(padded[name])
        if len(found.shape) == len(expected.shape):
            found = cut_back(contract, port, model, found, inputs)
        if found.shape != expected.shape:
            raise UsageFault(
                f"Padding {_axes(contract)} changes the shape of output {name!r} of model "
                f"{contract.models[model]!r}, {list(expected.shape)}, to {list(found.shape)}: it can't be "
                "cut back.",
                REMEDY,
            )
        if (difference := _difference(expected, found, port.element)) is not None:
            raise UsageFault(
                f"Padding {_axes(contract)} changes output {name!r} of model {contract.models[model]!r}"
                f"{difference}: it reads what is padded.",
                REMEDY,
            )


def _difference(expected: Array, found: Array, kind: Element) -> str | None:
    """Return the difference in words, or None where it is that of rounding."""
    if kind.dtype.kind not in "fc" and not kind.number:
        return None if np.array_equal(expected, found) else ""
    a, b = (_numbers(value, kind) for value in (expected, found))
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        apart = np.where(same, 0.0, np.abs(a - b))
    scale = np.abs(a[np.isfinite(a)]).max(initial=0.0)
    worst = apart.max(initial=0.0)
    small = worst <= TOLERANCE.get(kind.dtype.itemsize, 5e-2) * scale
    return None if small else f" by up to {worst:.3g}"


def _numbers(value: Array, kind: Element) -> Array:
    """Return the values of an output; of bits of bfloat16, the numbers that they stand for."""
    if kind.name == "bfloat16" and value.dtype == np.uint16:
        value = (value.astype(np.uint32) << 16).view(np.float32)
    return value.astype(np.float64)
