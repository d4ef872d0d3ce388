"""Scaler and Imputer, whose attributes differ between the models: constants with a row for each."""

import itertools

import numpy as np
import pytest
from learned import agree, said, table

OPS = ("ai.onnx.ml.Imputer", "ai.onnx.ml.Scaler")
NAN = float("nan")


def imputers(missing, width, models=3):
    each = itertools.cycle([missing] if isinstance(missing, float) else missing)
    for m, one in zip(range(models), each, strict=False):
        values = [10.0 * m + k for k in range(width)]
        yield table("Imputer", {"imputed_value_floats": values, "replaced_value_float": one})


def rows(models=3, batch=4):
    x = np.random.default_rng(1).integers(-1, 2, (models, batch, 3)).astype(np.float32)
    x[:, 1, 0], x[:, 2, 1], x[:, 0, 2] = np.nan, np.inf, -0.0
    return x


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("missing", [NAN, 0.0, 1.0, (0.0, -1.0, 7.0)])
def test_imputers(missing, width, tmp_path):
    agree(list(imputers(missing, width)), rows(), tmp_path)


@pytest.mark.parametrize(
    ("missing", "width", "reason"), [((NAN, 0.0), 3, "some models only"), (NAN, 2, "column")]
)
def test_what_is_refused(missing, width, reason, tmp_path):
    said(list(imputers(missing, width)), tmp_path, reason)


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("models", [2, 3])
def test_scalers(width, models, tmp_path):
    each = [
        table("Scaler", {"offset": [1.0 * m] * width, "scale": [0.5 * (k + m + 1) for k in range(width)]})
        for m in range(models)
    ]
    agree(each, rows(models), tmp_path)
