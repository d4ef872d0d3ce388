"""The recipe of a merged weight: the source weights that it is made of, and their arrangement."""

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
    """Says how to make a merged weight from source weights, so that it can be streamed and undone.

    A part is a source weight after `transform`, cut into `outer` runs of equal size. There is one part per
    model, or fewer when a tensor is shared. The merged tensor is run 0 of every part, then run 1 of every
    part, and so on. `outer` = 1 is concatenation: STACKED(0) and FOLDED(0). STACKED(a) and FOLDED(a) are the
    same bytes under two shapes, with outer = d0*..*d(a-1).
    """

    value: str  # the name of the weight in the first source
    parts: tuple[Weight, ...]
    dtype: int
    shape: tuple[int, ...]  # of the merged weight
    outer: int = 1
    transform: Transform = AS_IS

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of elements of each part, after the transform."""
        return tuple(self.transform.count(part.shape) for part in self.parts)

    def check(self) -> None:
        """Raise InternalError when the parts can't fill the shape exactly."""
        equal_runs = self.outer > 0 and not any(count % self.outer for count in self.counts)
        has_form = self.dtype in BITS or self.dtype == TensorProto.STRING
        typed = has_form and all(part.dtype == self.dtype for part in self.parts)
        fits = all(self.transform.fits(part.shape) for part in self.parts)
        if not equal_runs or not typed or not fits or sum(self.counts) != math.prod(self.shape):
            raise InternalError(
                f"The parts of merged weight {self.value!r} don't fill its shape {list(self.shape)}.",
                "Please report this.",
            )
