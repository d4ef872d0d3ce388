"""The inputs and outputs of a family in a routed call: which of them have a row for each request.

The batch is the first axis of an input. Its symbol stands first wherever it stands at all, and where several
do, first in an output, too. Where no input has such a symbol, a batch that is fixed at 1 is one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.dims import Sizes
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
    if family.rows:
        return Routing(frozenset(), family.rows, frozenset(dims) - family.rows)
    inner = {dim for shape in dims.values() for dim in (shape or ())[1:]}
    leading = frozenset(map(str, symbols.batches(list(dims.values())))) - inner
    given = frozenset(shape[0] for name in family.graph.outputs if (shape := family.edge_type(name).dims))
    batch = frozenset(name for name in leading if name in given) or leading
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


# --------------------------------------------------------------------------- the rows of a call

DEFAULT_ROWS = 16
"""The rows of a call for which it is planned, where --dim rows=.. does not say."""


def rows_of(dims: Sizes) -> int:
    """The number of rows of a call for which it is planned."""
    given = dims.get(ROWS, DEFAULT_ROWS)
    return given if isinstance(given, int) else given[0]


def without_rows(dims: Sizes) -> Sizes:
    """The sizes without that of the rows of a call, which no source has."""
    return {name: size for name, size in dims.items() if name != ROWS}


def most_rows(models: int, rows: int) -> int:
    """The most rows of one model that are expected of a call, whose rows have random models: the mean of
    draws that are the same each time."""
    drawn = np.random.default_rng(0).integers(0, models, (DRAWS, rows))
    most = [np.bincount(one, minlength=models).max(initial=0) for one in drawn]
    return max(1, round(float(np.mean(most))))


DRAWS = 64
"""Draws of the models of all rows."""


def planned_sizes(family: Correspondence, io: str, dims: Sizes) -> Sizes:
    """The sizes by which a family is planned: of a routed call by slots, the batch is the most rows of one
    model that are expected, unless it is given."""
    if not edges.is_routed(io):
        return dims
    most = most_rows(family.models, rows_of(dims)) if io == edges.SLOTS else 1
    return {**dict.fromkeys(routing(family).batch, most), **without_rows(dims)}
