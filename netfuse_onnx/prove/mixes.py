"""Checks calls of a routed file: rows of all models in one call, and calls that must fail.

The rows of a call are those of the proof, in other numbers of each model (none of some, all of one) and in
another order. Each must come out as its own model's source gives it. What names no model, or has another
number of rows, must fail: Gather takes -1 for the last model, and on CUDA it looks at no bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from netfuse_onnx.proofs import Mixes
from netfuse_onnx.prove.compare import compare
from netfuse_onnx.prove.isolation import POISONS, bits, odd, steered
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.run.runtime import Array, RunFailed, Session, Value

Results = Mapping[str, Value]
RANDOM_CALLS = 3
"""Calls with random numbers of rows, beside those with all rows of one model."""


def prove_mixes(session: Session, judge: Judge, tell: Progress) -> Mixes:
    """Run a routed file on calls of other mixes than those of the cases, and on calls that must fail."""
    lab = _Lab(session, judge)
    problems: list[str] = []
    orders = list(lab.orders())
    for done, order in enumerate(orders):
        tell("mixing rows of the models", done, len(orders))
        problems += lab.wrong_rows(order)
    problems += lab.moved_rows(orders[-1])
    refused = 0
    for what, feeds in lab.faults():
        if lab.run(feeds) is None:
            refused += 1
        else:
            problems.append(f"A call gives an answer where it must fail: {what}.")
    return Mixes(len(orders), sum(map(len, orders)), refused, tuple(dict.fromkeys(problems)))


class _Lab:
    """A routed file, with rows of every model and what the sources gave for them."""

    def __init__(self, session: Session, judge: Judge) -> None:
        self.session, self.judge, self.trial = session, judge, judge.trial
        self.packing, self.models = self.trial.packing, self.trial.family.models
        self.ids = self.packing.labels.ids
        sizes = [self._count(case) for case in range(len(self.trial.cases))]
        self.case = int(np.argmax(sizes))
        self.count = sizes[self.case]
        """The rows of each model that sources were run on."""
        self.drawn = [self.trial.feeds(self.trial.cases[self.case], m) for m in range(self.models)]
        self.random = np.random.default_rng(self.trial.options.seed)

    def _count(self, case: int) -> int:
        outputs = self.trial.outputs[0][case].values()
        return min((len(np.asarray(value)) for value in outputs), default=0)

    def orders(self) -> Iterator[Array]:
        """Yield the model of each row: one row, all rows of one model, and random ones, the last of them
        without some model."""
        yield np.array([self.models - 1])
        yield np.full(max(self.count, 2), int(self.random.integers(self.models)))
        for _ in range(RANDOM_CALLS):
            yield self.random.integers(0, self.models, self.models + 1)
        some = self.random.permutation(self.models)[: max(1, self.models // 2)]
        yield self.random.permutation(np.repeat(some, 2))

    def feeds(self, order: Array, drawn: Sequence[Mapping[str, Value]] | None = None) -> dict[str, Value]:
        """Pack a call. Where it wants more rows of a model than were drawn, they begin again."""
        once = self.packing.labels.share
        most = int(np.bincount(order, minlength=self.models).max())
        places = np.arange(most) % self.count
        values = [
            {name: v if name in once else np.asarray(v)[places] for name, v in own.items()}
            for own in drawn or self.drawn
        ]
        return self.packing.rows(values, order.astype(np.int64))

    def wrong_rows(self, order: Array) -> Iterator[str]:
        """Yield problems with the rows of a call."""
        result = self.run(self.feeds(order))
        if result is None:
            yield f"A call with {len(order)} rows of {len(set(order.tolist()))} models fails."
            return
        for name, line in self.judge.lines.items():
            for model in sorted(set(order.tolist())):
                if not line.random and not self._right(name, model, order, result):
                    yield (
                        f"Output {name} of model {self.trial.family.names[model]} differs in a call with "
                        f"{len(order)} rows of {len(set(order.tolist()))} models."
                    )

    def _right(self, name: str, model: int, order: Array, result: Results) -> bool:
        """True where all rows of a model are what its source gave for them."""
        whole = np.asarray(self.trial.outputs[model][self.case][name])
        got = np.asarray(result[name])
        if got.ndim == 0 or len(got) != len(order):
            return False
        want = whole[np.arange(int((order == model).sum())) % self.count]
        rows = got[order == model]
        if self.judge.lines[name].scores is not None:  # ties of indices are judged in the cases
            return not compare(rows, want, self.judge.tolerance(name, want, model)).problem
        return self.judge.right(name, model, self.case, rows, want)

    def moved_rows(self, order: Array) -> Iterator[str]:
        """Yield problems with the rows of others, when those of one model are odd."""
        before = self.run(self.feeds(order))
        if before is None or steered(self.trial):
            return
        model, poison = int(order[0]), next(iter(POISONS.values()))
        drawn = [dict(own) for own in self.drawn]
        own = drawn[model]
        drawn[model] = {n: v if n in self.packing.labels.share else odd(v, poison) for n, v in own.items()}
        after, again = self.run(self.feeds(order, drawn)), self.run(self.feeds(order))
        if after is None or again is None:
            return
        others = order != model
        for name, line in self.judge.lines.items():
            one, two, three = (bits(np.asarray(result[name])[others]) for result in (before, after, again))
            if not line.random and one == three and one != two:
                yield f"Output {name} of other rows changes when those of one model are odd."

    def faults(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """Yield calls that must fail."""
        order = self.random.integers(0, self.models, max(3, self.models))
        good = self.feeds(order)
        for wrong in (-1, self.models, 2**62, -(2**63)):
            ids = order.astype(np.int64).copy()
            ids[int(self.random.integers(len(ids)))] = wrong
            yield f"{self.ids} holds {wrong}", {**good, self.ids: ids}
        for few in (1, len(order) - 1):
            ids = order[:few].astype(np.int64)
            yield f"{self.ids} has {few} entries for {len(order)} rows", {**good, self.ids: ids}
        rows = [name for name in self.drawn[0] if name not in self.packing.labels.share]
        for name in rows[:1] if len(rows) == 1 else rows:
            fewer = np.asarray(good[name])[:-1]
            yield f"{name} has {len(fewer)} rows for {len(order)} entries", {**good, name: fewer}

    def run(self, feeds: Mapping[str, Value]) -> Results | None:
        try:
            return self.session.run(feeds)
        except RunFailed:
            return None
