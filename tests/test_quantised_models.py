"""Quantised and optimised variants of whole networks, as ONNX Runtime's own tools make them: what is merged,
what stays in int8 kernels, and that it computes what the sources do."""

from __future__ import annotations

import collections
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import samples
from contrib_graphs import graph
from oracle import IO, check, draw

import netfuse_onnx
from sample_models.families import FAMILIES
from sample_models.quantised import DECODERS, VARIANTS, derived

ALL = {**FAMILIES, **DECODERS}
COUNT = 3
INT8 = frozenset(
    {"ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm",
     "QLinearConv", "QLinearMatMul"}
)  # fmt: skip
"""Operators that multiply bytes, or a few bits."""


@dataclass(frozen=True)
class Bar:
    """Most merged nodes per source node, those that copy nothing left out, and what is replicated. `quick`:
    not only with the slow tests. `unpacked`: ONNX Runtime packs the weights of a source as it loads it, and
    not those of several models."""

    expansion: float
    replicated: frozenset[str] = frozenset()
    quick: bool = True
    unpacked: bool = False


PACKED = frozenset({"MatMulNBits"})
FEW = frozenset(
    {"Conv"}
)  # in blocks of 16 channels, of which an image and this small network's stem have fewer
BARS: Mapping[tuple[str, str], Bar] = {
    ("cnn", "qdq"): Bar(0.6, quick=False),
    ("cnn", "qdq-u8"): Bar(0.6),
    ("cnn", "qoperator"): Bar(1.6, quick=False),
    ("cnn", "qoperator-s8"): Bar(1.6),
    ("cnn", "ort-extended"): Bar(1.4),
    ("cnn", "ort-all"): Bar(2.2, FEW),
    ("resnet50", "qdq"): Bar(0.8),
    ("resnet50", "qdq-u8"): Bar(0.8),
    ("resnet50", "qdq-u8-ort-all"): Bar(3.5),
    ("resnet50", "qoperator"): Bar(2.8),
    ("resnet50", "qoperator-s8"): Bar(2.8, quick=False),
    ("resnet50", "ort-extended"): Bar(1.2, quick=False),
    ("resnet50", "ort-all"): Bar(3.2, FEW),
    ("bert", "qdq"): Bar(1.3),
    ("bert", "qdq-u8"): Bar(1.3, quick=False),
    ("bert", "qoperator"): Bar(2.7),
    ("bert", "qoperator-s8"): Bar(2.7, quick=False),
    ("bert", "dynamic"): Bar(2.2),
    ("bert", "dynamic-s8"): Bar(2.2, quick=False),
    ("bert", "dynamic-ort-all"): Bar(3.5),
    ("bert", "ort-basic"): Bar(1.3, quick=False),
    ("bert", "ort-extended"): Bar(1.3, quick=False),
    ("bert", "ort-all"): Bar(1.35),
    ("bert", "transformer-bert"): Bar(4.0),
    ("gpt2", "dynamic"): Bar(1.7),
    ("gpt2", "matmul4-qdq"): Bar(1.2, unpacked=True),
    ("gpt2", "ort-all"): Bar(1.2),
    ("gpt2", "transformer-gpt2"): Bar(1.3),
    ("llama", "matmul4"): Bar(1.6, PACKED),
    ("llama", "matmul4-zp"): Bar(1.6, PACKED, quick=False),
    ("llama", "matmul8"): Bar(1.6, PACKED, quick=False),
    ("llama", "matmul4-qdq"): Bar(1.2, unpacked=True),
    ("llama", "ort-extended"): Bar(1.2, quick=False),
    ("llama", "ort-all"): Bar(1.2),
    ("lstm", "dynamic"): Bar(4.0, frozenset({"DynamicQuantizeLSTM"})),
}
"""A quantised sum or activation is four nodes with a scale per model, a dynamic quantisation eleven, and an
operator that ONNX Runtime fused is what it was fused from. With FEW the join stands inside, behind operators that
are there once per model; comparing shapes there takes a Shape per model and five nodes."""

CASES = [
    pytest.param(*key, marks=() if bar.quick else pytest.mark.slow, id="-".join(key))
    for key, bar in BARS.items()
]


def variants(name: str, kind: str) -> list[str]:
    """Paths of the variants, made once per state of sample_models."""
    folder = samples.BUILD / "samples" / samples._version() / "quantised" / f"{name}-{kind}"
    with samples._locked(folder):
        paths = [folder / f"{name}-{i}-{kind}.onnx" for i in range(COUNT)]
        if not (folder / "complete").exists():
            list(derived(exported(name), kind, ALL[name], folder))
            (folder / "complete").touch()
    return [str(path) for path in paths]


def exported(name: str) -> list[Path]:
    from sample_models.export import export_family

    if name in FAMILIES:
        return [Path(path) for path in samples.exported(name, "torchscript")]
    folder = samples.BUILD / "samples" / samples._version() / "decoders" / name
    with samples._locked(folder):
        paths = [folder / f"{name}-{i}.onnx" for i in range(COUNT)]
        if not all(path.exists() for path in paths):
            list(export_family(DECODERS[name], folder, count=COUNT, tiny=True, exporter="torchscript"))
    return paths


