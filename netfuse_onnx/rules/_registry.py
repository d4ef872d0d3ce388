"""The table of all rules, and the types that a rule is made of.

A rule looks at a Site, one node as the planner sees it, and offers Options: the layouts it takes, the
layouts it gives, and a body that emits nodes. It never decides and never names anything. A rule that
cannot apply raises Refuse with the reason, which ends up in `inspect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netfuse_onnx.layouts import Layout
from netfuse_onnx.ops.schemas import OWN
from netfuse_onnx.rules._site import Operands, Refuse, Site
from netfuse_onnx.rules.fallback import REASONS
from netfuse_onnx.types import Became, ValueType

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter, Held

Body = Callable[[Site, Operands, "Emitter"], "Held | Sequence[Held]"]


@dataclass(frozen=True)
class Option:
    """One lowering on offer: `takes[i]` per input (SHARED for what is used as it is, None for what the
    body does not read), `gives[k]` per output. A `tuned` one is on offer only to plans with measured costs.
    `only` names a provider, whose targets alone it is on offer to: its body suits that provider's kernels.
    An `unmeasured` one is on offer to plans for the CPU, or for its only provider, where they are measured.
    An option says nothing of its price: a plan counts what its body emits."""

    rule: str
    takes: tuple[Layout | None, ...]
    gives: tuple[Layout, ...]
    body: Body
    became: Became = Became.BATCHED
    tuned: bool = False
    only: str = ""
    unmeasured: bool = False

    @property
    def for_targets(self) -> bool:
        """True where it is on offer only to plans for a target."""
        return self.tuned or bool(self.only)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that it takes and gives."""
        return (*filter(None, self.takes), *self.gives)

    def emit(self, site: Site, tensors: Sequence[Any], emit: Emitter) -> list[Held]:
        """Emit the nodes of the body on tensors in the layouts that it takes, and give its outputs."""
        result = self.body(site, Operands(site, tensors), emit)
        return result if isinstance(result, list) else [result]


Offers = Callable[[Site], Iterator[Option]]


@dataclass(frozen=True)
class Rule:
    """A registered rule. `how` is the one line that `netfuse-onnx rules` prints."""

    name: str
    how: str
    offers: Offers
    chooses: bool = True
    """False where its bodies make constants of the attributes of all models, whichever a call chooses."""


REGISTRY: dict[str, list[Rule]] = {}
"""Operator key (`Conv`, `com.microsoft.FusedConv`) -> its rules, in order of registration."""


DIFFERING: dict[str, list[Rule]] = {}
"""Operator key -> the rules that make constants of attributes that differ between the models."""


def family(
    *ops: str, how: str = "", differing: bool = False, chooses: bool | None = None
) -> Callable[[Offers], Offers]:
    """Register a generator of Options for several operators; `differing` attributes are its business. It
    `chooses` where its bodies write those by Emitter.of_each."""
    fits = not differing if chooses is None else chooses

    def register(offers: Offers) -> Offers:
        line = how or (offers.__doc__ or "").strip().split("\n")[0]
        for op in ops:
            (DIFFERING if differing else REGISTRY).setdefault(op, []).append(
                Rule(offers.__name__, line, offers, fits)
            )
        return offers

    return register


def rule(
    *ops: str,
    takes: Sequence[Layout],
    gives: Layout | Sequence[Layout],
    when: Callable[[Site], str] | None = None,
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
            taken = site.takes({i: takes[min(i, len(takes) - 1)] for i in range(len(site.node.inputs))})
            if when and (reason := when(site)):
                raise Refuse(reason)
            yield Option(name, taken, site.gives(*outs), body, became)

        for op in ops:
            REGISTRY.setdefault(op, []).append(Rule(name, line, offers))
        return body

    return register


def options(
    site: Site, *, tuned: bool, provider: str = "", measures: bool = False
) -> tuple[list[Option], str]:
    """Every lowering on offer for a node, or none and the reason. `tuned`: those that only pay by measured
    costs are on offer, too, and those for the kernels of `provider`, the target's; for the CPU, what was not
    measured there is not, unless the cost `measures` it."""
    rules = (DIFFERING if site.attrs else REGISTRY).get(site.node.key)
    if site.chosen:
        rules = [entry for entry in rules or () if entry.chooses or not site.attrs]
    if not rules and site.attrs:
        return [], "its attributes differ between the models"
    if not rules:
        return [], REASONS.get(site.node.key, f"no batching rule for {site.node.key}")
    if name := _unranked(site):
        return [], f"the rank of {name!r} is unknown"
    on_offer: list[Option] = []
    reasons: list[str] = []
    for entry in rules:
        try:
            given = (
                option
                for option in entry.offers(site)
                if (tuned or not option.tuned) and option.only in ("", provider)
            )
            on_offer += (
                option
                for option in given
                if _fits(option, site) and (measures or _by_constants(option, site, provider))
            )
        except Refuse as refusal:
            reasons.append(str(refusal))
    # Where prices are equal, the plan takes the first.
    on_offer.sort(
        key=lambda option: option.for_targets or not all(layout.common for layout in option.layouts)
    )
    return on_offer, "" if on_offer else "; ".join(
        dict.fromkeys(reasons)
    ) or "no form of its rule applies here"


def _by_constants(option: Option, site: Site, provider: str) -> bool:
    """True where an option is on offer to plans that do not measure."""
    if provider == "cpu":
        return is_measured(option, site)
    return not (option.unmeasured and option.only)


def is_measured(option: Option, site: Site) -> bool:
    """True where the constants of targets/cpu.json cover the speed of an option."""
    return not option.unmeasured and all(layout.told(kind.dims or ()) for layout, kind in _held(option, site))


def _held(option: Option, site: Site) -> Iterator[tuple[Layout, ValueType]]:
    """The values that a node reads and writes in a layout."""
    inputs = zip(site.node.inputs, option.takes, site.inputs, strict=False)
    outputs = zip(site.node.outputs, option.gives, site.outputs, strict=False)
    return ((layout, kind) for name, layout, kind in (*inputs, *outputs) if name and layout is not None)


def _fits(option: Option, site: Site) -> bool:
    """False where a value can't be held in its layout, which may name an axis that it does not have: then the
    node is not valid, and its rule took its operands to be what the operator asks for."""
    if site.chosen and any(layout.counted for layout in option.layouts):
        return False
    held, read = list(_held(option, site)), {dim for kind in site.inputs for dim in kind.dims or ()}
    if not all(layout.fits(None if kind.proto else kind.dims or ()) for layout, kind in held):
        return False
    known = all(layout.known(kind.dims or (), read) for layout, kind in held)
    return known and (site.opset >= 14 or all(layout.told(kind.dims or ()) for layout, kind in held))


def _unranked(site: Site) -> str:
    """The name of a tensor without a rank, which can have no layout, or ""."""
    node = site.node
    for name, value_type in zip((*node.inputs, *node.outputs), (*site.inputs, *site.outputs), strict=True):
        if name and value_type.dims is None and value_type.proto is None:
            return name
    return ""


def table() -> Mapping[str, Sequence[Rule]]:
    """Operators of models and their rules, sorted by name."""
    return {op: tuple(REGISTRY[op]) for op in sorted(REGISTRY) if not op.startswith(f"{OWN}.")}
