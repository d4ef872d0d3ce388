"""Readers of a merged file that is replaced again and again: each must find one of the models, whole."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.synchronize import Event

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

import netfuse_onnx

Families = Sequence[Sequence[str]]
X = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)


def runs(out: str, families: Families) -> str:
    """ONNX Runtime loads it, and it computes what the models of one of the families do."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(out, options, providers=["CPUExecutionProvider"])
    results = session.run(["a/y", "b/y"], {"a/x": X, "b/x": X})
    expected = [[_computed(path) for path in family] for family in families]
    if not any(np.allclose(results, want, rtol=1e-4, atol=1e-4) for want in expected):
        raise AssertionError("the outputs are those of no family")
    return "sessions of ONNX Runtime"


def inspects(out: str, families: Families) -> str:
    report = netfuse_onnx.inspect(out)
    if report.models != ("a", "b") or not report.lowered:
        raise AssertionError(f"inspect says {report}")
    return "reads by inspect"


def verifies(out: str, families: Families) -> str:
    """The answer is yes, or no where another family stands there. That a file is replaced in every attempt is an
    answer too: nothing was read wrong."""
    try:
        proved = netfuse_onnx.verify(out, families[0], provider="cpu")
    except netfuse_onnx.ValuesDiffer:
        return "reads by verify, no"
    except netfuse_onnx.FileFault as fault:
        if "replaced or changed while it was read" not in fault.message:
            raise
        return "reads by verify, never at rest"
    return f"reads by verify, {'yes' if proved.ok else 'no'}"


READERS: Mapping[str, Callable[[str, Families], str]] = {
    "ONNX Runtime": runs,
    "ONNX Runtime, a second one": runs,
    "inspect": inspects,
    "verify": verifies,
}


def reading(
    kind: str,
    out: str,
    families: Families,
    done: Event,
    tell: Callable[[tuple[str, dict[str, int], list[str]]], None],
) -> None:
    """Reads until `done`, then tells the counts and what failed."""
    counts: Counter[str] = Counter()
    faults = []
    while not done.is_set():
        try:
            counts[READERS[kind](out, families)] += 1
        except Exception:
            counts["failed reads"] += 1
            faults.append(traceback.format_exc(limit=-3))
    tell((kind, dict(counts), faults))


def _computed(path: str) -> np.ndarray:
    w1, b1, w2 = (numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer)
    return np.asarray(np.maximum(X @ w1 + b1, 0) @ w2)
