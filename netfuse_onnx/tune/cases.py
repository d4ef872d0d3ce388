"""Cases: what one probe measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netfuse_onnx.layouts import Layout, route
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Became, Lowering, ValueType

APART = "once per model"


@dataclass(frozen=True)
class Member:
    """One lowering of one node. `sized` is its site with the sizes by which it is priced."""

    lowering: Lowering
    sized: Site

    @property
    def way(self) -> str:
        """The name of the lowering, without its layouts."""
        return APART if self.lowering.became is Became.REPLICATED else self.lowering.rule


@dataclass(frozen=True)
class NodeCase:
    """A node in one lowering, and those behind it that ONNX Runtime may make one kernel of (chains.py)."""

    members: tuple[Member, ...]

    @property
    def head(self) -> Member:
        return self.members[0]

    @property
    def models(self) -> int:
        return self.head.lowering.site.models

    @property
    def opsets(self) -> Mapping[str, int]:
        return self.head.lowering.site.opsets

    @property
    def kind(self) -> tuple[str, str]:
        """The operator and the lowering."""
        return self.head.lowering.site.node.key, self.head.way


@dataclass(frozen=True)
class ConversionCase:
    """One conversion of a value of per-model type `declared`, in a file for `provider`, with the sizes of
    `sized`. `compare`: nothing has compared the models' shapes before."""

    src: Layout
    dst: Layout
    declared: ValueType
    sized: ValueType
    models: int
    opsets: Mapping[str, int]
    provider: str
    compare: bool = False

    @property
    def kind(self) -> tuple[str, str]:
        return "conversion", f"{self.src.name} to {self.dst.name}"

    @property
    def copies_something(self) -> bool:
        """False where all its nodes are views."""
        hops = route(self.src, self.dst, self.declared.dims or (), self.provider)
        return any(hop.counts(self.models, self.provider).launches for hop in hops)


Case = NodeCase | ConversionCase
