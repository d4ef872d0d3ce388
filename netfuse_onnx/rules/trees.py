"""Tree ensembles of ai.onnx.ml whose trees differ between the models: one ensemble, with targets for each.

A classifier becomes a regressor that gives the sums of the classes. What ONNX Runtime's kernel makes of them,
labels and post transforms, stands behind it as operators. Of two classes, most converters write weights for
one alone, which are for the second: a threshold tells the label, 0.5 where no weight of the model is
negative, else 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.ops.schemas import ML
from netfuse_onnx.rules import _forest5
from netfuse_onnx.rules._build import need, need_equal
from netfuse_onnx.rules._forest import NODE_LISTS, TRACKS, Forest, together
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._scores import (
    Labels,
    as_floats,
    first_largest,
    folded,
    placed,
    transform_of,
    transformed,
)  # fmt: skip
from netfuse_onnx.rules._site import Site

RANK = 3
"""Axes of the scores: rows, models and scores of one model."""
FLOATS = ("nodes_values", "nodes_hitrates", "base_values", "target_weights", "class_weights")
BY_NUMBER = {0: "NONE", 3: "SOFTMAX_ZERO"}
"""Post transforms of TreeEnsemble by number. To ONNX 1 is SOFTMAX and 2 LOGISTIC, to ONNX Runtime the other
way round."""
PROBIT = 4
SUM = 1
"""The aggregate function of TreeEnsemble in place of the mean, which is 0."""
LEARNED = (
    *NODE_LISTS, TRACKS, *FLOATS, *(f"{name}_as_tensor" for name in FLOATS),
    *(f"{leaves}_{name}" for leaves in ("target", "class") for name in ("ids", "nodeids", "treeids")),
    "classlabels_int64s", "classlabels_strings",
)  # fmt: skip


Attributes = Mapping[str, Any]
Emitted = Callable[[Tensor, "Emitter"], Tensor]


SMALL = 20
"""Trees of a model. On a CPU one ensemble of more is no faster than one for each model, and for many rows
up to twice as slow: a leaf has the weight of an only target, and refers to one of several targets."""


def large(trees: Sequence[int]) -> bool:
    """True where the models have many trees each, so that plans for a CPU run them once per model."""
    return sum(trees) > SMALL * len(trees)


def ensemble(
    site: Site, op: str, check: Callable[[int | None], None], attributes: Callable[[int], Attributes]
) -> tuple[Layout, Emitted]:
    """The layout of its input, and a function that emits the one ensemble, which gives [B, N*T]. Where the
    inputs of the models differ, their rows stand side by side. `check` is told how many features a row then
    has, and `attributes` by how many those of a model lie behind those of the one before."""
    need(site.opset >= 11, "its opset lacks operators")
    need(site.rank(0) == 2, "its input is not a matrix")
    width = site.dims(0)[1] if site.is_mapped(0) else 0
    need(isinstance(width, int), "the number of its features is unknown")
    features = width if isinstance(width, int) else 0
    check(features or None)
    held = cache(lambda: attributes(features))

    def emitted(x: Tensor, emit: Emitter) -> Tensor:
        return emit.node(op, [x], held(), domain=ML)[0]

    return FOLDED(1) if site.is_mapped(0) else SHARED, emitted


def of_forests(
    site: Site, forests: Sequence[Forest], aggregate: bytes = b"SUM", *, base: bool = True
) -> tuple[Layout, Emitted]:
    """The one ensemble of these forests."""

    def check(features: int | None) -> None:
        for forest in forests:
            forest.check(features)

    def attributes(features: int) -> Attributes:
        return together(forests, features, base) | {"aggregate_function": aggregate}

    return ensemble(site, "TreeEnsembleRegressor", check, attributes)


@dataclass(frozen=True)
class Regression:
    """The values behind the sums of an ensemble. `trees` are those of each model, and `base` its base values,
    where its values are means; `kind` is the type of its outputs."""

    targets: int
    transform: str
    trees: Sequence[int]
    mean: bool
    base: Sequence[Any] = ()
    kind: Any = np.float32

    @property
    def coupled(self) -> bool:
        """True where the targets of a model decide together."""
        return self.transform.startswith("SOFTMAX")

    def offered(self, take: Layout, emitted: Emitted, name: str) -> Option:
        def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
            y = emitted(ins[0], emit)
            y = self._averaged(y, emit) if self.mean else y
            y = emit.reshape(y, [-1, emit.models, self.targets]) if self.coupled else y
            return transformed(y, self.transform, RANK, emit)

        give = STACKED(1) if self.coupled else FOLDED(1)
        return Option(name, (take,), (give,), body, unmeasured=large(self.trees))

    def _averaged(self, sums: Tensor, emit: Emitter) -> Tensor:
        """Sums [B, N*T] over the trees of a model, divided by their number, plus base values."""
        mean = emit("Div", sums, emit.const(np.repeat(self.trees, self.targets), self.kind))
        base = np.concatenate(self.base) if self.base else np.zeros(1)
        return emit("Add", mean, emit.const(base, self.kind)) if base.any() else mean


@family("ai.onnx.ml.TreeEnsembleRegressor", differing=True)
def tree_regressor(site: Site) -> Iterator[Option]:
    """One ensemble of the trees of all models: B(mc) -> B(mt), with targets for each model."""
    need_equal(site, *LEARNED)
    targets, aggregate = int(site.attr("n_targets")), site.attr("aggregate_function")
    need(targets > 0, "it has no targets")
    need(site.attr("post_transform") != b"PROBIT", "its post_transform is PROBIT")
    transform = transform_of(site) if targets > 1 else "NONE"
    forests = [Forest(attrs, "target", targets) for attrs in site.attrs]
    need(aggregate in (b"SUM", b"AVERAGE", b"MIN", b"MAX"), "it has an unknown aggregate function")
    mean = aggregate == b"AVERAGE"
    take, emitted = of_forests(site, forests, b"SUM" if mean else aggregate, base=not mean)
    trees, base = [forest.trees for forest in forests], [forest.base for forest in forests]
    yield Regression(targets, transform, trees, mean, base).offered(take, emitted, "tree_regressor")


@family("ai.onnx.ml.TreeEnsemble", differing=True)
def tree_ensemble(site: Site) -> Iterator[Option]:
    """One ensemble of the trees of all models: B(mc) -> B(mt), with targets for each model."""
    need_equal(site, *_forest5.LEARNED)
    targets, aggregate = int(site.attr("n_targets") or 0), int(site.attr("aggregate_function"))
    number = int(site.attr("post_transform"))
    need(targets > 0, "it has no targets")
    need(number != PROBIT, "its post_transform is PROBIT")
    need(0 <= aggregate <= 3, "it has an unknown aggregate function")
    need(targets == 1 or number in BY_NUMBER, "ONNX and ONNX Runtime differ in its post_transform")
    transform = BY_NUMBER[number] if targets > 1 else "NONE"

    def check(features: int | None) -> None:
        for attrs in site.attrs:
            _forest5.check(attrs, targets, features)

    def attributes(features: int) -> Attributes:
        return _forest5.together(site.attrs, targets, features) | {"aggregate_function": aggregate or SUM}

    take, emitted = ensemble(site, "TreeEnsemble", check, attributes)
    trees = [len(attrs["tree_roots"]) for attrs in site.attrs]
    kind = np.float64 if site[0].dtype == TensorProto.DOUBLE else np.float32
    need(transform == "NONE" or kind is np.float32, "it transforms doubles")
    yield Regression(targets, transform, trees, not aggregate, kind=kind).offered(
        take, emitted, "tree_ensemble"
    )


@family("ai.onnx.ml.TreeEnsembleClassifier", differing=True)
def tree_classifier(site: Site) -> Iterator[Option]:
    """One TreeEnsembleRegressor sums up the classes of all models; operators tell labels and scores."""
    need_equal(site, *LEARNED)
    labels = Labels.of(site, "classlabels_int64s")
    need(labels.count >= 2, "it has not two labels or more")
    need(site[0].dtype != TensorProto.DOUBLE, "its scores are sums of doubles")
    need(all(site.has_output(k) for k in range(2)), "it lacks an output")
    two, transform = labels.count == 2, transform_of(site)
    forests = [Forest(attrs, "class", 1 if two else labels.count) for attrs in site.attrs]
    take, emitted = of_forests(site, forests)
    for forest in forests:
        _check_classes(forest, two)
    signs = [bool((forest.weights < 0).any()) for forest in forests]
    versions = "versions of ONNX Runtime differ in LOGISTIC of two classes without negative weights"
    need(not two or transform != "LOGISTIC" or all(signs), versions)

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> list[Tensor]:
        sums = emitted(as_floats(site, ins[0], emit), emit)
        if two:
            return _of_two(sums, labels, signs, transform, emit)
        scores = emit.reshape(sums, [-1, emit.models, labels.count])
        index = first_largest(scores, RANK - 1, emit)
        return [labels.selected(index, 1, RANK - 1, emit), transformed(scores, transform, RANK, emit)]

    def split(site: Site, ins: Sequence[Tensor], emit: Emitter) -> list[Tensor]:
        chosen, scores = body(site, ins, emit)
        return [folded(chosen, 1, 0, emit), folded(scores, 1, labels.count, emit)]

    unmeasured = large([forest.trees for forest in forests])
    for gives, emit_all in (((STACKED(1), STACKED(1)), body), ((FOLDED(0), FOLDED(1)), split)):
        yield Option("tree_classifier", (take,), gives, emit_all, unmeasured=unmeasured)


def _check_classes(forest: Forest, two: bool) -> None:
    """Refuse what ONNX Runtime's kernel treats in a way of its own, and labels that rounding may change."""
    if two:
        need(set(forest.listed("ids")) == {0}, "its two classes both have weights, or the second alone")
    need(
        len(forest.numbers("base_values")) in (0, forest.targets),
        "its base values are not one for each class",
    )
    need(two or forest.scores_all(), "some row may have no score for a class")
    need(forest.bounded(), "its scores may be infinite")
    need(not forest.ties(), "its trees vote, and the order of a sum decides between classes of one score")


def _of_two(
    sums: Tensor, labels: Labels, signs: Sequence[bool], transform: str, emit: Emitter
) -> list[Tensor]:
    """Labels and scores of two classes, from sums [B, N] of the second. `signs`: a weight of the model is
    negative."""
    limits = placed([0.0 if negative else 0.5 for negative in signs], 1, RANK - 1, np.float32)
    chosen = labels.of_two(emit("Greater", sums, emit.const(limits, np.float32)), 1, RANK - 1, emit)
    second = emit.unsqueeze(sums, [RANK - 1])
    whole = placed([0.0 if negative else 1.0 for negative in signs], 1, RANK, np.float32)
    scores = emit("Concat", emit("Sub", emit.const(whole, np.float32), second), second, axis=RANK - 1)
    return [chosen, emit("Sigmoid", scores) if transform == "LOGISTIC" else scores]
