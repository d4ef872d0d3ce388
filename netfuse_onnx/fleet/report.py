"""The answer of plan-fleet. cli/render_fleet.py prints it."""

from __future__ import annotations

from dataclasses import dataclass

from netfuse_onnx.errors import NetfuseError, NoPlan
from netfuse_onnx.report import Report

MISSED = 1.2
"""A plan whose simulated 99th percentile is more than this many times the target is none."""


@dataclass(frozen=True, slots=True)
class FleetGroup:
    """One group: models of a family that one process serves. More than one model are merged into one bundle.

    `machines` has the numbers of the machines that it runs on, a replica on each. `rate` are the requests per
    second of one replica when the spare machines are missing, and `load` its processor seconds per second.
    `p99` is the worst simulated 99th percentile of its replicas in seconds, None where none of them was
    simulated. `merge` is the command that makes its bundle, '' for one model."""

    name: str
    family: str
    models: tuple[str, ...]
    machines: tuple[int, ...]
    rate: float
    load: float
    memory: int
    target: float
    p99: float | None
    merge: str


@dataclass(frozen=True, slots=True)
class FleetMachine:
    """One machine. `utilisation` is the expected part of the workers' time that is busy if every target is
    just met, `limit` the most that it may be, and `busy` the part in the simulation. `expected` is the 99th
    percentile that the model of load gives, as a part of the tightest target; `p99` is the worst simulated
    one, as a part of its group's target. `serve` has a command for each process."""

    number: int
    kind: str
    groups: tuple[str, ...]
    utilisation: float
    limit: float
    memory: int
    memory_of: int
    expected: float
    p99: float | None
    busy: float | None
    serve: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FleetFamily:
    """One family: its models, groups, replicas and machines, and the worst simulated 99th percentile in
    seconds. `merged` says that the expected load of some group is that of merged calls."""

    name: str
    models: int
    groups: int
    replicas: int
    machines: int
    target: float
    p99: float | None
    merged: bool


@dataclass(frozen=True, slots=True)
class Alternative:
    """A simple way, for comparison: the machines and price that it needs, and the worst simulated 99th
    percentile as a part of the target. `problem` is the reason why it can't be done."""

    name: str
    machines: int
    price: float
    p99: float | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FleetReport(Report):
    """A plan. `price` is the sum of prices, or the number of machines where none are given; no plan of any
    kind is below `bound` by the model of load. `optimal` says that the solver proved the plan the best one.
    `simulated` counts the machines that were simulated, and `worst` is the largest 99th percentile of these
    as a part of its target. `allowed` is the factor on the load that machines may have, by which the
    simulation was met."""

    file: str
    objective: str
    price: float
    bound: float
    optimal: bool
    models: int
    machines: tuple[FleetMachine, ...]
    groups: tuple[FleetGroup, ...]
    families: tuple[FleetFamily, ...]
    simulated: int
    worst: float | None
    allowed: float
    alternatives: tuple[Alternative, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True where no simulated latency is far above its target."""
        return self.worst is None or self.worst <= MISSED

    @property
    def fault(self) -> NetfuseError | None:
        """The error that some latency is far above its target."""
        if self.ok:
            return None
        late = max(self.families, key=lambda row: (row.p99 or 0.0) / row.target)
        return NoPlan(
            f"The best plan misses its target in simulation: family {late.name!r} has a p99 of "
            f"{late.p99:.3g} s, and its target is {late.target:g} s.",
            "Give a longer p99, or machines with more workers.",
        )
