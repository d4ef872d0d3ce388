"""Linear models of ai.onnx.ml whose coefficients differ between the models: products with a matrix for each.

LinearClassifier counts the intercepts to tell how many rows of coefficients it has. One row is the score of
the second of two classes. Then it ignores its post transform, and adds 1 - score in front where it has two
labels; the second label is that of a score above 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import SHARED, STACKED, Layout
from netfuse_onnx.rules._build import need, need_equal
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._scores import Labels, as_floats, first_largest, transform_of, transformed
from netfuse_onnx.rules._site import Site

RANK = 3
"""Axes of the scores: rows, models and scores of one model."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Product:
    """x [B, C] by coefficients [N, T, C], plus intercepts [N, T], if any. A shared x is one wide product, whose
    models are on axis 1; else each model has a product of its own, on axis 0."""

    coefficients: Floats
    intercepts: Floats | None
    take: Layout

    @property
    def at(self) -> int:
        """The axis of the scores on which the models are."""
        return 1 if self.take == SHARED else 0

    @property
    def targets(self) -> int:
        return int(self.coefficients.shape[1])

    def scores(self, x: Tensor, emit: Emitter) -> Tensor:
        """[N, B, T], or [B, N, T] where x is shared."""
        models, targets, features = self.coefficients.shape
        if self.take == SHARED:
            bias = [] if self.intercepts is None else [emit.const(self.intercepts.reshape(-1), np.float32)]
            matrix = emit.const(self.coefficients.reshape(models * targets, features), np.float32)
            return emit.reshape(emit("Gemm", x, matrix, *bias, transB=1), [-1, models, targets])
        y = emit("MatMul", x, emit.const(self.coefficients.swapaxes(1, 2), np.float32))
        return (
            y if self.intercepts is None else emit("Add", y, emit.const(self.intercepts[:, None], np.float32))
        )


def product_of(site: Site, targets: int, intercepts: Floats | None) -> Product:
    """The product of a linear model with so many targets. Refuses where its coefficients are not as many."""
    need(site.opset >= 11, "its opset has no Gemm without a bias")
    need(site.rank(0) == 2, "its input is not a matrix")
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
    return Product(coefficients, intercepts, site.own_layout(0))


@family("ai.onnx.ml.LinearRegressor", differing=True)
def linear_regressor(site: Site) -> Iterator[Option]:
    """Batched: M(bc), M(ct) + M(t) -> M(bt), with the coefficients of each model."""
    need_equal(site, "coefficients", "intercepts")
    targets = int(site.attr("targets"))
    transform = transform_of(site) if targets > 1 else "NONE"
    need(site.attr("post_transform") != b"PROBIT", "its post_transform is PROBIT")
    product = product_of(site, targets, _added(site, targets))

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Held:
        return transformed(product.scores(as_floats(site, ins[0], emit), emit), transform, RANK, emit)

    yield Option("linear_regressor", (product.take,), (STACKED(product.at),), body)


def _added(site: Site, targets: int) -> Floats | None:
    """The intercepts of each model. ONNX Runtime ignores those that are not one for each target."""
    given = [attrs.get("intercepts") or () for attrs in site.attrs]
    if all(len(one) != targets for one in given):
        return None
    none = [0.0] * targets
    return np.array([one if len(one) == targets else none for one in given], np.float32)


@family("ai.onnx.ml.LinearClassifier", differing=True)
def linear_classifier(site: Site) -> Iterator[Option]:
    """Scores are a product with the coefficients of each model; a label is that of the first largest score."""
    need_equal(site, "coefficients", "intercepts", "classlabels_ints", "classlabels_strings", "multi_class")
    counts = {len(attrs.get("intercepts") or ()) for attrs in site.attrs}
    need(len(counts) == 1, "the intercepts are not as many in all models")
    (targets,) = counts
    need(targets > 0, "it has no intercepts")
    labels = Labels.of(site, "classlabels_ints")
    transform = transform_of(site)
    intercepts = np.array([attrs["intercepts"] for attrs in site.attrs], np.float32)
    product = product_of(site, targets, intercepts)
    need(
        labels.count == 2 if targets == 1 else labels.count >= targets,
        "its labels are not one for each class",
    )

    def body(site: Site, ins: Sequence[Tensor], emit: Emitter) -> Sequence[Held]:
        scores = product.scores(as_floats(site, ins[0], emit), emit)
        if targets == 1:
            return _of_two(scores, labels, product.at, emit)
        index = first_largest(scores, targets, RANK, emit, finite=False)
        return [
            labels.selected(index, product.at, RANK - 1, emit),
            transformed(scores, transform, RANK, emit),
        ]

    yield Option("linear_classifier", (product.take,), site.gives(STACKED(product.at)), body)


def _of_two(scores: Tensor, labels: Labels, at: int, emit: Emitter) -> Sequence[Held]:
    """The labels and scores of two classes, from that of the second."""
    positive = emit.squeeze(emit("Greater", scores, emit.const(0.0, np.float32)), [RANK - 1])
    first = emit("Sub", emit.const(1.0, np.float32), scores)
    return [labels.of_two(positive, at, RANK - 1, emit), emit("Concat", first, scores, axis=RANK - 1)]
