"""The survey of a family: all cases that may be measured, and what their times say of its nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from netfuse_onnx.layouts import SHARED, Layout
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.plan.planner import candidates
from netfuse_onnx.plan.search import Search
from netfuse_onnx.plan.sized import retyped
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.rules import Site
from netfuse_onnx.tune.cases import Case, ConversionCase, Member, NodeCase
from netfuse_onnx.tune.chains import chains, members
from netfuse_onnx.tune.keys import Keys
from netfuse_onnx.tune.tuned import Place, Scales, Tuned, place
from netfuse_onnx.types import Correspondence, Lowering, Plan, ValueType


@dataclass
class Entry:
    """A case, by its key, and its predicted time in microseconds."""

    case: Case
    predicted: float


@dataclass
class Group:
    """Cases that are measured in turns: the lowerings of one node or chain, or one conversion. `stake`: the
    microseconds that all that are alike take together, by the prediction."""

    keys: tuple[str, ...]
    stake: float = 0.0


@dataclass(frozen=True)
class Divided:
    """A chain of a family in one layout: the nodes between which the time of the case `key` is divided, with
    their predicted times."""

    key: str
    parts: tuple[tuple[Place, float], ...]


@dataclass
class Survey:
    """`found` are the candidates of the plan, priced; `choices` the groups of nodes that have several
    lowerings."""

    family: Correspondence
    priced: Correspondence
    base: Timed
    found: Candidates
    keys: Keys
    entries: dict[str, Entry] = field(default_factory=dict)
    choices: dict[tuple[str, ...], Group] = field(default_factory=dict)
    divided: list[Divided] = field(default_factory=list)

    def tuned(self, times: Mapping[str, float], **more: Any) -> Tuned:
        """The cost by these times."""
        seen = ((e.case, times[key], e.predicted) for key, e in self.entries.items() if key in times)
        return Tuned(
            self.base, self.family, times, scales=Scales.of(seen), keys=self.keys,
            shares=shares(self.divided, times), **more,
        )  # fmt: skip

    def add(self, cases: Mapping[str, Entry]) -> Group:
        """Enter cases that are measured in turns."""
        keys = tuple(sorted(cases))
        for key, entry in cases.items():
            self.entries.setdefault(key, entry)
        return Group(keys)


def surveyed(family: Correspondence, io: str, share: frozenset[str], base: Timed) -> Survey:
    """The lowerings of all nodes that have several. Conversions are entered where a plan wants them."""
    keys = Keys(base.accounts)
    everything = Tuned(base, family, {}, keys=keys, open=True)
    found = candidates(family, io=io, share=share, cost=everything)
    priced = everything.priced(family)
    found = replace(found, sites=retyped(found.sites, priced))
    survey = Survey(family, priced, base, found, keys)
    behind = set[int]()
    for chain in chains(family.graph, family.weights.keys()):
        heads = found.options[chain.nodes[0]]
        if len(heads) > 1:
            ways = [members(chain, offer, found.options, found.sites) for offer in heads]
            _enter(survey, everything, ways)
            behind.update(chain.nodes)
    for k, offers in enumerate(found.options):
        if len(offers) > 1 and k not in behind:
            _enter(survey, everything, [(Member(offer, found.sites[k]),) for offer in offers])
    return survey


def _enter(survey: Survey, cost: Tuned, ways: Sequence[tuple[Member, ...]]) -> None:
    """Enter the ways to run one node, or one chain."""
    cases: dict[str, Entry] = {}
    for way in ways:
        parts = tuple((place(m.lowering), survey.base.lowering(m.lowering, m.sized)) for m in way)
        launched = any(cost.accounts.of(member.lowering).launches for member in way)
        key = cost.keys.of(NodeCase(way)) if launched else ""
        if key:
            cases[key] = Entry(NodeCase(way), sum(predicted for _, predicted in parts))
            if len(way) > 1:
                survey.divided.append(Divided(key, parts))
    if len(cases) > 1:
        group = survey.add(cases)
        known = survey.choices.setdefault(group.keys, group)
        known.stake += min(entry.predicted for entry in cases.values())


def shares(divided: Iterable[Divided], times: Mapping[str, float]) -> dict[Place, float]:
    """The time of each chain that was measured, divided between its nodes as predictions have it.

    Several ways of a head may share the lowerings behind it, which have one price each: the least. The rest
    falls to the head, so that the sum is right.
    """
    parts = dict[Place, float]()
    for chain in (chain for chain in divided if chain.key in times):
        whole = sum(predicted for _, predicted in chain.parts)
        for where, predicted in chain.parts[1:]:
            part = times[chain.key] * predicted / whole if whole else 0.0
            parts[where] = min(part, parts.get(where, math.inf))
    for chain in (chain for chain in divided if chain.key in times):
        others = sum(parts[where] for where, _ in chain.parts[1:])
        parts[chain.parts[0][0]] = max(0.0, times[chain.key] - others)
    return parts


def alone(survey: Survey) -> list[Group]:
    """The nodes that have one lowering: no plan depends on their times, but what it is expected to take."""
    cost = survey.tuned({}, open=True)
    groups: dict[tuple[str, ...], Group] = {}
    for offers, site in zip(survey.found.options, survey.found.sites, strict=True):
        for key, entry in _singles(survey, cost, offers, site) if len(offers) == 1 else ():
            group = survey.add({key: entry})
            groups.setdefault(group.keys, group).stake += entry.predicted
    return sorted(groups.values(), key=lambda group: group.stake, reverse=True)


# --------------------------------------------------------------------------- what a plan uses


def wanted(survey: Survey, plan: Plan, cost: Tuned) -> list[Group]:
    """The cases that a plan uses and that were not measured, where there is a choice."""
    groups: dict[tuple[str, ...], Group] = {}
    for k, chosen in enumerate(plan.lowerings):
        offers, site = survey.found.options[k], survey.found.sites[k]
        if len(offers) > 1 and not cost.is_timed(chosen, site):
            cases = _singles(survey, cost, offers, site)
            group = survey.add({key: entry for key, entry in cases if key not in cost.times})
            groups.setdefault(group.keys, group).stake += cost.lowering(chosen, site)
    for case, key, predicted in _conversions(survey, plan, cost):
        if key not in cost.times:
            group = survey.add({key: Entry(case, predicted)})
            groups.setdefault(group.keys, group).stake += predicted
    return sorted(groups.values(), key=lambda group: group.stake, reverse=True)


def recall(survey: Survey, times: Mapping[str, float]) -> None:
    """Enter all that a search for a plan may ask for and that was measured before."""
    if not times:
        return
    cost = survey.tuned(times, open=True)
    for offers, site in zip(survey.found.options, survey.found.sites, strict=True):
        for key, entry in _singles(survey, cost, offers, site):
            if key in times:
                survey.add({key: entry})
    seen: list[tuple[ConversionCase, str, float]] = []
    cost.noted = lambda case, key, predicted, name: seen.append((case, key, predicted))
    Search(survey.priced, survey.found, cost)
    for case, key, predicted in seen:
        if key in times:
            survey.add({key: Entry(case, predicted)})


def _singles(
    survey: Survey, cost: Tuned, offers: Sequence[Lowering], site: Site
) -> Iterator[tuple[str, Entry]]:
    """The lowerings of one node that were not measured in a chain."""
    for offer in offers:
        case = cost.case(offer, site)
        key = cost.keys.of(case) if case else ""
        if case and key and place(offer) not in cost.shares:
            yield key, Entry(case, survey.base.lowering(offer, site))


def _conversions(survey: Survey, plan: Plan, cost: Tuned) -> list[tuple[ConversionCase, str, float]]:
    """The conversions that a plan makes, beside nodes that have a choice."""
    seen: list[tuple[ConversionCase, str, float]] = []
    free = _beside_choices(survey)

    def note(case: ConversionCase, key: str, predicted: float, name: str) -> None:
        if name in free:
            seen.append((case, key, predicted))

    cost.noted = note
    for name, src, dst in _made(survey, plan):
        cost.conversion(src, dst, survey.priced.graph.types.get(name, ValueType()), name)
    cost.noted = None
    return seen


def _made(survey: Survey, plan: Plan) -> Iterator[tuple[str, Layout, Layout]]:
    """The values that are converted, each with the layout that it has and one that is read."""
    has = dict[str, Layout](survey.found.inputs)
    reads = {(name, layout) for name, layout in survey.found.ends.items() if layout != SHARED}
    for node, chosen in zip(survey.family.graph.nodes, plan.lowerings, strict=True):
        has |= zip(node.outputs, chosen.gives, strict=True)
        reads |= {(name, take) for name, take in zip(node.reads, chosen.takes, strict=True) if take}
    for name, layout in sorted(reads):
        if name in has and has[name] != layout:
            yield name, has[name], layout


def _beside_choices(survey: Survey) -> set[str]:
    """The values that a node with a choice makes or reads."""
    pairs = zip(survey.family.graph.nodes, survey.found.options, strict=True)
    return {name for node, offers in pairs if len(offers) > 1 for name in (*node.reads, *node.outputs)}
