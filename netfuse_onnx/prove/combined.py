"""Compares the combined outputs with the combination of what the sources give, computed in float64 by numpy.

A mean or a sum may be as far off as its parts may, each by the tolerance of its own model. A vote is exact,
except where scores of a model are equal within that tolerance: then any of their labels may be its vote, as
in the comparison of other indices.

An exchange of two models changes no combination. What can go wrong is that a model is left out, or counted
twice in the place of another; `blind` finds the models for which the values could not have shown that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.combining import counts, labels, majority, winners
from netfuse_onnx.proofs import ALIKE, APART, OutputProof, Telling
from netfuse_onnx.prove.compare import BY_PRECISION, EXACT, Gap, Tolerance, allowed, compare, ratios
from netfuse_onnx.run.runtime import Array, Value

if TYPE_CHECKING:
    from netfuse_onnx.prove.judge import Judge

EVERY = "all models"
"""The model of a row of the proof that is about a combined output."""
NOISY = 1e-2
"""Noise of a source, relative to its largest element, above which a comparison tells nothing."""


def rows(judge: Judge, results: Sequence[Mapping[str, Value]]) -> Iterator[OutputProof]:
    """Yield the worst case of every combined output. Where one fails, the rounding noise of all sources is
    measured and allowed."""
    for name, how in judge.trial.family.combined.items():
        table = [_Parts(judge, name, how, case).row(result) for case, result in enumerate(results)]
        failed = {case for case, row in enumerate(table) if not row.ok}
        if failed:
            judge.measure_all(failed)
            for case in failed:
                table[case] = _Parts(judge, name, how, case).row(results[case])
        yield max(table, key=lambda row: (bool(row.problem), row.differs, row.unproven, row.ratio))


def telling(judge: Judge) -> Iterator[Telling]:
    """Yield a row for every combined output: the models that may be left out, or counted in the place of
    another, without a difference that the comparison would have seen."""
    trial = judge.trial
    names = trial.family.names
    for name, how in trial.family.combined.items():
        parts = [_Parts(judge, name, how, case) for case in range(len(trial.cases))]
        without = {m: max(one.without(m) for one in parts) for m in range(len(names))}
        twice = {
            (i, j): max(one.twice(i, j) for one in parts)
            for i, j in itertools.combinations(range(len(names)), 2)
        }
        (one, two), ratio = min(twice.items(), key=lambda pair: pair[1])
        ratio = min(ratio, *without.values())
        yield Telling(
            name, ratio, (names[one], names[two]), ALIKE if ratio < APART else "",
            tuple((names[i], names[j]) for (i, j), far in twice.items() if far < APART),
            combined=how, left_out=tuple(names[m] for m, far in without.items() if far < APART),
        )  # fmt: skip


@dataclass(frozen=True)
class _Parts:
    """The values of all models for one combined output in one case, with the noise that is known by now."""

    judge: Judge
    name: str
    how: str
    case: int

    @cached_property
    def values(self) -> list[Array]:
        return [np.asarray(each[self.case][self.name]) for each in self.judge.trial.outputs]

    @cached_property
    def wide(self) -> Array:
        """The values of all models in float64."""
        return np.stack(self.values).astype(np.float64)

    @property
    def floats(self) -> bool:
        return self.values[0].dtype.kind in "fV"

    @property
    def even(self) -> bool:
        """True where all values have one shape, without which there is no combination."""
        return len({value.shape for value in self.values}) == 1

    def row(self, result: Mapping[str, Value]) -> OutputProof:
        """Compare the merged output."""
        trial, ties, key = self.judge.trial, 0, self.judge.trial.labels.output(0, self.name)
        if key not in result:
            gap = Gap(problem=f"the merged model has no output {key!r}")
        elif not self.even:
            gap = Gap(problem="the shapes of the models' values differ")
        elif self.how == "vote":
            gap, ties = self._vote(np.asarray(result[key]))
        else:
            gap = compare(result[key], self.want, Tolerance(0.0, 0.0, self.allowed))
        noise, exact = self._noise(), self.how == "vote" or not self.floats
        return OutputProof(
            model=EVERY, output=self.name, case=trial.cases[self.case].label, noise=noise, ties=ties,
            precision="exact" if exact else self.judge.every[self.name].precision, combined=self.how,
            unproven=bool(noise is not None and gap.scale and noise > NOISY * gap.scale), **asdict(gap),
        )  # fmt: skip

    def _noise(self) -> float | None:
        """The largest noise that was measured on a source; None where it was not."""
        known = self.judge.noise.get(self.name)
        of = None if known is None else known.of(self.values[0])
        return None if of is None else float(np.max(of, initial=0.0))

    # ------------------------------------------------------------------ mean and sum

    @cached_property
    def want(self) -> Array:
        """The mean or sum, computed in float64; whole numbers in their own type."""
        dtype = self.values[0].dtype
        if not self.floats:
            return np.asarray(np.stack(self.values).sum(axis=0, dtype=dtype))
        with np.errstate(all="ignore"):
            return np.asarray(self._parted(self.wide.sum(axis=0), len(self.values)).astype(dtype))

    @cached_property
    def allowed(self) -> Array:
        """The error allowed: what is allowed to each model, combined like the values."""
        return self._parted(
            np.sum([self.of_model(m) for m in range(len(self.values))], axis=0), len(self.values)
        )

    def of_model(self, model: int) -> Array:
        """The error that is allowed to each value of one model."""
        value, tolerance = self.wide[model], self.judge.tolerance(self.name, self.values[model], model)
        return np.broadcast_to(allowed(value, tolerance), value.shape)

    def _parted(self, total: Array, count: int) -> Array:
        return np.asarray(total / max(count, 1) if self.how == "mean" else total)

    # ------------------------------------------------------------------ vote

    @cached_property
    def labels(self) -> Array:
        return labels(np.stack(self.values))

    def _vote(self, got: Array) -> tuple[Gap, int]:
        """Compare labels, and count those that differ because scores are equal within the tolerance."""
        want = majority(self.labels)
        gap = compare(got, want, EXACT)
        if gap.ok or gap.problem:
            return gap, 0
        wrong = [tuple(map(int, at)) for at in np.argwhere(got != want)]
        near = [self._near(model) for model in range(len(self.values))]
        bad = [
            at
            for at in wrong
            if not may_win(int(got[at]), [self._may(at, m, near[m]) for m in range(len(near))])
        ]
        if not bad:
            return replace(gap, ratio=0.0, wrong=0), len(wrong)
        shown = {"at": bad[0], "got": f"{got[bad[0]]}", "want": f"{want[bad[0]]}"}
        return replace(gap, wrong=len(bad), **shown), len(wrong) - len(bad)  # type: ignore[arg-type]

    def _near(self, model: int) -> Array | None:
        """The labels `[.., C]` whose scores are that of the model's own label within the tolerance. None
        where the scores are not known."""
        own = self.labels[model]
        if self.floats:
            scores, bound = self.wide[model], self.of_model(model)
        else:
            found = self.judge.scores(self.case, self.name, model)
            if found is None or found.shape[:-1] != own.shape:
                return None
            limit = BY_PRECISION[self.judge.every[self.name].precision]
            scores = found
            bound = limit.rtol * np.abs(scores) + limit.atol * np.abs(scores[np.isfinite(scores)]).max(
                initial=0.0
            )
        place = own.astype(np.int64)[..., None]
        with np.errstate(all="ignore"):
            best, slack = (np.take_along_axis(array, place, -1) for array in (scores, bound))
            return np.asarray((scores == best) | (np.abs(scores - best) <= bound + slack) | np.isnan(scores))

    def _may(self, at: tuple[int, ...], model: int, near: Array | None) -> frozenset[int]:
        """The labels that may be the vote of a model for one element."""
        label = int(self.labels[model][at])
        if near is not None:
            return frozenset(map(int, np.flatnonzero(near[at])))
        return frozenset((label - 1, label, label + 1) if self.judge.every[self.name].rounded else (label,))

    @cached_property
    def clear(self) -> Array:
        """True for elements whose labels no rounding may change."""
        if not self.floats:
            return np.ones(self.labels.shape[1:], bool)
        near = [self._near(model) for model in range(len(self.values))]
        return np.asarray(np.all([each.sum(axis=-1) == 1 for each in near if each is not None], axis=0))

    # ------------------------------------------------------------------ what the values could not show

    def without(self, model: int) -> float:
        """The distance to the combination of all models but one, in units of the tolerance."""
        if not self.even:
            return 0.0
        if self.how == "vote":
            return self._other_votes(model, None)
        return self._far((model,), (), len(self.values) - 1)

    def twice(self, one: int, two: int) -> float:
        """The distance to the combination with a model counted in the place of another, in either way."""
        if not self.even:
            return 0.0
        pairs = ((one, two), (two, one))
        if self.how == "vote":
            return min(self._other_votes(lost, kept) for lost, kept in pairs)
        return min(self._far((lost,), (kept,), len(self.values)) for lost, kept in pairs)

    def _far(self, lost: Sequence[int], kept: Sequence[int], count: int) -> float:
        """The distance to the combination without some models, and with others counted once more."""
        with np.errstate(all="ignore"):
            total = self.wide.sum(axis=0) - self.wide[[*lost]].sum(axis=0) + self.wide[[*kept]].sum(axis=0)
            other, want = self._parted(total, count), self.want.astype(np.float64)
            if not self.floats:
                return float("inf") if (other != want).any() else 0.0
            distance = ratios(other, want, Tolerance(0.0, 0.0, self.allowed))
        return float(distance[np.isfinite(want)].max(initial=0.0))

    @cached_property
    def _places(self) -> tuple[NDArray[np.intp], int]:
        """The labels as places among all that some model gives, and the number of those."""
        classes, places = np.unique(self.labels, return_inverse=True)
        return places.reshape(self.labels.shape), len(classes)

    @cached_property
    def _votes(self) -> NDArray[np.int64]:
        return counts(*self._places)

    def _other_votes(self, lost: int, kept: int | None) -> float:
        """Infinity where a clear label would be another one without the vote of model `lost`, or with that of
        `kept` in its place; else 0."""
        places, classes = self._places
        votes = self._votes - counts(places[lost : lost + 1], classes)
        if kept is not None:
            votes = votes + counts(places[kept : kept + 1], classes)
        differs = winners(self._votes) != winners(votes)
        return float("inf") if (differs & self.clear).any() else 0.0


def may_win(label: int, may: Sequence[frozenset[int]]) -> bool:
    """True where a label can have the most votes, if each model gives one of those it may."""
    most = sum(label in one for one in may)
    sure: dict[int, int] = {}
    for one in may:
        if len(one) == 1:
            (only,) = one
            sure[only] = sure.get(only, 0) + 1
    return most > 0 and all(
        most > votes or (most == votes and label < other) for other, votes in sure.items() if other != label
    )
