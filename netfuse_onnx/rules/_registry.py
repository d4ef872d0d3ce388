"""What a rule is, and the table of all rules.

A rule looks at a Site, one node as the planner sees it, and offers Options: the layouts it takes, the
layouts it gives, and a body that emits nodes. It never decides and never names anything. A rule that
cannot apply raises Refuse with the reason, which ends up in `inspect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from netfuse_onnx.rules.fallback import REASONS
from netfuse_onnx.types import PER_MODEL, SHARED, Became, Dim, Layout, Node, ValueType

if TYPE_CHECKING:
    import numpy as np

    from netfuse_onnx.emit.emitter import Emitter, Held
    from netfuse_onnx.types import Weight

Body = Callable[["Site", "Sequence[Any]", "Emitter"], "Held | Sequence[Held]"]


class Refuse(Exception):
    """A rule does not apply here; the text says why."""


@dataclass(frozen=True)
class Site:
    """One node as a rule sees it. All ranks, dims and axes are per model.

    `mapped[i]` is True where input i differs between the models; an input that is not mapped is SHARED
    and may be used as it is. `values[i]` is the array of a small SHARED constant, else None.
    """

    node: Node
    models: int
    opset: int
    inputs: tuple[ValueType, ...]
    outputs: tuple[ValueType, ...]
    mapped: tuple[bool, ...]
    weight: tuple[bool, ...]
    values: tuple[np.ndarray[Any, Any] | None, ...]
    attrs: tuple[Mapping[str, Any], ...] = ()
    """Where attributes differ between the models: those of each; else empty."""
    parts: tuple[tuple[Weight, ...], ...] = ()
    """The source weights of each input: one where all models share it, one per model, or none."""

    @property
    def op(self) -> str:
        return self.node.op

    def has(self, i: int) -> bool:
        """True where input i is present."""
        return i < len(self.node.inputs) and self.node.inputs[i] != ""

    def is_mapped(self, i: int) -> bool:
        return self.has(i) and self.mapped[i]

    def gone(self, k: int) -> bool:
        """True where output k is absent."""
        return k >= len(self.node.outputs) or self.node.outputs[k] == ""

    def dims(self, i: int) -> tuple[Dim, ...]:
        """Per-model dims of input i. Refuses where the rank is unknown, and an operator of ONNX Runtime that
        lacks the input: onnx does not know how many it takes."""
        if i >= len(self.inputs):
            raise Refuse(f"it has no input {i}")
        dims = self.inputs[i].dims
        if dims is None:
            raise Refuse(f"the rank of its input {self.node.inputs[i]!r} is unknown")
        return dims

    def out_dims(self, k: int = 0) -> tuple[Dim, ...]:
        """Per-model dims of output k. Refuses where the rank is unknown."""
        dims = self.outputs[k].dims
        if dims is None:
            raise Refuse(f"the rank of its output {self.node.outputs[k]!r} is unknown")
        return dims

    def rank(self, i: int) -> int:
        return len(self.dims(i))

    def out_rank(self, k: int = 0) -> int:
        return len(self.out_dims(k))

    def axis(self, value: int, rank: int) -> int:
        """`value` counted from the front."""
        return value + rank if value < 0 else value

    def own_axis(self, value: int, rank: int) -> int:
        """The same for an axis that must be there. Refuses where it is not, as every runtime does."""
        if not -rank <= value < max(rank, 1):
            raise Refuse(f"it names axis {value} of a value that has {rank}")
        return self.axis(value, rank)

    def attr(self, name: str, default: Any = None) -> Any:
        return self.node.attrs.get(name, default)

    def ints(self, i: int, attr: str = "") -> list[int] | None:
        """A list of integers that is input i, or attribute `attr` in older opsets; None where absent.
        Refuses where it is computed at run time or differs between the models."""
        if self.has(i):
            value = self.values[i]
            if value is None:
                kind = "differs between the models" if self.mapped[i] else "is computed at run time"
                raise Refuse(f"its input {self.node.inputs[i]!r} {kind}")
            return [int(v) for v in value.reshape(-1)]
        found = self.attr(attr) if attr else None
        return None if found is None else [int(v) for v in found]

    def only_mapped(self, *allowed: int) -> None:
        """Refuse where an input that must be equal in all models is not."""
        for i, mapped in enumerate(self.mapped):
            if mapped and i not in allowed:
                raise Refuse(f"its input {self.node.inputs[i]!r} differs between the models")

    @cached_property
    def mapped_inputs(self) -> tuple[int, ...]:
        return tuple(i for i, mapped in enumerate(self.mapped) if mapped)


@dataclass(frozen=True)
class Option:
    """One lowering on offer: `takes[i]` per input (SHARED for what is used as it is, None for what the
    body does not read), `gives[k]` per output, `nodes` emitted (fractions for nodes that copy nothing).

    `tuned`: on offer only to plans with measured costs. `kernel`: the kind of kernel in targets/*.json that
    does its arithmetic, where it is not the usual one of its operator. `transposes`: which inputs, then which
    outputs, the body transposes on the way."""

    rule: str
    takes: tuple[Layout | None, ...]
    gives: tuple[Layout, ...]
    body: Body
    nodes: float = 1.0
    became: Became = Became.BATCHED
    tuned: bool = False
    kernel: str = ""
    transposes: tuple[int, ...] = ()


Offers = Callable[[Site], Iterator[Option]]


@dataclass(frozen=True)
class Rule:
    """A registered rule. `how` is the one line that `netfuse-onnx rules` prints."""

    name: str
    how: str
    offers: Offers


REGISTRY: dict[str, list[Rule]] = {}
"""Operator key (`Conv`, `com.microsoft.FusedConv`) -> its rules, in order of registration."""


DIFFERING: dict[str, list[Rule]] = {}
"""The same for nodes whose attributes differ between the models: rules that make constants of them."""


def family(*ops: str, how: str = "", differing: bool = False) -> Callable[[Offers], Offers]:
    """Register a generator of Options for several operators; `differing` attributes are its business."""

    def register(offers: Offers) -> Offers:
        line = how or (offers.__doc__ or "").strip().split("\n")[0]
        for op in ops:
            (DIFFERING if differing else REGISTRY).setdefault(op, []).append(
                Rule(offers.__name__, line, offers)
            )
        return offers

    return register


def rule(
    *ops: str,
    takes: Sequence[Layout],
    gives: Layout | Sequence[Layout],
    when: Callable[[Site], str] | None = None,
    nodes: float = 1.0,
    became: Became = Became.BATCHED,
) -> Callable[[Body], Body]:
    """Register one fixed lowering. `when` returns "" or the reason why it refuses. The last of `takes`
    and of `gives` stands for all further inputs and outputs.

    An input that `takes` says SHARED must be equal in all models; an input that is equal in all models
    but taken otherwise is repeated, at a price that the planner knows.
    """

    def register(body: Body) -> Body:
        name = getattr(body, "__name__", "rule")
        line = (body.__doc__ or "").strip().split("\n")[0]
        outs = (gives,) if isinstance(gives, Layout) else tuple(gives)

        def offers(site: Site) -> Iterator[Option]:
            count = len(site.node.inputs)
            wanted = tuple(takes[min(i, len(takes) - 1)] if site.has(i) else SHARED for i in range(count))
            for i, want in enumerate(wanted):
                if want == SHARED and site.is_mapped(i):
                    raise Refuse(f"its input {site.node.inputs[i]!r} differs between the models")
            reason = when(site) if when else ""
            if reason:
                raise Refuse(reason)
            given = tuple(outs[min(k, len(outs) - 1)] for k in range(len(site.node.outputs)))
            yield Option(name, wanted, given, body, nodes, became)

        for op in ops:
            REGISTRY.setdefault(op, []).append(Rule(name, line, offers))
        return body

    return register


def options(site: Site) -> tuple[list[Option], str]:
    """Every lowering on offer for a node, or none and the reason."""
    rules = (DIFFERING if site.attrs else REGISTRY).get(site.node.key)
    if not rules and site.attrs:
        return [], "its attributes differ between the models"
    if not rules:
        return [], REASONS.get(site.node.key, f"no batching rule for {site.node.key}")
    if name := _unranked(site):
        return [], f"the rank of {name!r} is unknown"
    found: list[Option] = []
    reasons: list[str] = []
    for entry in rules:
        try:
            found += (option for option in entry.offers(site) if _fits(option, site))
        except Refuse as refusal:
            reasons.append(str(refusal))
    return found, "" if found else "; ".join(dict.fromkeys(reasons)) or "no form of its rule applies here"


def _fits(option: Option, site: Site) -> bool:
    """False where a layout names an axis that the value does not have: the node is not valid, and its rule
    took its operands to be what the operator asks for."""
    node = site.node
    rows = (
        *zip(node.inputs, option.takes, site.inputs, strict=False),
        *zip(node.outputs, option.gives, site.outputs, strict=False),
    )
    for name, layout, kind in rows:
        if not name or layout is None or layout in (SHARED, PER_MODEL):
            continue
        if kind.proto is not None or layout.axis > len(kind.dims or ()) - (not layout.stacked):
            return False
    return True


def _unranked(site: Site) -> str:
    """A tensor of the node that no layout can be given to, or ""."""
    node = site.node
    for name, kind in zip((*node.inputs, *node.outputs), (*site.inputs, *site.outputs), strict=True):
        if name and kind.dims is None and kind.proto is None:
            return name
    return ""


def table() -> Mapping[str, Sequence[Rule]]:
    """Operators and their rules, sorted by name."""
    return {op: tuple(REGISTRY[op]) for op in sorted(REGISTRY)}
