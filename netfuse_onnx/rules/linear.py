"""Linear models of ai.onnx.ml whose coefficients differ between the models: products with a matrix for each.

ONNX Runtime's LinearClassifier has as many rows of coefficients as intercepts. One row is the score of the
second of two classes. It then ignores all post transforms but LOGISTIC, adds 1 - score in front, and gives
the second label where the score is above 0. Older versions ignored LOGISTIC, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, SHARED, STACKED, Layout
from netfuse_onnx.rules._build import need, need_equal
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._scores import (
    Labels,
    as_floats,
    first_largest,
    folded,
    transform_of,
    transformed,
)  # fmt: skip
from netfuse_onnx.rules._site import Site

RANK = 3
"""Axes of the scores: rows, models and scores of one model."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """x [B, C] by coefficients [N, T, C], plus intercepts [N, T], if any."""

    coefficients: Floats
    intercepts: Floats | None

    def scores(self, x: Tensor, take: Layout, emit: Emitter) -> Tensor:
        """[N, T, B]. Rows come last, along which operators that broadcast are fastest. An x that all models
        share is multiplied once, by the matrices of all."""
        models, targets, features = self.coefficients.shape
        if take == SHARED:
            added = [] if self.intercepts is None else [self._constant(self.intercepts, (-1, 1), emit)]
            wide = emit("Gemm", self._constant(self.coefficients, (-1, features), emit), x, *added, transB=1)
            return emit.reshape(wide, [models, targets, -1])
        rows = emit.reshape(x, [-1, models, features]) if take.folded else x
        columns = emit.transpose(rows, [1, 2, 0] if take.folded else [0, 2, 1])
        y = emit("MatMul", emit.const(self.coefficients, np.float32), columns)
        if self.intercepts is None:
            return y
        return emit("Add", y, self._constant(self.intercepts, (models, targets, 1), emit))

    @staticmethod
    def _constant(values: Floats, shape: Sequence[int], emit: Emitter) -> Tensor:
        return emit.const(values.reshape(shape), np.float32)


Outputs = Callable[[Tensor, Emitter], Sequence[Tensor]]
"""Gives what is stacked on axis 0, rows [N, B, T] and labels [N, B], from the scores [N, T, B]."""


def options_of(
    site: Site, name: str, product: Product, widths: Sequence[int], outputs: Outputs
) -> Iterator[Option]:
    """Options for an input that all models share, or one for each. `widths` are the columns of the outputs, 0
    for labels. Outputs that a Split takes apart are folded."""
    takes = [STACKED(0) if site.is_mapped(0) else SHARED]
    if site.is_mapped(0) and isinstance(site.dims(0)[1], int):
        takes.append(FOLDED(1))  # one Concat
    for take, split in itertools.product(takes, (False, True)):

        def body(
            site: Site, ins: Sequence[Tensor], emit: Emitter, take: Layout = take, split: bool = split
        ) -> Sequence[Held]:
            made = outputs(product.scores(as_floats(site, ins[0], emit), take, emit), emit)
            pairs = zip(made, widths, strict=True)
            return [folded(x, 0, width, emit) if split else x for x, width in pairs]

        yield Option(name, (take,), (FOLDED(0) if split else STACKED(0),) * len(widths), body)


def by_rows(scores: Tensor, targets: int, emit: Emitter) -> Tensor:
    """[N, T, B] -> [N, B, T]"""
    if targets == 1:
        return emit.reshape(scores, [emit.models, -1, 1])
    return emit.transpose(scores, [0, 2, 1])


def product_of(site: Site, targets: int, intercepts: Floats | None) -> Product:
    """The product of a linear model with so many targets. Refuses where its coefficients are not as many."""
    need(site.opset >= 11, "its opset has no Gemm without a bias")
    need(site.rank(0) == 2, "its input is not a matrix")
    need(all(site.has_output(k) for k in range(len(site.node.outputs))), "it lacks an output")
    counts = {len(attrs.get("coefficients") or ()) for attrs in site.attrs}
    need(len(counts) == 1, "the coefficients are not as many in all models")
    (count,) = counts
    need(
        targets > 0 and count > 0 and count % targets == 0, "the coefficients are not as many for each target"
    )
    features = site.dims(0)[1]
    need(not isinstance(features, int) or features * targets == count, "a row of its input has another size")
    coefficients = np.array([attrs["coefficients"] for attrs in site.attrs], np.float32)
    coefficients = coefficients.reshape(len(site.attrs), targets, -1)
    return Product(coefficients, intercepts)


@family("ai.onnx.ml.LinearRegressor", differing=True)
def linear_regressor(site: Site) -> Iterator[Option]:
    """Batched: M(bc), M(ct) + M(t) -> M(bt), with the coefficients of each model."""
    need_equal(site, "coefficients", "intercepts")
    targets = int(site.attr("targets"))
    transform = transform_of(site) if targets > 1 else "NONE"
    need(site.attr("post_transform") != b"PROBIT", "its post_transform is PROBIT")
    product = product_of(site, targets, _added(site, targets))

    def outputs(scores: Tensor, emit: Emitter) -> Sequence[Tensor]:
        return [transformed(by_rows(scores, targets, emit), transform, RANK, emit)]

    yield from options_of(site, "linear_regressor", product, [targets], outputs)


def _added(site: Site, targets: int) -> Floats | None:
    """The intercepts of each model. ONNX Runtime ignores those that are not one for each target."""
    given = [attrs.get("intercepts") or () for attrs in site.attrs]
    if all(len(one) != targets for one in given):
        return None
    none = [0.0] * targets
    return np.array([one if len(one) == targets else none for one in given], np.float32)


@family("ai.onnx.ml.LinearClassifier", differing=True)
def linear_classifier(site: Site) -> Iterator[Option]:
    """Scores are M(bc), M(ct) + M(t) -> M(bt), by coefficients of each model; the largest has the label."""
    need_equal(site, "coefficients", "intercepts", "classlabels_ints", "classlabels_strings", "multi_class")
    counts = {len(attrs.get("intercepts") or ()) for attrs in site.attrs}
    need(len(counts) == 1, "the intercepts are not as many in all models")
    (targets,) = counts
    need(targets > 0, "it has no intercepts")
    labels = Labels.of(site, "classlabels_ints")
    transform = transform_of(site)
    intercepts = np.array([attrs["intercepts"] for attrs in site.attrs], np.float32)
    product = product_of(site, targets, intercepts)
    need(labels.count == max(2, targets), "its labels are not one for each class")
    need(targets > 1 or transform != "LOGISTIC", "versions of ONNX Runtime differ in LOGISTIC of one score")

    def outputs(scores: Tensor, emit: Emitter) -> Sequence[Tensor]:
        if targets == 1:
            first = emit("Sub", emit.const(1.0, np.float32), scores)
            rows = by_rows(emit("Concat", first, scores, axis=1), 2, emit)
            return [labels.of_two(_above(scores, emit.const(0.0, np.float32), emit), 0, 2, emit), rows]
        rows = transformed(by_rows(scores, targets, emit), transform, RANK, emit)
        if targets == 2:
            first, second = emit.split(scores, [1, 1], 1)
            return [labels.of_two(_above(second, first, emit), 0, 2, emit), rows]
        index = first_largest(scores, 1, emit)
        return [labels.selected(index, 0, 2, emit), rows]

    yield from options_of(site, "linear_classifier", product, [0, max(2, targets)], outputs)


def _above(scores: Tensor, limit: Tensor, emit: Emitter) -> Tensor:
    """[N, 1, B] -> [N, B]: True where a score is above the limit; a NaN is not, nor is anything above one."""
    return emit.squeeze(emit("Greater", scores, limit), [1])
