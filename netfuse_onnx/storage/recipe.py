"""The recipe of a merged weight: which source weights it is made of, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import TensorProto

from netfuse_onnx.errors import InternalError
from netfuse_onnx.storage.tensors import BITS
from netfuse_onnx.storage.transforms import AS_IS, Transform
from netfuse_onnx.types import Weight


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a merged weight is made from source weights, so that it can be streamed and undone.

    Each part (one per model; fewer only when a tensor is shared) is a source weight seen as `outer`
    equal runs of elements after `transform`; the merged tensor is run 0 of every part, run 1 of every
    part, ... `outer` = 1 is plain concatenation: STACKED(0) and FOLDED(0). STACKED(a) and FOLDED(a)
    are the same bytes under another shape: outer = d0*..*d(a-1).
    """

    value: str  # name of the weight in the first source
    parts: tuple[Weight, ...]
    dtype: int
    shape: tuple[int, ...]  # merged
    outer: int = 1
    transform: Transform = AS_IS

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of elements of each part, after the transform."""
        return tuple(self.transform.count(part.shape) for part in self.parts)

    def check(self) -> None:
        """Raise InternalError when the parts can't fill the shape exactly."""
        whole = self.outer > 0 and not any(count % self.outer for count in self.counts)
        known = self.dtype in BITS or self.dtype == TensorProto.STRING
        typed = known and all(part.dtype == self.dtype for part in self.parts)
        fits = all(self.transform.fits(part.shape) for part in self.parts)
        if not whole or not typed or not fits or sum(self.counts) != math.prod(self.shape):
            raise InternalError(
                f"The parts of merged weight {self.value!r} don't fill its shape {list(self.shape)}.",
                "Please report this.",
            )
