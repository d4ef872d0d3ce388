"""The inputs and outputs of a family in a routed call: which of them have a row for each request.

The batch is the first axis of an input. Its symbol stands first wherever it stands at all. Where no input
has such a symbol, a batch that is fixed at 1 is one row.
"""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx import edges
from netfuse_onnx.errors import NotRoutable
from netfuse_onnx.run import symbols
from netfuse_onnx.types import Correspondence, Dim

ROWS = "rows"
"""The name of the first axis of inputs and outputs of a routed call."""
EXPORT = "Export the models with a leading batch axis of any size, or use --io stacked."


@dataclass(frozen=True, slots=True)
class Routing:
    """The row inputs of a family. `batch` has the symbols of their first axis, and is empty where that is
    fixed at 1; `others` are the inputs without a batch axis, which are fed once per call."""

    batch: frozenset[str]
    rows: frozenset[str]
    others: frozenset[str]

    def is_batch(self, dim: Dim) -> bool:
        """True for the first dim of a row input."""
        return dim in self.batch if self.batch else dim == 1


def routing(family: Correspondence) -> Routing:
    """Find the row inputs. Raises NotRoutable where there are none."""
    types = family.graph.types
    dims = {name: symbols.named(name, types[name].dims) for name in family.graph.inputs}
    inner = {dim for shape in dims.values() for dim in (shape or ())[1:]}
    leading = frozenset(symbols.batches(list(dims.values()))) - inner
    batch = frozenset(str(dim) for dim in leading)
    first = {name: shape[0] for name, shape in dims.items() if shape and types[name].proto is None}
    rows = frozenset(name for name, dim in first.items() if (dim in batch if batch else dim == 1))
    if not rows:
        raise _without_rows(family, dims)
    return Routing(batch, rows, frozenset(dims) - rows)


def shared(family: Correspondence, io: str, share: frozenset[str]) -> frozenset[str]:
    """Return the inputs that are fed once per call: those that the caller names and, in a routed call, those
    without a batch axis. Raises NotRoutable, also where no input has rows of its own."""
    if not edges.is_routed(io):
        return share
    found = routing(family)
    if found.rows <= share:
        raise NotRoutable(
            f"No input of {family.sources[0].path} has rows of its own: all are fed once per call.",
            "Leave out --share-input for one of them.",
        )
    return share | found.others


def _without_rows(family: Correspondence, dims: dict[str, tuple[Dim, ...] | None]) -> NotRoutable:
    shapes = ", ".join(f"{name} {list(shape or ())}" for name, shape in dims.items())
    return NotRoutable(f"No input of {family.sources[0].path} has a leading batch axis ({shapes}).", EXPORT)
