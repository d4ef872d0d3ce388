"""The results of the proofs: dataclasses that reports hold and JSON shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class Judged:
    """A proof that holds where it found no problems."""

    __slots__ = ()
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class BytesProof(Judged):
    """Proof (a): every merged weight, with its recipe undone, equals the sources' weights bit for bit, and so
    do attributes that are learned or differ between the models. `attributes` counts those of every model.
    `elsewhere` counts weights and attributes that were computed into constants or other operators; the proofs
    of the values and of the graph cover them. Sizes are in bytes. `note` is the reason why the proof was
    not made; '' where it was."""

    weights: int = 0
    bytes: int = 0
    problems: tuple[str, ...] = ()
    attributes: int = 0
    attribute_bytes: int = 0
    elsewhere: int = 0
    note: str = ""

    @property
    def made(self) -> bool:
        return not self.note


@dataclass(frozen=True, slots=True)
class Reconstructed:
    """A weight that is W_0 + L R. `error` is the largest one of an element of any model, in units of what is
    allowed, and `model` the model that has it."""

    weight: str
    rank: int
    error: float
    model: str


@dataclass(frozen=True, slots=True)
class Reconstruction(Judged):
    """The proof of weights that are low-rank differences: W_0 + L R of the merged file, computed in float64,
    is the weight of every model within 4 units in the last place of the largest absolute value of its row, or
    within `tolerance` times that value where it is more."""

    weights: tuple[Reconstructed, ...]
    tolerance: float = 0.0
    problems: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        return max((row.error for row in self.weights), default=0.0)


@dataclass(frozen=True, slots=True)
class ViewsProof(Judged):
    """The proof of views: `outputs` of `views` views were compared with those of their sources, over all
    cases, bit for bit where the view is exact. `unsteady` are outputs in which a source differs from itself
    from run to run: only type and shape count there."""

    views: int = 0
    outputs: int = 0
    unsteady: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptProof(Judged):
    """The proof that a change of a merged file left its other `models` as they were: on the same inputs, the
    file before and the file after gave the same `outputs`, so many of them bit for bit (`exact`)."""

    models: int = 0
    outputs: int = 0
    exact: int = 0
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GraphProof(Judged):
    """Proof (c): the graph of the file is the one that merging these sources gives. `note` is the reason why
    the proof was not made; '' where it was."""

    nodes: int = 0
    problems: tuple[str, ...] = ()
    note: str = ""

    @property
    def made(self) -> bool:
        return not self.note


@dataclass(frozen=True, slots=True)
class OutputProof:
    """One output of one model at its worst element over all cases. `ratio` is error / allowed. `noise` is the
    source's largest change by rounding, where it had to be measured; `unproven` says that it is so large that
    the comparison tells nothing; `plain` says that the output was compared with what the source gives without
    ONNX Runtime's optimisations."""

    model: str
    output: str
    precision: str
    case: str
    ratio: float
    error: float
    allowed: float
    scale: float = 0.0
    at: tuple[int, ...] = ()
    got: str = ""
    want: str = ""
    wrong: int = 0
    size: int = 0
    noise: float | None = None
    ties: int = 0
    problem: str = ""
    unproven: bool = False
    plain: bool = False
    combined: str = ""
    """The word for the combination of all models, where the output is one: mean, sum or vote."""

    @property
    def differs(self) -> bool:
        """True where the output is not that of the source."""
        return bool(self.problem) or self.ratio > 1.0

    @property
    def ok(self) -> bool:
        return not self.differs and not self.unproven


APART = 10.0
"""Distance of two models on the same input, in units of the tolerance, above which an exchange is seen."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The distance of the two models that are most alike, on the same input, in units of the tolerance."""

    ratio: float
    models: tuple[str, str]

    @property
    def telling(self) -> bool:
        """True where two swapped models would have been seen."""
        return self.ratio >= APART


RANDOM = "random"
ALIKE = "too alike"
"""Reasons why an output does not tell models apart: it is random and compared by type and shape only, or the
models differ by little more than the tolerance."""


