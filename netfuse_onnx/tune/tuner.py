"""Tunes the cost of a family: measures its lowerings where there is a choice, most expensive first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.plan.planner import candidates
from netfuse_onnx.plan.search import Search
from netfuse_onnx.plan.sized import retyped
from netfuse_onnx.plan.timed import Timed
from netfuse_onnx.rules import Site
from netfuse_onnx.run import hardware
from netfuse_onnx.run.runtime import RunFailed, Runtime
from netfuse_onnx.storage.weights import nbytes
from netfuse_onnx.tune import frame
from netfuse_onnx.tune.cache import Cache, about
from netfuse_onnx.tune.catalogue import Catalogue
from netfuse_onnx.tune.clock import Clock
from netfuse_onnx.tune.measuring import Measurer
from netfuse_onnx.tune.probes import Case, NodeCase
from netfuse_onnx.tune.tuned import Scales, Summary, Tuned
from netfuse_onnx.types import Correspondence, Lowering

SECONDS = 60.0
"""The default budget of a tuning."""
SAVED = 10.0
"""The seconds after which new times are written to the cache, so that a run that is killed loses few."""

Progress = Callable[[str, int, int], None]


@dataclass
class Entry:
    """A case that is to be measured, by its key. `users`: the nodes or values that are alike."""

    case: Case
    predicted: float
    users: int = 0


@dataclass
class Group:
    """Cases that are measured in turns: the lowerings of one node, or one conversion."""

    keys: tuple[str, ...]
    stake: float = 0.0
    """The microseconds that the nodes of this kind take together, by the prediction."""


@dataclass
class Survey:
    """All that may be measured of a family."""

    entries: dict[str, Entry] = field(default_factory=dict)
    groups: dict[tuple[str, ...], Group] = field(default_factory=dict)

    def add(self, cases: Mapping[str, tuple[Case, float]]) -> None:
        keys = tuple(sorted(cases))
        for key in keys:
            case, predicted = cases[key]
            self.entries.setdefault(key, Entry(case, predicted)).users += 1
        group = self.groups.setdefault(keys, Group(keys))
        group.stake += min((predicted for _, predicted in cases.values()), default=0.0)


def tuned(
    family: Correspondence,
    *,
    io: str = "separate",
    share: frozenset[str] = frozenset(),
    runtime: Runtime,
    dims: Mapping[str, int] | None = None,
    seconds: float = SECONDS,
    threads: int = 0,
    tell: Progress = lambda what, done, total: None,
    cache: bool = True,
    target: str = "",
) -> Tuned:
    """The cost of a plan for this machine; its `summary` says how much of it was measured.

    `target`: whose constants predict what is not measured, by default those of the provider. `threads`: those
    of a session, by default as many as there are cores. `seconds`: the time after which
    nothing more is measured.
    """
    start = time.monotonic()
    threads = threads or hardware.cores()
    base = cost(target or runtime.provider, family, dims or {})
    assert isinstance(base, Timed)
    survey, catalogue = surveyed(family, io, share, base)
    store = Cache(about(runtime, threads)) if cache else None
    known = store.read() if store else {}
    clock = Clock(runtime, threads)
    held = sum(nbytes(part) for parts in family.weights.values() for part in parts)
    fresh = _measured(survey, known, clock, held, start + seconds, tell, store) if seconds > 0 else {}
    times = {key: time for key, time in (known | fresh).items() if key in survey.entries}
    scales = Scales.of((e.case, times[key], e.predicted) for key, e in survey.entries.items() if key in times)
    counts = len(fresh), len(times) - len(fresh), len(survey.entries) - len(times)
    summary = Summary(*counts, round(time.monotonic() - start, 1))
    return Tuned(base, family, times, scales=scales, catalogue=catalogue, summary=summary)


def surveyed(family: Correspondence, io: str, share: frozenset[str], base: Timed) -> tuple[Survey, Catalogue]:
    """The lowerings of nodes that have several, and the conversions of the values beside these."""
    catalogue, survey = Catalogue(base.provider), Survey()
    everything = Tuned(base, family, {}, catalogue=catalogue, open=True)
    found = candidates(family, io=io, share=share, cost=everything)
    priced = everything.priced(family)
    found = replace(found, sites=retyped(found.sites, priced))
    for site, offers in zip(found.sites, found.options, strict=True):
        cases = dict(_cases(everything, offers, site, base)) if len(offers) > 1 else {}
        if len(cases) > 1:
            survey.add(cases)
    _survey_conversions(family, priced, found, everything, survey)
    return survey, catalogue


def _cases(
    cost: Tuned, offers: Sequence[Lowering], site: Site, base: Timed
) -> Iterator[tuple[str, tuple[Case, float]]]:
    for offer in offers:
        case = NodeCase(offer, site)
        key = cost.catalogue.key(case) if cost.accounts.of(offer).launches else ""
        if key:
            yield key, (case, base.lowering(offer, site))


def _survey_conversions(
    family: Correspondence, priced: Correspondence, found: Candidates, cost: Tuned, survey: Survey
) -> None:
    """Ask for every price that a search needs, and note those of conversions."""
    free = _beside_choices(family, found)
    seen: dict[tuple[str, str], tuple[Case, float]] = {}

    def note(case: Case, key: str, predicted: float, name: str) -> None:
        if name in free and not isinstance(case, NodeCase):
            seen[key, name] = case, predicted

    cost.noted = note
    Search(priced, found, cost)
    cost.noted = None
    for (key, _), measurable in seen.items():
        survey.add({key: measurable})


def _beside_choices(family: Correspondence, found: Candidates) -> set[str]:
    """The values that a node with a choice makes or reads."""
    pairs = zip(family.graph.nodes, found.options, strict=True)
    return {name for node, offers in pairs if len(offers) > 1 for name in (*node.reads, *node.outputs)}


def _measured(
    survey: Survey,
    known: Mapping[str, float],
    clock: Clock,
    held: int,
    until: float,
    tell: Progress,
    store: Cache | None,
) -> dict[str, float]:
    """Measure what is not known, most expensive first, as far as the time goes."""
    fresh: dict[str, float] = {}
    todo = [g for g in survey.groups.values() if any(key not in known for key in g.keys)]
    todo.sort(key=lambda group: group.stake, reverse=True)
    if not todo:
        return fresh
    try:
        around = _frame(known, fresh, clock)
        measurer = Measurer(clock, around, clock.runtime.provider, held)
        saved = time.monotonic()
        for done, group in enumerate(todo):
            if time.monotonic() >= until:
                break
            tell("measuring lowerings", done, len(todo))
            entries = [survey.entries[key] for key in group.keys]
            taken = measurer.group([e.case for e in entries], [e.predicted for e in entries], until)
            fresh |= {key: t for key, t in zip(group.keys, taken, strict=True) if not math.isnan(t)}
            if store and time.monotonic() - saved > SAVED:
                saved = time.monotonic()
                store.add(fresh)
    except RunFailed:
        return {}
    finally:
        if store:
            store.add(fresh)
    return {key: t for key, t in fresh.items() if key in survey.entries}


def _frame(known: Mapping[str, float], fresh: dict[str, float], clock: Clock) -> frame.Frame:
    if all(name in known for name in frame.NAMES):
        return frame.Frame({name: known[name] for name in frame.NAMES})
    made = frame.measured(clock)
    fresh |= made.times
    return made
