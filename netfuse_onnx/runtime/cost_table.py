"""The times of calls as a table: for people, who read at the start of a server when merging pays, and for
plans of fleets, which are made elsewhere from the figures of one machine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.limits import Limits
from netfuse_onnx.runtime.merges import merges_from
from netfuse_onnx.runtime.timing import doubled
from netfuse_onnx.runtime.types import Costs

FORMAT = 1
"""The format of the table as JSON, raised when a reader of the old one would misread the new one."""


@dataclass(frozen=True, slots=True)
class AloneTime:
    """The seconds of a call of one model's own session with so many rows."""

    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MergedTime:
    """The seconds of a merged call for so many models, each with so many rows."""

    models: int
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CostTable:
    """The times of calls that a session knows now, for requests of the form that it measured.

    `models` counts those of the family, `workers` the calls that run at the same time, and `threads` those of
    one call; 0 is ONNX Runtime's default. `alone` is empty where models have no sessions of their own.
    `pays_from` is the smallest number of waiting models, one row each, of which the scheduler makes a merged
    call, and None where it makes none.
    """

    models: int
    workers: int
    threads: int
    alone: tuple[AloneTime, ...]
    merged: tuple[MergedTime, ...]
    pays_from: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the table as JSON has it."""
        return {"netfuse_costs": FORMAT, **asdict(self)}

    @classmethod
    def of_dict(cls, told: Mapping[str, Any]) -> CostTable:
        """Return the table that `as_dict` wrote. Raises FileFault for what is none."""
        try:
            if told["netfuse_costs"] != FORMAT:
                raise FileFault(f"The costs have format {told['netfuse_costs']}; {FORMAT} is known.")
            return cls(
                int(told["models"]), int(told["workers"]), int(told["threads"]),
                tuple(AloneTime(int(one["rows"]), float(one["seconds"])) for one in told["alone"]),
                tuple(
                    MergedTime(int(one["models"]), int(one["rows"]), float(one["seconds"]))
                    for one in told["merged"]
                ),
                None if told["pays_from"] is None else int(told["pays_from"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise FileFault(
                f"This is no table of costs: {error!r}.", "Write one with `netfuse-onnx serve --costs`."
            ) from error


def cost_table(
    costs: Costs, form: Hashable, limits: Limits, *, models: int, workers: int, threads: int
) -> CostTable:
    """Return the table of one form, at 1, 2, 4 and so on models and rows up to the limits."""
    times = costs.of(form)
    alone = [AloneTime(rows, times.alone(rows)) for rows in doubled(limits.max_batch)]
    merged = [
        MergedTime(count, rows, times.merged(count, rows, count * rows))
        for count in doubled(models)
        for rows in doubled(limits.max_rows)
    ]
    pays = merges_from(costs, models, form, workers, limits=limits)
    own = tuple(alone) if limits.own_sessions else ()
    return CostTable(models, workers, threads, own, tuple(merged), pays)
