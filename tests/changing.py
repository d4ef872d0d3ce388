"""Tools that change a merged file after the merge, as their users call them. Each writes another file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime as ort
import pytest

Change = Callable[[str, str], None]
SIZES = {"batch": 2, "sequence": 8}


def dynamic(path: str, out: str) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(path, out)


def static(path: str, out: str) -> None:
    from onnxruntime.quantization import quantize_static

    quantize_static(path, out, _Inputs(path))


class _Inputs:
    """Inputs for calibration, one call."""

    def __init__(self, path: str) -> None:
        self.calls: Iterator[dict[str, np.ndarray]] = iter([drawn(path)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.calls, None)


def drawn(path: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of a file, integers of 0 and 1 among them."""
    rng, feeds = np.random.default_rng(seed), {}
    for port in ort.InferenceSession(path).get_inputs():
        shape = [SIZES.get(dim, dim) for dim in port.shape]
        integers = port.type == "tensor(int64)"
        feeds[port.name] = rng.integers(0, 2, shape) if integers else rng.standard_normal(shape, np.float32)
    return feeds


def float16(path: str, out: str) -> None:
    from onnxconverter_common import float16 as library

    onnx.save(library.convert_float_to_float16(onnx.load(path)), out)


def float16_inside(path: str, out: str) -> None:
    from onnxconverter_common import float16 as library

    onnx.save(library.convert_float_to_float16(onnx.load(path), keep_io_types=True), out)


def transformers(path: str, out: str) -> None:
    from onnxruntime.transformers.optimizer import optimize_model

    model = optimize_model(path, model_type="bert")
    model.convert_float_to_float16()
    model.save_model_to_file(out)


def slim(path: str, out: str) -> None:
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(path)), out)


def simplified(path: str, out: str) -> None:
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(path))[0], out)


def optimised(path: str, out: str) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = out, 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ort.InferenceSession(path, options)


NEEDS = {
    float16: "onnxconverter_common",
    float16_inside: "onnxconverter_common",
    slim: "onnxslim",
    simplified: "onnxsim",
}


def case(change: Change, *more: object) -> object:
    """The change as a parameter, skipped where its tool is not installed."""
    missing = change in NEEDS and find_spec(NEEDS[change]) is None
    mark = pytest.mark.skipif(missing, reason=f"{NEEDS.get(change)} is not installed")
    return pytest.param(change, *more, id=change.__name__, marks=mark)
