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
        """A shared x is one wide product, [B, N, T]; else each model has a product of its own, [N, B, T]."""
        models, targets, features = self.coefficients.shape
        if take == SHARED:
            added = [] if self.intercepts is None else [emit.const(self.intercepts.reshape(-1), np.float32)]
            matrix = emit.const(self.coefficients.reshape(models * targets, features), np.float32)
            return emit.reshape(emit("Gemm", x, matrix, *added, transB=1), [-1, models, targets])
        if take.folded:
            x = emit.transpose(emit.reshape(x, [-1, models, features]), [1, 0, 2])
        y = emit("MatMul", x, emit.const(self.coefficients.swapaxes(1, 2), np.float32))
        bias = self.intercepts
        return y if bias is None else emit("Add", y, emit.const(bias[:, None], np.float32))


Batched = Callable[[Tensor, int, Emitter], Sequence[Tensor]]
"""Gives the outputs from the scores [.., T] of all models, which are on an axis in front."""


def options_of(
    site: Site, name: str, product: Product, widths: Sequence[int], outputs: Batched
) -> Iterator[Option]:
    """Options for an input that all models share, or one for each. `widths` are the columns of the outputs, 0
    for labels. What a Split takes apart for the graph's outputs is folded: a model's rows, or its columns."""
    at = 0 if site.is_mapped(0) else 1
    takes = [STACKED(0)] if at == 0 else [SHARED]
    if at == 0 and isinstance(site.dims(0)[1], int):
        takes.append(FOLDED(1))  # one Concat
    for take, split in itertools.product(takes, (False, True)):

        def body(
            site: Site, ins: Sequence[Tensor], emit: Emitter, take: Layout = take, split: bool = split
        ) -> Sequence[Held]:
            made = outputs(product.scores(as_floats(site, ins[0], emit), take, emit), at, emit)
            pairs = zip(made, widths, strict=True)
            return [folded(x, at, width, emit) if split else x for x, width in pairs]

        gives = [FOLDED(at if width else 0) if split else STACKED(at) for width in widths]
        yield Option(name, (take,), tuple(gives), body)


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

    def outputs(scores: Tensor, at: int, emit: Emitter) -> Sequence[Tensor]:
        return [transformed(scores, transform, RANK, emit)]

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

    def outputs(scores: Tensor, at: int, emit: Emitter) -> Sequence[Tensor]:
        if targets == 1:
            return _of_two(scores, labels, at, emit)
        index = first_largest(scores, targets, RANK, emit, finite=False)
        return [labels.selected(index, at, RANK - 1, emit), transformed(scores, transform, RANK, emit)]

    yield from options_of(site, "linear_classifier", product, [0, max(2, targets)], outputs)


def _of_two(scores: Tensor, labels: Labels, at: int, emit: Emitter) -> Sequence[Tensor]:
    """The labels and scores of two classes, from that of the second."""
    positive = emit.squeeze(emit("Greater", scores, emit.const(0.0, np.float32)), [RANK - 1])
    first = emit("Sub", emit.const(1.0, np.float32), scores)
    return [labels.of_two(positive, at, RANK - 1, emit), emit("Concat", first, scores, axis=RANK - 1)]
