"""Forms compute what the file computes: every form on random graphs, in ONNX Runtime without optimisations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from families import save
from formed_graphs import KINDS, graph

from netfuse_onnx.load import opset, spelled
from netfuse_onnx.load.loader import load
from netfuse_onnx.load.spelled.engine import all_forms
from netfuse_onnx.run.observe import home, whole
from netfuse_onnx.types import Source

TOLERANCE = {"f": 3e-5, "d": 1e-6, "e": 2e-2}
"""Relative to the largest value of an output."""


def outputs(model: bytes, x: np.ndarray) -> list[np.ndarray] | None:
    """Return the outputs of ONNX Runtime; None where it does not run the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return list(session.run(None, {"x": x}))
    except Exception:
        return None


def runnable(source: Source) -> bytes:
    data: bytes = whole(source).SerializeToString()
    return data


def check(seed: int, folder: Path) -> Counter[str]:
    """Compare the outputs of a random graph before and after; return the forms that applied."""
    model, dims = graph(seed)
    kind = KINDS[{1: "f", 11: "d", 10: "e"}[model.graph.input[0].type.tensor_type.elem_type]]
    x = np.random.default_rng(seed + 1).standard_normal(dims).astype(kind)
    want = outputs(model.SerializeToString(), x)
    if want is None:
        return Counter(["not run"])
    source = opset.align([load(save(folder / "m.onnx", model))])[0]
    (spelling,) = spelled.of_family([source])
    assert home(source) and list(spelling.source.graph.outputs) == list(source.graph.outputs)
    got = outputs(runnable(spelling.source), x)
    assert got is not None, f"seed {seed}: does not run after {dict(spelling.counts)}"
    for one, other, name in zip(want, got, source.graph.outputs, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype, (seed, name)
        scale = max(1.0, float(np.abs(one[np.isfinite(one)]).max(initial=0)))
        np.testing.assert_allclose(
            other.astype("d"), one.astype("d"), rtol=0, atol=TOLERANCE[kind().dtype.char] * scale,
            err_msg=f"seed {seed}, {name}, {dict(spelling.counts)}",
        )  # fmt: skip
    return Counter(spelling.counts)


def test_forms_compute_what_the_file_computes(tmp_path: Path) -> None:
    applied = sum((check(seed, tmp_path) for seed in range(250)), Counter[str]())
    assert len(applied) >= 20, applied


@pytest.mark.slow
def test_forms_compute_what_many_files_compute(tmp_path: Path) -> None:
    applied = sum((check(seed, tmp_path) for seed in range(1000, 5000)), Counter[str]())
    assert applied["not run"] < 1000


def test_every_form_has_a_name_and_a_sentence() -> None:
    forms = all_forms()
    assert len({one.name for one in forms}) == len(forms)
    assert all(one.says[0].isupper() or one.says[0] in "(0x1" for one in forms)


def test_the_page_lists_every_form() -> None:
    page = (Path(__file__).parent.parent / "docs" / "spellings.md").read_text()
    for one in all_forms():
        assert f"| `{one.name}` | {one.says} |" in page, one.name
