"""Runs of the sources for the proof of the values: one source at a time, each freed before the next.

The first source chooses the inputs: one case per batch size (1, 2 and N), from what `inputs` offers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from netfuse_onnx.errors import NotProven, UsageFault
from netfuse_onnx.labels import Labels
from netfuse_onnx.prove.compare import Magnitudes, finite
from netfuse_onnx.prove.coverage import MOST, Reach, Widening, candidates
from netfuse_onnx.prove.sizes import ATTEMPTS, MAX_MEMORY, Room, Search
from netfuse_onnx.run import bounds, inputs, symbols
from netfuse_onnx.run.inputs import Case, InputSpec
from netfuse_onnx.run.npz import given
from netfuse_onnx.run.offers import Offers, Seen
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session, Value
from netfuse_onnx.types import Correspondence

AGAIN = 40
"""So many choices of inputs are offered for a batch size after one for which none was found."""
SHOWN = 6
"""So many inputs are named in an error."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the total."""


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of a proof. `dims` binds symbolic dims; `file` is an .npz of inputs; `rtol` and `atol`
    override. `search`: look for inputs that say more than the first that run. `isolation`: try odd values
    on every model, not on two. `max_memory` is in bytes; `wide` is the rung of the ladder on which spatial
    sizes begin. `single`: a batch of 1 alone."""

    runtime: Runtime
    io: str = "separate"
    share: frozenset[str] = frozenset()
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    rtol: float | None = None
    atol: float | None = None
    file: str = ""
    search: bool = True
    isolation: bool = False
    max_memory: int = MAX_MEMORY
    wide: int = 0
    single: bool = False

    def remembering(self, dims: Mapping[str, int], family: Correspondence) -> Options:
        """The same with the sizes that merge was given, of symbols that the sources have and these options
        do not bind."""
        symbolic = inputs.names(inputs.describe(family))
        return replace(self, dims={name: dims[name] for name in symbolic if name in dims} | {**self.dims})


class Trial:
    """The cases, and what the sources gave: `outputs[model][case]` by the first source's output names.

    `same_input[model]` is what each model gives on the inputs of the first, by the label of the case: the
    first case and those that were searched for. `unreached` are sides of thresholds that no case reaches.
    """

    def __init__(self, family: Correspondence, options: Options) -> None:
        self.family = family
        self.options = options
        self.labels = Labels.of(family, options.io, options.share)
        self.specs: tuple[InputSpec, ...] = inputs.describe(family)
        self.room = Room(family, self.specs, options.max_memory)
        self.cases: list[Case] = []
        self.outputs: list[list[dict[str, Value]]] = [[] for _ in family.sources]
        self.same_input: list[dict[str, dict[str, Value]]] = []
        self.unreached: tuple[str, ...] = ()
        self.skipped: list[str] = []
        self.telling = False  # whether a case gives an element that can be compared
        symbolic = symbols.free(spec.dims for spec in self.specs)
        for name in options.dims:
            if name not in inputs.names(self.specs):
                known = ", ".join(symbolic) or "none"
                raise UsageFault(f"There is no symbolic dimension {name!r}.", f"The models have: {known}.")
        if not options.dims.keys() <= set(symbolic):
            self._tell_apart()

    # ------------------------------------------------------------------ feeding

    def feeds(self, case: Case, model: int) -> dict[str, Value]:
        """The inputs of one model, by the first source's names."""
        return inputs.draw(self.specs, case, model, self.options.share, self.options.seed)

    def merged_feeds(self, case: Case) -> dict[str, Value]:
        """The inputs of all models, as the merged model takes them."""
        return self.joined([self.feeds(case, model) for model in range(self.family.models)])

    def joined(self, drawn: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
        """The inputs of each model as the merged model takes them."""
        merged: dict[str, Value] = {}
        for spec in self.specs:
            values = [feed[spec.name] for feed in drawn]
            if self.options.io == "stacked" and spec.name not in self.options.share:
                merged[spec.name] = np.stack([np.asarray(v) for v in values])
            else:
                for model, value in enumerate(values):
                    merged.setdefault(self.labels.input(model, spec.name), value)
        return merged

    def pick(self, model: int, name: str, result: Mapping[str, Value]) -> tuple[Value, str]:
        """One model's share of the merged outputs, or what is wrong with them."""
        key = self.labels.output(model, name)
        if key not in result:
            return None, f"the merged model has no output {key!r}"
        value = result[key]
        if self.options.io != "stacked":
            return value, ""
        if not isinstance(value, np.ndarray) or not value.ndim or len(value) != self.family.models:
            return None, f"output {key!r} has no leading axis of size {self.family.models}"
        return np.asarray(value[model]), ""

    def run(self, session: Session, model: int, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Run one source; inputs and outputs by the first source's names. Raises RunFailed."""
        result = session.run(self.renamed(model, feeds))
        return {name: result[own] for name, own in self.family.edge(model).outputs.items()}

    def renamed(self, model: int, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Feeds by the names that the file of one model uses."""
        own = self.family.edge(model).inputs
        return {own[name]: value for name, value in feeds.items()}

    def channels(self, output: str) -> Magnitudes:
        """An empty gathering of the magnitudes of an output."""
        return Magnitudes(self.family.edge_type(output).dims)

    # ------------------------------------------------------------------ running

    def run_sources(self, tell: Progress) -> None:
        """Fill in cases and outputs. Raises NotProven when the sources take no inputs that were tried."""
        search = None
        self._bounded()
        for model, source in enumerate(self.family.sources):
            tell("running the sources", model, self.family.models)
            try:
                session = Session(source.path, self.options.runtime)
            except RunFailed as error:
                raise NotProven(
                    f"{source.path} does not load in ONNX Runtime: {error}.",
                    f"{'Give --ort-library for its operators' if _unknown(error) else 'Mend the model'}, "
                    "or merge without the proof: --no-verify.",
                ) from error
            if model == 0:
                search = self._choose(session, tell)
                self._widen(session)
            else:
                self._repeat(session, model)
            if not self.cases:
                raise self._no_inputs(search if model == 0 else None)
            if not self.telling:
                raise NotProven(
                    f"Nothing could be compared ({self.skipped[-1]}).",
                    "Give other inputs with --inputs FILE.npz, sizes with --dim NAME=VALUE, or --no-verify.",
                )
            self.same_input.append(self._on_the_first_ones_inputs(session, model))
            del session  # before the next is made

    def _bounded(self) -> None:
        """Raise NotProven for sources that take too much before they are fed, or never end."""
        source = replace(self.family.sources[0], graph=self.family.graph)
        if reason := bounds.refusal(source, self.options.max_memory, fed=False):
            raise NotProven(
                f"{source.path} is not run: {reason}.",
                "Allow more with --max-memory, or merge without the proof: --no-verify.",
            )

    def _on_the_first_ones_inputs(self, session: Session, model: int) -> dict[str, dict[str, Value]]:
        """The results of a model on the inputs of the first one, where it takes them."""
        searched = [i for i, case in enumerate(self.cases) if i == 0 or case.scale != 1.0 or case.salt]
        if model == 0:
            return {self.cases[i].label: self.outputs[0][i] for i in searched}
        return self._results(session, model, [self.cases[i] for i in searched], 0)

    def _widen(self, session: Session) -> None:
        """Add cases that show more of the first source: outputs alive, thresholds reached."""
        if not self.cases or not self.options.search:
            return
        widening = Widening(Reach(self.family.sources[0], self.options.runtime))
        widening.gains(self.feeds(self.cases[0], 0), self.outputs[0][0])
        enough = len(self.cases) + MOST
        for case in () if self.options.file else candidates(self.specs, self.cases[0]):
            if widening.done or len(self.cases) == enough:
                break
            feeds = self.feeds(case, 0)
            try:
                result = self.run(session, 0, feeds)
            except RunFailed:
                continue
            if widening.gains(feeds, result):
                self.cases.append(case)
                self.outputs[0].append(result)
                self.telling = self.telling or any(map(finite, result.values()))
        self.unreached = tuple(sorted(map(str, widening.missing)))

    def try_further(self, tell: Progress) -> bool:
        """Run all sources on the candidates that no case has used yet. True where a case was added."""
        if not self.options.search or self.options.file or not self.cases:
            return False
        fresh = [case for case in candidates(self.specs, self.cases[0]) if case not in self.cases][:MOST]
        own: list[dict[str, dict[str, Value]]] = []
        same: list[dict[str, dict[str, Value]]] = []
        for model, source in enumerate(self.family.sources):
            tell("looking for inputs that tell the models apart", model, self.family.models)
            session = Session(source.path, self.options.runtime)
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
        """The results of a model on the inputs of one of them, by the label of the cases that it takes."""
        found = {}
        for case in some:
            try:
                found[case.label] = self.run(session, model, self.feeds(case, inputs_of))
            except RunFailed:
                continue
        return found

    def _batches(self) -> list[int]:
        names = symbols.batches([spec.dims for spec in self.specs])
        if self.options.file or self.options.single or not set(names) - set(self.options.dims):
            return [1]
        return sorted({1, 2, self.family.models})

    def _tell_apart(self) -> bool:
        """Give every axis a size of its own, whatever names they share. False where none do."""
        named, self.specs = self.specs, inputs.apart(self.specs, self.options.dims)
        self.room = Room(self.family, self.specs, self.options.max_memory)
        return self.specs != named

    def _choose(self, session: Session, tell: Progress) -> Search:
        """Find the cases, at first with one size for all axes of one name. The result is the search that
        found them, or the first one that did not."""
        search, named = self._searched(session, tell), (self.specs, self.room, self.skipped)
        if not self.cases and not self.options.file and self._tell_apart():
            self.skipped = []
            other = self._searched(session, tell)
            if self.cases:
                return other
            self.specs, self.room, self.skipped = named
        return search

    def _searched(self, session: Session, tell: Progress) -> Search:
        """For each batch size the first case that runs and tells most; or the reason why there is none."""
        batches, seen, searches = self._batches(), None, list[Search]()
        for batch in batches:
            searches.append(
                Search(
                    lambda case: self.run(session, 0, self.feeds(case, 0)),
                    lambda case: self.room.refuse(case, len(batches)),
                    lambda done, most: tell("looking for inputs that the models take", done, most),
                    AGAIN if searches else ATTEMPTS,
                )
            )
            found = searches[-1].best(self._offers(batches, batch, seen))
            if found is None:
                self.skipped.append(searches[-1].why)
                continue
            self.cases.append(found.case)
            self.outputs[0].append(dict(found.outputs))
            self.telling = self.telling or found.finite
            if not found.finite:
                self.skipped.append(f"{found.case.label}: all outputs are empty or NaN, so it tells nothing")
            seen = seen or Seen(found.case, batch)
        return searches[0]

    def _offers(self, batches: Sequence[int], batch: int, seen: Seen | None) -> Offers:
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
        begin = (0, options.wide) if seen else self.room.begin(dict(options.dims), batches, options.wide)
        return Offers(self.specs, batch, options.dims, models=self.family.models, seen=seen, begin=begin)

    def _no_inputs(self, search: Search | None) -> NotProven:
        """The reason why there is no case at all, and what to do. `search` is that of the first source, where
        it is the one that takes none."""
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
            case, said = search.first
            why = f"{search.runs} tried, first {self._told(case)}: {said}"
        return NotProven(f"No inputs were found that the models take ({why}).", hint)

    def _told(self, case: Case) -> str:
        """The shapes of some inputs of a case."""
        shapes = [f"{name} {list(dims)}" for name, dims in self.room.shapes(case).items()]
        more = f" and {len(shapes) - SHOWN} more" if len(shapes) > SHOWN else ""
        return ", ".join(shapes[:SHOWN]) + more

    def _repeat(self, session: Session, model: int) -> None:
        """Run a further source on the cases; one that it refuses is dropped for all."""
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


def _unknown(error: RunFailed) -> bool:
    """Whether ONNX Runtime lacks an operator, so that a custom library may help."""
    return "is not a registered" in str(error) or "NOT_IMPLEMENTED" in str(error.__cause__)
