"""Runs the sources for the proof of the values: one source at a time, each freed before the next.

The inputs are chosen by what the first source accepts: one case per batch size (1, 2 and N; for many models
1 and 2, since N rows for each of N models take a time that grows with the square).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from netfuse_onnx.errors import NotProven
from netfuse_onnx.labels import Labels
from netfuse_onnx.prove.compare import Magnitudes, finite
from netfuse_onnx.prove.coverage import MOST, Coverage, Reach, candidates
from netfuse_onnx.prove.loaded import CheckedRunner, Runner, session_of
from netfuse_onnx.prove.options import Options
from netfuse_onnx.prove.sizes import ATTEMPTS, Room, Search
from netfuse_onnx.run import bounds, inputs, symbols
from netfuse_onnx.run.inputs import Case, InputSpec
from netfuse_onnx.run.npz import given
from netfuse_onnx.run.offers import Offers, Seen
from netfuse_onnx.run.packing import Packing
from netfuse_onnx.run.runtime import RunFailed, Session, Value
from netfuse_onnx.types import Correspondence, Source

__all__ = ["Options", "Progress", "Trial"]

LATER_ATTEMPTS = 40
"""The choices of inputs that are offered for every batch size but the first, at most."""
MANY = 64
"""Larger families are not run with a batch of their number, if no one asks for it."""
SHOWN = 6
"""The inputs that an error names, at most."""

Progress = Callable[[str, int, int], None]
"""A function that is called with the name of a step, how much of it is done, and the total."""


class Trial:
    """The cases, and the outputs of the sources: `outputs[model][case]` by the first source's output names.

    `same_input[model]` holds what each model gives on the inputs of the first one, by the label of the case:
    the first case and those that coverage.py added. `unreached` names sides of thresholds that no case
    reaches; `telling` is True once some case gives an element that can be compared.
    """

    def __init__(self, family: Correspondence, options: Options) -> None:
        self.family = family
        self.options = options
        self.labels = Labels.of(family, options.io, options.share)
        self.packing = Packing(self.labels)
        self.repeated = self.labels.repeated
        """Inputs that are fed once, as one row, which stands for all rows of a model."""
        self.specs: tuple[InputSpec, ...] = inputs.describe(family)
        self.room = Room(family, self.specs, options.max_memory)
        self.cases: list[Case] = []
        self.outputs: list[list[dict[str, Value]]] = [[] for _ in family.sources]
        self.same_input: list[dict[str, dict[str, Value]]] = []
        self.unreached: tuple[str, ...] = ()
        self.skipped: list[str] = []
        self.telling = False
        symbolic = symbols.free(spec.dims for spec in self.specs)
        inputs.require_symbols(self.specs, options.dims)
        if not options.dims.keys() <= set(symbolic):
            self._separate_symbols()

    # ------------------------------------------------------------------ feeding

    def feeds(self, case: Case, model: int) -> dict[str, Value]:
        """Draw the inputs of one model, by the first source's names."""
        drawn = inputs.draw(self.specs, case, model, self.options.share, self.options.seed)
        return {name: same_rows(v) if name in self.repeated else v for name, v in drawn.items()}

    def merged_feeds(self, case: Case) -> dict[str, Value]:
        """Draw the inputs of all models, as the merged model takes them."""
        return self.joined([self.feeds(case, model) for model in range(self.family.models)])

    def joined(self, drawn: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
        """Join the inputs of the models into those that the merged model takes."""
        return self.packing.inputs(drawn)

    def pick(self, model: int, name: str, result: Mapping[str, Value]) -> tuple[Value, str]:
        """Return one model's part of the merged outputs, and '' or what is wrong with it."""
        return self.packing.pick(model, name, result)

    def run(self, session: Runner, model: int, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Run one source. Inputs and outputs have the first source's names. Raises RunFailed."""
        result = session.run(self.renamed(model, feeds))
        return {name: result[own] for name, own in self.family.edge(model).outputs.items()}

    def renamed(self, model: int, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Rename feeds to the names in the file of one model."""
        own = self.family.edge(model).inputs
        return {own[name]: value for name, value in feeds.items()}

    def channels(self, output: str) -> Magnitudes:
        """Return empty magnitudes for an output."""
        return Magnitudes(self.family.edge_type(output).dims)

    # ------------------------------------------------------------------ running

    def run_sources(
        self, tell: Progress, after: Callable[[Session, int], None] | None = None, most: int | None = None
    ) -> None:
        """Fill in cases and outputs, of the first `most` sources. `after` is called with each source while it
        is loaded. Raises NotProven when the sources take no inputs that were tried."""
        search = None
        self._refuse_unbounded()
        for model, source in enumerate(self.family.sources[:most]):
            tell("running the sources", model, self.family.models)
            try:
                session = session_of(source, self.options.runtime)
            except RunFailed as error:
                remedy = (
                    "Give --ort-library for its operators" if _lacks_operator(error) else "Mend the model"
                )
                raise NotProven(
                    f"{source.path} does not load in ONNX Runtime: {error}.",
                    f"{remedy}, or merge without the proof: --no-verify.",
                ) from error
            if model == 0:
                search = self._choose_cases(self._checked(session, source), tell)
                self._add_coverage(session)
            else:
                self._run_cases(session, model)
            if not self.cases:
                raise self._no_inputs(search if model == 0 else None)
            if not self.telling:
                raise NotProven(
                    f"Nothing could be compared ({self.skipped[-1]}).",
                    "Give other inputs with --inputs FILE.npz, sizes with --dim NAME=VALUE, or --no-verify.",
                )
            self.same_input.append(self._on_first_inputs(session, model))
            if after:
                after(session, model)
            del session  # before the next is made

    def _refuse_unbounded(self) -> None:
        """Raise NotProven for sources that never end, or take too much memory whatever they are fed."""
        source = replace(self.family.sources[0], graph=self.family.graph)
        if reason := bounds.refusal(source, self.options.max_memory, fed=False):
            raise NotProven(
                f"{source.path} is not run: {reason}.",
                "Allow more with --max-memory, or merge without the proof: --no-verify.",
            )

    def _on_first_inputs(self, session: Session, model: int) -> dict[str, dict[str, Value]]:
        """Return the results of a model on the inputs of the first one, where it takes them."""
        added = [i for i, case in enumerate(self.cases) if i == 0 or case.scale != 1.0 or case.salt]
        if model == 0:
            return {self.cases[i].label: self.outputs[0][i] for i in added}
        return self._results(session, model, [self.cases[i] for i in added], 0)

    def _add_coverage(self, session: Session) -> None:
        """Add cases that show more of the first source: outputs that vary, thresholds that are reached."""
        if not self.cases or not self.options.search:
            return
        coverage = Coverage(Reach(self.family.sources[0], self.options.runtime))
        coverage.gains(self.feeds(self.cases[0], 0), self.outputs[0][0])
        enough = len(self.cases) + MOST
        for case in () if self.options.file else candidates(self.specs, self.cases[0]):
            if coverage.done or len(self.cases) == enough:
                break
            feeds = self.feeds(case, 0)
            try:
                result = self.run(session, 0, feeds)
            except RunFailed:
                continue
            if coverage.gains(feeds, result):
                self.cases.append(case)
                self.outputs[0].append(result)
                self.telling = self.telling or any(map(finite, result.values()))
        self.unreached = tuple(sorted(map(str, coverage.missing)))

    def try_further(self, tell: Progress) -> bool:
        """Run all sources on the candidates that no case has used yet. True where a case was added."""
        if not self.options.search or self.options.file or not self.cases:
            return False
        fresh = [case for case in candidates(self.specs, self.cases[0]) if case not in self.cases][:MOST]
        own: list[dict[str, dict[str, Value]]] = []
        same: list[dict[str, dict[str, Value]]] = []
        for model, source in enumerate(self.family.sources):
            tell("looking for inputs that tell the models apart", model, self.family.models)
            session = session_of(source, self.options.runtime)
            own.append(self._results(session, model, fresh, model))
            same.append(own[0] if model == 0 else self._results(session, model, fresh, 0))
            fresh = [case for case in fresh if case.label in own[-1]]
            del session  # before the next is made
        for case in fresh:
            self.cases.append(case)
            for model in range(self.family.models):
                self.outputs[model].append(own[model][case.label])
                if case.label in same[model]:
                    self.same_input[model][case.label] = same[model][case.label]
        return bool(fresh)

    def _results(
        self, session: Session, model: int, some: Sequence[Case], inputs_of: int
    ) -> dict[str, dict[str, Value]]:
        """Run a model on the inputs of model `inputs_of`. Returns the results of the cases that run, by
        label."""
        results = {}
        for case in some:
            with suppress(RunFailed):
                results[case.label] = self.run(session, model, self.feeds(case, inputs_of))
        return results

    def _batches(self) -> list[int]:
        names = symbols.batches([spec.dims for spec in self.specs])
        if self.options.file or self.options.single or not set(names) - set(self.options.dims):
            return [1]
        return sorted({1, 2, self.family.models} if self.family.models <= MANY else {1, 2})

    def _separate_symbols(self) -> bool:
        """Give every axis a symbol of its own. False where all have one already."""
        named, self.specs = self.specs, inputs.separate_symbols(self.specs, self.options.dims)
        self.room = Room(self.family, self.specs, self.options.max_memory)
        return self.specs != named

    def _checked(self, session: Session, source: Source) -> Runner:
        runtime = self.options.runtime
        return session if runtime.provider == "cpu" else CheckedRunner(session, source, runtime)

    def _choose_cases(self, session: Runner, tell: Progress) -> Search:
        """Choose the cases, at first with one size for all axes of one name. Returns the search that found
        them, or the first one that did not."""
        search, named = self._search_cases(session, tell), (self.specs, self.room, self.skipped)
        if not self.cases and not self.options.file and self._separate_symbols():
            self.skipped = []
            other = self._search_cases(session, tell)
            if self.cases:
                return other
            self.specs, self.room, self.skipped = named
        return search

    def _search_cases(self, session: Runner, tell: Progress) -> Search:
        """Search, for each batch size and then for each further choice of sizes, the first case that runs and
        tells most. Where there is none, `skipped` gets the reason. Returns the search of the first batch
        size."""
        batches, seen, searches = self._batches(), None, list[Search]()
        for batch in batches:
            offers = self._offers(batches, batch, seen, self.options.dims)
            searches.append(self._search(session, tell, LATER_ATTEMPTS if searches else ATTEMPTS))
            case = self._take(searches[-1], offers)
            seen = seen or (Seen(case, batch) if case else None)
        if seen is None or self.options.file:
            return searches[0]
        for sizes in self.options.further:
            near = replace(seen, case=replace(seen.case, sizes={**seen.case.sizes, **sizes}))
            offers = self._offers(batches, batches[:2][-1], near, sizes)
            self._take(self._search(session, tell, LATER_ATTEMPTS), offers)
        return searches[0]

    def _search(self, session: Runner, tell: Progress, most: int) -> Search:
        count = len(self._batches()) + len(self.options.further)
        return Search(
            lambda case: self.run(session, 0, self.feeds(case, 0)),
            lambda case: self.room.refuse(case, count),
            lambda done, total: tell("looking for inputs that the models take", done, total),
            most,
        )

    def _take(self, search: Search, offers: Offers) -> Case | None:
        """Add the best case that is on offer."""
        best = search.best(offers)
        if best is None:
            self.skipped.append(search.why)
            return None
        self.cases.append(best.case)
        self.outputs[0].append(dict(best.outputs))
        self.telling = self.telling or best.finite
        if not best.finite:
            self.skipped.append(f"{best.case.label}: all outputs are empty or NaN, so it tells nothing")
        return best.case

    def _offers(
        self, batches: Sequence[int], batch: int, seen: Seen | None, dims: Mapping[str, int]
    ) -> Offers:
        options = self.options
        if options.file:
            feeds = given(options.file, self.specs, self.family, options.share)
            return Offers(self.specs, batch, {}, only=Case("given inputs", {}, given=feeds))
        for spec in self.specs:
            if not spec.dtype or (spec.dims is None and not spec.sequence):
                raise NotProven(
                    f"No input can be made up for {spec.name!r}, whose type or rank is unknown.",
                    "Give real ones with --inputs FILE.npz.",
                )
        begin = (0, options.wide) if seen else self.room.begin(dict(dims), batches, options.wide)
        return Offers(self.specs, batch, dims, models=self.family.models, seen=seen, begin=begin)

    def _no_inputs(self, search: Search | None) -> NotProven:
        """Return the error for no case at all. `search` is given where the first source takes none."""
        names = symbols.free(spec.dims for spec in self.specs)
        sizes = f"sizes with --dim NAME=VALUE (there are {', '.join(names)})" if names else ""
        if search and not search.first:
            return NotProven(
                f"The values can't be proven within the memory allowed: {search.why}.",
                f"Allow more with --max-memory{f', or give smaller {sizes}' if sizes else ''}.",
            )
        hint = f"Give real ones with --inputs FILE.npz{f', or {sizes}' if sizes else ''}."
        if self.options.file:
            hint = f"Check names, shapes and types in {self.options.file}."
        why = self.skipped[-1]
        if search and search.first:
            case, message = search.first
            why = f"{search.runs} tried, first {self._describe(case)}: {message}"
        return NotProven(f"No inputs were found that the models take ({why}).", hint)

    def _describe(self, case: Case) -> str:
        """Describe the shapes of the first inputs of a case."""
        shapes = [f"{name} {list(dims)}" for name, dims in self.room.shapes(case).items()]
        more = f" and {len(shapes) - SHOWN} more" if len(shapes) > SHOWN else ""
        return ", ".join(shapes[:SHOWN]) + more

    def _run_cases(self, session: Session, model: int) -> None:
        """Run a further source on the cases. A case that it refuses is dropped for all models."""
        kept = []
        for i, case in enumerate(self.cases):
            try:
                self.outputs[model].append(self.run(session, model, self.feeds(case, model)))
                kept.append(i)
            except RunFailed as error:
                self.skipped.append(f"{case.label}: model {self.family.names[model]}: {error}")
        if len(kept) < len(self.cases):
            for m in range(model):
                self.outputs[m] = [self.outputs[m][i] for i in kept]
            self.cases = [self.cases[i] for i in kept]


def same_rows(value: Value) -> Value:
    """Return the value with its first row in the place of every row."""
    return value if not isinstance(value, np.ndarray) else np.repeat(value[:1], len(value), axis=0)


def _lacks_operator(error: RunFailed) -> bool:
    """True where ONNX Runtime lacks an operator, so that a custom library may help."""
    return "is not a registered" in str(error) or "NOT_IMPLEMENTED" in str(error.__cause__)
