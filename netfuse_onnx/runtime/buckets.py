"""Buckets: sizes to which symbolic axes are padded, so that requests of unequal lengths share a call."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from netfuse_onnx import expressions
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.errors import TooLarge
from netfuse_onnx.runtime.ports import File, Port


class Buckets:
    """The sizes of named axes: a number rounds up to its multiples, a list has the sizes themselves. `pad`
    has the values of padding, by the first model's names of inputs; they are 0 by default."""

    def __init__(
        self, sizes: Mapping[str, int | Sequence[int]], pad: Mapping[str, Any] | None = None
    ) -> None:
        self.sizes = {axis: one if isinstance(one, int) else sorted(one) for axis, one in sizes.items()}
        self.pad = dict(pad or {})
        for axis, one in self.sizes.items():
            if not one or min([one] if isinstance(one, int) else one) < 1:
                raise UsageFault(f"The buckets of {axis!r} must be sizes from 1 on, not {sizes[axis]!r}.")

    def __bool__(self) -> bool:
        return bool(self.sizes)

    def fit(self, file: File) -> None:
        """Raise UsageFault for an axis or input that the file does not have."""
        axes = {dim for port in file.inputs for dim in (port.dims[0] or ())[port.rows :]} - file.batch
        for axis in self.sizes:
            if axis not in axes:
                known = ", ".join(sorted(a for a in axes if isinstance(a, str))) or "none"
                raise UsageFault(
                    f"No input has an axis {axis!r} that could be padded.", f"There are: {known}."
                )
        for name in self.pad:
            if name not in {port.own[0] for port in file.inputs}:
                raise UsageFault(f"There is no input {name!r} to pad.")

    def value(self, port: Port) -> Any:
        """Return the value of padding of an input; None where none of its axes is padded."""
        if not any(axis in self.sizes for dims in port.dims for axis in dims or ()):
            return None
        return self.pad.get(port.own[0], "" if port.element and port.element.is_text else 0)

    def padded(self, model: str, axis: str, size: Any) -> Any:
        """Return the size to which an axis is padded. Raises TooLarge above the largest bucket."""
        sizes = self.sizes.get(axis)
        if sizes is None:
            return size
        if isinstance(sizes, int):
            return max(1, -(-size // sizes)) * sizes
        place = bisect.bisect_left(sizes, size)
        if place == len(sizes):
            raise TooLarge(
                f"The request for model {model!r} has a size of {size} along {axis!r}; the largest bucket is "
                f"{sizes[-1]}.",
                model=model, expected=f"at most {sizes[-1]}",
            )  # fmt: skip
        return sizes[place]


def sized(axes: Iterable[str], choose: Callable[[str], int]) -> dict[str, int]:
    """Return sizes for axes: those that are chosen, and those that follow from them (`past + 1`)."""
    chosen: dict[str, int] = {}
    computed = []
    for axis in sorted(set(axes), key=len):  # an expression is longer than its terms
        if expressions.terms(axis, chosen):
            computed.append(axis)
        else:
            chosen[axis] = choose(axis)
    values = {axis: expressions.value(axis, chosen) for axis in computed}
    return chosen | {axis: 1 if size is None else size for axis, size in values.items()}