@dataclass(frozen=True, slots=True)
class Telling:
    """The ability of one output to show that two models were exchanged.

    `ratio` is the distance of the two models that are most alike, on the same input, in units of the
    tolerance, and `models` are these two. `reason` is '' where the output tells all models apart, else the
    reason why it does not; `alike` holds the pairs that it can't tell apart. Of the `channels` on `axis`,
    `quiet` do not tell all models apart.

    An exchange changes no combination of all models. Where the output is one, named by `combined`, `alike`
    holds the pairs of which one might have been counted twice, in the place of the other, and `left_out` the
    models that might not have been counted at all, without a difference that shows.
    """

    output: str
    ratio: float
    models: tuple[str, str]
    reason: str = ""
    alike: tuple[tuple[str, str], ...] = ()
    axis: int = 0
    channels: int = 0
    quiet: int = 0
    combined: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Isolation(Judged):
    """The result of feeding odd values to one model at a time: the outputs of all others must stay equal bit
    for bit. So many `models` were fed such values, in so many `calls`; so many calls with unequal sizes were
    `refused`, as they should be."""

    models: int
    calls: int
    refused: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection(Judged):
    """The result of calls that choose models by their ids: one alone, and some twice and out of order. So
    many `calls` were compared with the sources; so many calls with an id of no model, or with other rows than
    ids, were `refused`, as they must be."""

    calls: int
    refused: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mixes(Judged):
    """The calls of a routed file with other numbers of rows of each model than the cases have: so many
    `calls` with so many `rows`. So many calls that name no model, or disagree in their rows, were `refused`,
    as they must be."""

    calls: int
    rows: int
    refused: int
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replays(Judged):
    """The repeated runs of a proof on CUDA, which show values that stay from a former run. So many files ran
    `again` after other inputs, and so many were captured as CUDA `graphs` and replayed. `refused` has the
    reason for each file of which ONNX Runtime makes no CUDA graph, which is no problem."""

    again: int = 0
    graphs: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ValuesProof:
    """Proof (b): the merged model gives what the sources give.

    `sizes` has the bytes of every input and output in the first case, all models together; an input that is
    fed once counts once. `shapes` has the shape of every input of one model, by case. `telling` has a row for
    each output, in families of two or more. `unreached` names nodes with a threshold, such as Clip, that the
    inputs did not reach on one side. `left_out` names optimisers of ONNX Runtime that the sources and the
    merged model ran without, because the provider that the file was merged for lacks what they make. On CUDA,
    the verdict is that with TF32 off; `tf32` is the largest change of a merged output by TF32, relative to
    its scale, and `replays` has the repeated runs. `selection` has the calls of a file whose calls choose
    models.
    """

    provider: str
    cases: tuple[str, ...]
    outputs: tuple[OutputProof, ...] = ()
    skipped: tuple[str, ...] = ()
    placed: Mapping[str, int] = field(default_factory=dict)
    spread: Spread | None = None
    telling: tuple[Telling, ...] = ()
    unreached: tuple[str, ...] = ()
    isolation: Isolation | None = None
    tf32: float | None = None
    replays: Replays | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    selection: Selection | None = None
    mixes: Mixes | None = None
    """None for a file that is not routed."""

    @property
    def ok(self) -> bool:
        return self.isolated and not self.problems and bool(self.cases) and all(o.ok for o in self.outputs)

    @property
    def isolated(self) -> bool:
        """True where no model changed the outputs of another, and none was taken for another."""
        return all(part is None or part.ok for part in (self.isolation, self.selection, self.mixes))

    @property
    def unproven(self) -> bool:
        """True where nothing differs, but the comparison of some output can't tell."""
        wrong = self.problems or not self.cases or not self.isolated or any(o.differs for o in self.outputs)
        return not wrong and any(out.unproven for out in self.outputs)

    @property
    def worst(self) -> OutputProof | None:
        return max(self.outputs, key=lambda out: (bool(out.problem), out.ratio, out.unproven), default=None)


def describe(out: OutputProof) -> str:
    """Describe the worst element of an output in one sentence."""
    whose = f", the {out.combined} of all models," if out.combined else f" of model {out.model}"
    head = f"Output {out.output}{whose} differs ({out.case})"
    if out.problem:
        return f"{head}: {out.problem}."
    if out.unproven and not out.differs:
        return (
            f"Output {out.output}{whose} can't be proved ({out.case}): rounding alone changes "
            f"what the source gives by {out.noise or 0.0:.3g}, where its largest element is {out.scale:.3g}."
        )
    return (
        f"{head} at {list(out.at)}: {out.got}, not {out.want}; error {out.error:.3g}, "
        f"allowed {out.allowed:.3g}; {out.wrong} of {out.size} elements are wrong."
    )
