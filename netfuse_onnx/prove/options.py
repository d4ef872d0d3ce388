"""The settings of a proof of the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netfuse_onnx.dims import Sizes, points
from netfuse_onnx.prove.sizes import MAX_MEMORY
from netfuse_onnx.run import inputs
from netfuse_onnx.run.runtime import Runtime
from netfuse_onnx.types import Correspondence


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a proof. `dims` binds symbolic dims, and each of `further` binds them to other sizes,
    for a case of their own; `file` is an .npz of inputs; `rtol` and `atol` override the tolerances. `search`
    looks for inputs that show more than the first that run; `isolation` feeds odd values to every model, not
    to two; `max_memory` is in bytes; `wide` is the rung of the ladder on which spatial sizes begin; `single`
    runs a batch of 1 only; `made_for` is the provider that the file was merged for, '' for none. `precisions`
    has what each output is computed in, of a file that was changed after the merge; None for others."""

    runtime: Runtime
    io: str = "separate"
    share: frozenset[str] = frozenset()
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    rtol: float | None = None
    atol: float | None = None
    file: str = ""
    search: bool = True
    isolation: bool = False
    max_memory: int = MAX_MEMORY
    wide: int = 0
    single: bool = False
    made_for: str = ""
    further: tuple[Mapping[str, int], ...] = ()
    precisions: Mapping[str, str] | None = None

    def remembering(self, dims: Sizes, family: Correspondence) -> Options:
        """Add the sizes of the merge, for symbols that the sources have and these options do not bind."""
        symbolic = inputs.names(inputs.describe(family))
        kept = {name: dims[name] for name in symbolic if name in dims and name not in self.dims}
        first, *further = ({**old, **own} for old in points(kept) for own in (self.dims, *self.further))
        return replace(self, dims=first, further=tuple(further))