def products(path: str, folder: Path) -> collections.Counter[str]:
    """The operators that multiply bytes in what ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    os.unlink(options.optimized_model_filepath)
    return collections.Counter(node.op_type for node in model.graph.node if node.op_type in INT8)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_variant(name: str, kind: str, tmp_path: Path) -> None:
    paths, bar = variants(name, kind), BARS[name, kind]
    out = str(tmp_path / "merged.onnx")
    report = netfuse_onnx.merge(paths, out)
    assert report.proof is not None and report.proof.ok
    assert {row.op.rpartition(".")[2] for row in report.lowered.replicated} == bar.replicated
    found = samples.expansion(onnx.load(out), paths[0], samples.VIEWS)
    assert found <= bar.expansion
    mine, theirs = products(out, tmp_path), products(paths[0], tmp_path)
    assert bar.unpacked or sum(mine.values()) >= sum(theirs.values()), f"{mine} of {theirs}"
    if not bar.replicated:
        assert set(mine) <= {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
    for level in samples.LEVELS:
        samples.session(out, level)


@pytest.mark.parametrize(
    ("name", "kind"), [("cnn", "qdq-u8"), ("resnet50", "qoperator"), ("bert", "transformer-bert")]
)
def test_stacked(name: str, kind: str, tmp_path: Path) -> None:
    paths = variants(name, kind)
    report = netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), io="stacked")
    assert report.proof is not None and report.proof.ok
    assert not report.lowered.replicated


def test_convolutions_of_bytes_are_exact(tmp_path: Path) -> None:
    """A network of convolutions, pools and a product in bytes gives the sources' own bits."""
    paths = variants("cnn", "qoperator")
    out = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out)
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((COUNT, 4, 1, 49, 10)).astype(np.float32)
    names = [Path(path).stem for path in paths]
    got = samples.session(out)({f"{name}/frames": frames[m] for m, name in enumerate(names)})
    for m, (name, path) in enumerate(zip(names, paths, strict=True)):
        want = samples.session(path)({"frames": frames[m]})["scores"]
        steps = np.abs(got[f"{name}/scores"] - want) * 256  # of the softmax at the end
        assert steps.max() <= 1.01


def test_verify_again(tmp_path: Path) -> None:
    """The proof from the merged file alone, whose constants are computed from the sources' scales."""
    paths = variants("cnn", "qdq-u8")
    out = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out)
    assert netfuse_onnx.verify(out, paths).ok
    assert not any(row.rule == "" for row in netfuse_onnx.inspect(out).lowered.replicated)


def test_for_cuda_the_groups_stay_as_they_are(tmp_path: Path) -> None:
    paths = variants("cnn", "qdq")
    out = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out, target="cuda", verify=False)
    found = collections.Counter(node.op_type for node in onnx.load(out).graph.node)
    assert found["Conv"] == 9 and not found["QLinearConv"]


# --------------------------------------------------------------------------- a decoder with a cache

DECODER = """
    h = Gather(e, i)
    n = SimplifiedLayerNormalization<axis = -1, epsilon = 0.00001>(h, g)
    q = MatMul(n, u)   k = MatMul(n, v)   m = MatMul(n, w)
    a, c, d = com.microsoft.GroupQueryAttention<num_heads = 4, kv_num_heads = 2, do_rotary = 1>(q, k, m, x, z, l, t, r, s)
    o = MatMul(a, p)
    y, , , sum = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.00001>(o, h, f)
    b = com.microsoft.QuickGelu<alpha = 1.0>(y)
"""


@pytest.mark.parametrize("batch", [1, 3])
def test_a_decoder_with_a_cache(batch: int, tmp_path: Path) -> None:
    """As ONNX Runtime's own exporters write them. Keys and values stay with their models, uncopied."""
    text = "int64[B,S] i, float[9,64] e, float[64] g, float[64,64] u, float[64,32] v, float[64,32] w, float[64,64] p"
    text += ", float[B,2,P,16] x, float[B,2,P,16] z, int32[B] l, int32 t, float[12,8] r, float[12,8] s, float[64] f"
    model = graph(text, DECODER)
    length = 1 if batch > 1 else 4
    values = draw(model, 3, sizes={"B": batch, "S": length, "P": 5}, low=-1, high=1)
    values["i"] = np.abs(values["i"]) % 9
    values["l"][:], values["t"][:] = 4 + length, 5 + length
    role = dict.fromkeys("eguvwpf", "weight") | dict.fromkeys("ixzl", "input")
    role |= dict.fromkeys("trs", "shared weight")
    for io in IO:
        check(model, values, role, tmp_path, io=io, reason="one sequence", alike=("sum",), tolerance=1e-4)


def test_every_variant_is_tried() -> None:
    assert {kind for _, kind in BARS} == set(VARIANTS)
