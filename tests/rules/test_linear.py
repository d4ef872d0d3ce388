"""LinearClassifier and LinearRegressor with coefficients of each model, as ONNX Runtime's kernels compute them."""

import itertools

import numpy as np
import oracle
import pytest
from learned import agree, said, table
from onnx import TensorProto

OPS = ("ai.onnx.ml.LinearClassifier", "ai.onnx.ml.LinearRegressor")
INT, STRING, FLOAT = TensorProto.INT64, TensorProto.STRING, TensorProto.FLOAT
ODD = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1.0, 1e30, 2.0]
TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO")
LABELS = {
    "ints": lambda m, count: {"classlabels_ints": [5 + k for k in range(count)]},
    "own ints": lambda m, count: {"classlabels_ints": [10 * m + k for k in range(count)]},
    "text": lambda m, count: {"classlabels_strings": [f"word {k}" for k in range(count)]},
    "scattered ints": lambda m, count: {"classlabels_ints": [(7 * k + m) % 5 for k in range(count)]},
    "own text": lambda m, count: {"classlabels_strings": [f"{m} {k}" for k in range(count)]},
}


def classifiers(models=3, targets=3, *, labels="ints", count=None, whole=False, columns=3, **more):
    """Models whose coefficients differ. `whole`: they are small whole numbers, and ties are frequent."""
    rng = np.random.default_rng(0)
    for m in range(models):
        size = (targets, columns)
        weights = rng.integers(-1, 2, size) if whole else rng.standard_normal(size)
        added = rng.integers(-1, 2, targets) if whole else rng.standard_normal(targets)
        attrs = {"coefficients": weights.ravel().astype(float), "intercepts": added.astype(float)}
        attrs |= LABELS[labels](m, count or max(2, targets))
        kind = {key: more.pop(key) for key in ("kind", "rows", "opset", "version") & more.keys()}
        outputs = (STRING if "text" in labels else INT, FLOAT)
        yield table("LinearClassifier", attrs | more, columns=columns, outputs=outputs, **kind)
        more |= kind


def rows(models=3, batch=3, columns=3, odd=False, kind=np.float32):
    rng = np.random.default_rng(1)
    x = rng.integers(-2, 3, (models, batch, columns)).astype(kind)
    if odd:
        x = np.array(list(itertools.product(ODD, repeat=columns)), np.float32)[::7]
        return np.stack([np.roll(x, m, 0) for m in range(models)])
    return x


TARGETS = [
    (targets, transform)
    for targets in (1, 2, 3)
    for transform in TRANSFORMS
    if (targets, transform) != (1, "LOGISTIC")
]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(("targets", "transform"), TARGETS)
def test_classifiers(targets, transform, labels, tmp_path):
    models = list(classifiers(3, targets, labels=labels, post_transform=transform))
    agree(models, rows(), tmp_path)


@pytest.mark.parametrize(("targets", "transform"), TARGETS)
def test_scores_that_tie_or_are_no_numbers(targets, transform, tmp_path):
    """Ties and zeros, NaN in any place, infinities, in every combination of features."""
    models = list(classifiers(2, targets, whole=True, post_transform=transform, labels="own ints"))
    with np.errstate(all="ignore"):
        agree(models, rows(2, odd=True), tmp_path)


@pytest.mark.parametrize("models", [2, 3, 5])
@pytest.mark.parametrize("batch", [0, 1, 2, 3])
def test_numbers_of_models_and_rows(models, batch, tmp_path):
    if batch == 0:
        oracle.skip_an_empty_batch()
    agree(list(classifiers(models, 2)), rows(models, batch), tmp_path)
    agree(list(classifiers(models, 2, rows=batch or "B")), rows(models, batch), tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.DOUBLE])
@pytest.mark.parametrize("targets", [1, 3])
def test_types_of_rows(kind, targets, tmp_path):
    x = rows(kind={TensorProto.INT64: np.int64, TensorProto.DOUBLE: np.float64}[kind])
    agree(list(classifiers(3, targets, kind=kind)), x, tmp_path)


@pytest.mark.parametrize("opset", [9, 13, 21])
def test_opsets(opset, tmp_path):
    agree(list(classifiers(3, 3, opset=opset, post_transform="SOFTMAX", version=1)), rows(), tmp_path)


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_versions_of_the_domain(version, tmp_path):
    agree(list(classifiers(3, 2, version=version)), rows(), tmp_path)


@pytest.mark.parametrize("shared", ["coefficients", "intercepts"])
def test_what_is_equal_may_stay(shared, tmp_path):
    models = list(classifiers(3, 3))
    first = next(a for a in models[0].graph.node[0].attribute if a.name == shared)
    for model in models[1:]:
        next(a for a in model.graph.node[0].attribute if a.name == shared).CopyFrom(first)
    agree(models, rows(), tmp_path)


REFUSED = {
    "probit": ({"post_transform": "PROBIT"}, "PROBIT"),
    "versions": ({"targets": 1, "post_transform": "LOGISTIC"}, "versions of ONNX Runtime"),
    "more labels": ({"targets": 2, "count": 4}, "labels are not one for each class"),
    "three labels of one score": ({"targets": 1, "count": 3}, "labels are not one for each class"),
    "no intercepts": ({"intercepts": None}, "no intercepts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path):
    changes, reason = REFUSED[name]
    models = list(classifiers(2, **({"targets": 3} | {k: v for k, v in changes.items() if v is not None})))
    if None in changes.values():
        for model in models:
            kept = [a for a in model.graph.node[0].attribute if a.name not in changes]
            del model.graph.node[0].attribute[:]
            model.graph.node[0].attribute.extend(kept)
    said(models, tmp_path, reason)


HOSTILE = {
    "one coefficient less": {"coefficients": [1.0] * 8},
    "as many for another width": {"coefficients": [1.0] * 12},
    "coefficients of another number": None,
}


@pytest.mark.parametrize("op", ["LinearClassifier", "LinearRegressor"])
@pytest.mark.parametrize("name", HOSTILE)
def test_coefficients_that_do_not_fit(name, op, tmp_path):
    models = []
    for m in range(2):
        attrs = {"coefficients": [float(m)] * 9, "intercepts": [0.0, 1.0, float(m)]}
        attrs |= HOSTILE[name] or {"coefficients": [1.0] * (9 + 3 * m)}
        if op == "LinearClassifier":
            models.append(table(op, attrs | {"classlabels_ints": [0, 1, 2]}, outputs=(INT, FLOAT)))
        else:
            models.append(table(op, attrs | {"targets": 3}))
    said(models, tmp_path, "coefficients|a row of its input")


def regressors(models=3, targets=2, columns=3, **more):
    rng = np.random.default_rng(0)
    for m in range(models):
        attrs = {"coefficients": rng.standard_normal(targets * columns), "targets": targets}
        added = more.get("added", targets)
        if added is not None and not (added == "some" and m == 1):
            attrs["intercepts"] = rng.standard_normal(targets if added == "some" else added)
        attrs |= {k: v for k, v in more.items() if k != "added"}
        yield table("LinearRegressor", attrs, columns=columns)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("targets", [1, 2, 3])
@pytest.mark.parametrize("models", [2, 3])
def test_regressors(models, targets, transform, tmp_path):
    agree(list(regressors(models, targets, post_transform=transform)), rows(models), tmp_path)


@pytest.mark.parametrize("added", [None, 1, "some"])
def test_intercepts(added, tmp_path):
    """None, fewer than targets, which ONNX Runtime ignores, and missing in one model."""
    agree(list(regressors(3, 2, added=added)), rows(), tmp_path)
