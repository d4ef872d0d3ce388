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
from netfuse_onnx.runtime.types import Array

Run = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Runs one model on feeds by its own names, and returns its outputs by its own names, without padding."""
OTHERS = 4
"""The size of symbolic axes that have no buckets."""
WHOLE = (50, 2, 1)
"""The numbers of values that whole numbers of made-up requests have, one after the other, until a run
succeeds: indices are below the sizes of their tables."""
TOLERANCE = {8: 1e-6, 4: 1e-3, 2: 2e-2}
"""The part of an output's largest value by which padding may change it, by the bytes of its type: sums of
another length are rounded in another order."""
REMEDY = "Leave out buckets, give pad= the values that the models leave out, or export them with a mask."


def prove(contract: Contract, run: Run, model: int = 0, seed: int = 0) -> None:
    """Raise UsageFault, with the output, where a model's outputs depend on the padding, or where no made-up
    request could be run. `run` must not pad by itself."""
    sizes = _sizes(contract)
    if not contract.buckets or sizes == _padded(contract, sizes):
        return
    first, feeds = "", dict[str, Any]()
    for values in WHOLE:
        feeds = _drawn(contract, model, sizes, values, seed)
        try:
            plain = run(feeds)
            break
        except Exception as error:
            first = first or str(error)
    else:
        raise UsageFault(
            f"The buckets could not be checked: model {contract.models[model]!r} ran on no made-up request "
            f"({first[:200]}).",
            "Leave out buckets.",
        )
    try:
        padded = run(_pad(contract, model, feeds, _padded(contract, sizes)))
    except Exception as error:
        raise UsageFault(
            f"Model {contract.models[model]!r} runs on a request, and not when {_axes(contract)} is padded "
            f"({str(error)[:200]}).",
            REMEDY,
        ) from error
    _compare(contract, model, feeds, plain, padded)


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


def _drawn(contract: Contract, model: int, sizes: Sequence[Any], values: int, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    feeds = {}
    for port in contract.inputs:
        if port.element is None:
            raise UsageFault(f"Input {port.own[model]!r} can't be made up, so buckets can't be checked.")
        feeds[port.own[model]] = _value(draw, port, shape(contract, port, model, sizes, 1), values)
    return feeds


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
