"""Operators whose attributes are weights: coefficients, trees, vocabularies. They may differ between models,
except for those that decide the type or the shape of an output.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from onnx import TensorProto

from netfuse_onnx.ops import schemas
from netfuse_onnx.ops.schemas import ML

LEARNED = frozenset({"TfIdfVectorizer"})
"""Operators of the default domain whose attributes are weights, as those of all of ai.onnx.ml are."""

_LABELS = ("classlabels_ints", "classlabels_int64s", "classlabels_strings")

SIZES: Mapping[str, tuple[str, ...]] = {
    "ArrayFeatureExtractor": (), "Binarizer": (), "CastMap": (), "CategoryMapper": (),
    "DictVectorizer": ("int64_vocabulary", "string_vocabulary"), "FeatureVectorizer": (), "Imputer": (),
    "LabelEncoder": (), "LinearClassifier": (*_LABELS, "intercepts"), "LinearRegressor": (),
    "Normalizer": (), "OneHotEncoder": ("cats_int64s", "cats_strings"),
    "SVMClassifier": (*_LABELS, "prob_a", "vectors_per_class"), "SVMRegressor": (), "Scaler": (),
    "TfIdfVectorizer": (), "TreeEnsemble": (), "TreeEnsembleClassifier": _LABELS,
    "TreeEnsembleRegressor": (), "ZipMap": _LABELS,
}  # fmt: skip
"""All operators whose attributes are weights: the lists whose lengths decide a shape."""

_VALUES: Mapping[str, tuple[str, ...]] = {
    "CastMap": ("cast_to", "map_form", "max_map"),
    "FeatureVectorizer": ("inputdimensions",),
    "LinearRegressor": ("targets",),
    "TreeEnsemble": ("n_targets",),
    "TreeEnsembleRegressor": ("n_targets",),
}
"""Attributes whose values decide a shape or a type."""

_TYPES: Mapping[str, tuple[str, ...]] = {
    "Imputer": ("imputed_value_",),
    "LabelEncoder": ("keys_", "values_"),
    "TfIdfVectorizer": ("pool_",),
    "TreeEnsemble": ("leaf_weights", "nodes_splits"),
    "TreeEnsembleClassifier": ("nodes_values_as_", "class_weights_as_"),
    "TreeEnsembleRegressor": ("nodes_values_as_", "target_weights_as_"),
}
"""Prefixes of attributes of which one is present: the one of the type of an input or output."""


ONLY_ADDED: Mapping[str, tuple[int, int]] = {
    "LabelEncoder": (2, 4),
    "TreeEnsembleClassifier": (1, 3),
    "TreeEnsembleRegressor": (1, 3),
}
"""Operators of ai.onnx.ml whose second version is the first one with more attributes and types."""


def learned(op: str, domain: str) -> bool:
    """True where the attributes of an operator are weights."""
    return domain == ML or (not domain and op in LEARNED)


def signature(op: str, domain: str, version: int, attrs: Mapping[str, Any]) -> dict[str, Hashable] | None:
    """The part of an operator's attributes that decides the type and the shape of its outputs; None where all
    of them may, because the operator is not known. `version` is that of its domain."""
    if op not in SIZES:
        return None
    known = schemas.facts(op, domain, version)
    decisive: dict[str, Hashable] = {name: len(attrs[name]) for name in SIZES[op] if attrs.get(name)}
    for name in _VALUES.get(op, ()):
        value = attrs.get(name, known.defaults.get(name) if known else None)
        decisive[name] = tuple(value) if isinstance(value, list) else value
    for name, value in attrs.items():
        if name.startswith(_TYPES.get(op, "\0")):
            decisive[name] = value.data_type if isinstance(value, TensorProto) else True
    if op == "TfIdfVectorizer":
        decisive["ngram_indexes"] = max(attrs.get("ngram_indexes", ()), default=-1) + 1
    return decisive
