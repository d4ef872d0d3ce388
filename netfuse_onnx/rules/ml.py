"""ai.onnx.ml: operators that treat each row on its own. The models are more rows."""

from __future__ import annotations

from collections.abc import Iterator

from netfuse_onnx.layouts import FOLDED
from netfuse_onnx.rules._build import emit_same_op, per_axis
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site

ROWS = (
    "CategoryMapper", "Imputer", "LinearClassifier", "LinearRegressor", "Normalizer", "OneHotEncoder",
    "SVMClassifier", "SVMRegressor", "Scaler", "TreeEnsemble", "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
)  # fmt: skip


@family(*(f"ai.onnx.ml.{op}" for op in ROWS))
def rows(site: Site) -> Iterator[Option]:
    """Each row is computed on its own, so the models are more rows: (MN)C."""
    if site.rank(0) >= 2:
        yield Option("rows", (FOLDED(0),), site.gives(FOLDED(0)), emit_same_op)


@family("ai.onnx.ml.Binarizer", "ai.onnx.ml.LabelEncoder")
def element(site: Site) -> Iterator[Option]:
    """Each element is computed on its own."""
    yield from per_axis(site, name="element")
