"""Rows of the report of a merge: how rows find their models, and what the models share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RoutingRow:
    """A lowering of a routed file: `slots` or `index`, and the microseconds that a call of so many rows of
    random models is expected to take, by the costs of the target, or of a CPU where none is named; or the
    reason why it is not on offer."""

    by: str
    chosen: bool
    rows: int
    microseconds: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Sharing:
    """The figures of what the models share. Bytes of weights: `stored` in the merged file, `sources` in all
    sources together, and `read` in a call, tables that are read by index left out. `once` is the share of a
    model's multiply-adds that run once for all models, `arithmetic` the multiply-adds of a call in units of
    one model's; null where there are none. `read` and `arithmetic` are null where a call chooses its
    models."""

    stored: int
    sources: int
    read: int | None
    once: float
    arithmetic: float | None


@dataclass(frozen=True, slots=True)
class ApartRow:
    """A part that some models compute each by itself: the operators, the name of the node where it is one,
    and the sizes of its weights, with those of all models where they differ: `768 x 2, 5, 10`."""

    models: tuple[str, ...]
    operators: str
    name: str
    sizes: str


@dataclass(frozen=True, slots=True)
class Apart:
    """The outcome of --partial for models that differ: the share of the bytes of all models' weights and that
    of their multiply-adds with weights which is merged, null where there are none, and a row for all that is
    not."""

    bytes: float
    arithmetic: float | None
    rows: tuple[ApartRow, ...]


@dataclass(frozen=True, slots=True)
class PartialRow:
    """The outcome of --partial for some models that are not one architecture: the part that is merged, and a
    sentence for each difference; or the reason why it would refuse them."""

    models: tuple[str, ...]
    apart: Apart | None = None
    differences: tuple[str, ...] = ()
    reason: str = ""
