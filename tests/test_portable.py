"""merge --portable: the opset and the operators of the sources, the values, and the gaps of other runtimes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import families
import numpy as np
import onnx
import oracle
import pytest
import samples
from fuzzing.case import draw
from onnx import TensorProto, defs, helper, numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.ops import walk
from netfuse_onnx.plan import planner
from netfuse_onnx.plan.costs import cost

CONVOLUTIONS = (
    """g (float[n, 3, 8, 8] x) => (float[n, m] y) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    b = BatchNormalization (a, s, z, m1, v1)
    c = Relu (b)
    d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
    e = GlobalAveragePool (d)
    f = Flatten (e)
    y = Gemm <transB = 1> (f, k, l)
}""",
    {"w": (6, 3, 3, 3), "s": (6,), "z": (6,), "m1": (6,), "k": (5, 6), "l": (5,)},
)
ATTENTION = (
    """g (float[n, t, 8] x) => (float[n, t, 8] y) {
    q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    kt = Transpose <perm = [0, 2, 1]> (k)
    s = MatMul (q, kt)
    p = Softmax <axis = 2> (s)
    o = MatMul (p, v)
    h = Add (o, x)
    m = ReduceMean <axes = [2]> (h)
    c = Sub (h, m)
    y = Mul (c, g1)
}""",
    {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "g1": (8,)},
)
NETWORKS = {"mlp": (families.MLP_TEXT, families.MLP), "convolutions": CONVOLUTIONS, "attention": ATTENTION}
OPSETS = (9, 11, 13, 15, 17)


def network(name: str, opset: int, folder: Path) -> list[str]:
    text, weights = NETWORKS[name]
    paths = families.family(folder, text, dict(weights), count=3, opset=opset)
    for path in paths if name == "convolutions" else ():
        model = onnx.load(path)  # a variance is positive
        model.graph.initializer.append(numpy_helper.from_array(np.ones(6, np.float32), "v1"))
        onnx.save(model, path)
    return paths


def foreign(path: str, opset: int, domains: frozenset[str] = frozenset()) -> Iterator[str]:
    """The operators of a file that neither an opset nor one of the domains has."""
    for node in walk.nodes(onnx.load(path, load_external_data=False).graph):
        if node.domain not in ("", "ai.onnx"):
            yield from () if node.domain in domains else (f"{node.domain}.{node.op_type}",)
        else:
            try:
                defs.get_schema(node.op_type, opset, "")
            except defs.SchemaError:
                yield node.op_type


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_the_opset_is_kept_and_all_proofs_hold(name: str, opset: int, io: str, tmp_path: Path) -> None:
    paths = network(name, opset, tmp_path)
    out = str(tmp_path / "merged.onnx")
    report = netfuse_onnx.merge(paths, out, io=io, portable=True)
    assert report.ok and report.portable
    apart = {row.op for row in report.lowered.replicated}
    assert apart == ({"MatMul"} if name == "attention" and opset < 14 else set()), "rows of two open sizes"
    assert report.source_opset == report.opset == opset
    assert {o.version for o in onnx.load(out).opset_import if not o.domain} == {opset}
    assert not [*foreign(out, opset)]
    again = netfuse_onnx.verify(out, paths)
    assert again.ok and again.graph.made, "the option is recorded, so the same plan is made again"


def test_without_it_the_opset_is_raised_and_the_report_says_so(tmp_path: Path, run) -> None:
    paths = network("mlp", 13, tmp_path)
    report = netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"))
    assert (report.source_opset, report.opset, report.portable) == (13, 17, False)
    _, _, err = run("merge", *paths, "-o", str(tmp_path / "merged.onnx"))
    assert "Opset 13 -> 17" in err and "--portable" in err
    code, _, err = run("merge", *paths, "-o", str(tmp_path / "merged.onnx"), "--portable")
    assert code == 0 and "Opset" not in err


def test_sources_of_several_opsets_meet_at_the_highest(tmp_path: Path) -> None:
    protos = [families.model(families.MLP_TEXT, families.MLP, seed=k, opset=k) for k in (11, 13)]
    paths = [families.save(tmp_path / f"{k}.onnx", proto) for k, proto in enumerate(protos)]
    report = netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), portable=True)
    assert report.ok and report.opset == 13


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_keep_to_their_operators(seed: int, tmp_path: Path) -> None:
    """The values are those of the sources, in ONNX Runtime, and there is nothing that they do not have."""
    case = draw(seed)
    if not case.model.graph.output or not case.values:
        pytest.skip("an empty graph")
    paths = list(map(str, oracle.as_models(case.model, case.values, case.role, tmp_path)))
    opset = max(o.version for o in case.model.opset_import if not o.domain)
    domains = frozenset(node.domain for node in walk.nodes(case.model.graph))
    out = str(tmp_path / "merged.onnx")
    try:
        report = netfuse_onnx.merge(paths, out, portable=True)
    except NetfuseError as error:
        pytest.skip(f"it does not merge without the option either: {error.message}")
    assert report.opset == opset and not [*foreign(out, opset, domains)]


@pytest.mark.parametrize("target", ["generic", "cpu", "cuda"])
def test_forms_that_others_compute_wrong_are_not_on_offer(target: str, tmp_path: Path) -> None:
    """Each lowering on offer is forced; none has a product that repeats one model's matrix, or an Einsum."""
    text = """g (float[n, 4, 8] x) => (float[n, 4, 5] y, float[n, 5, 4] z) {
        a = MatMul (x, w)
        y = Relu (a)
        z = Einsum <equation = "nik,ko->noi"> (x, w)
    }"""
    paths = families.family(tmp_path, text, {"w": (8, 5)}, count=3)
    from netfuse_onnx.opened import matched
    from netfuse_onnx.sources import read

    for portable in (False, True):
        family = matched(read(paths), ["a", "b", "c"], False, portable=portable)
        price = cost(target, family, {})
        price.measures = True
        found = planner.candidates(family, io="separate", share=frozenset(), cost=price)
        offers = [offer for offers in found.options for offer in offers if offer.option]
        steps = [step for offer in offers for step in price.accounts.of(offer).steps]
        assert ("Einsum" in {step.op for step in steps}) is not portable


def test_a_plan_for_the_cpu_repeats_no_matrix(tmp_path: Path) -> None:
    """Without the option, this target chooses the product that OpenCV computes wrong."""
    paths = samples.exported("bert", "torchscript", count=3)
    found = []
    for portable in (False, True):
        out = str(tmp_path / f"{portable}.onnx")
        report = netfuse_onnx.merge(
            paths, out, io="stacked", target="cpu", portable=portable, verify=portable
        )
        assert report.ok
        found.append(_repeating(out))
    assert found[0] and not found[1]


def _repeating(path: str) -> int:
    """The products of a stacked weight [N, 1, .., K, O]."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weights = [shapes.get(node.input[1], []) for node in graph.node if node.op_type == "MatMul"]
    return sum(len(shape) > 3 and shape[:2] == [3, 1] for shape in weights)


# ------------------------------------------------------------------------ the gaps themselves

OPENCV = pytest.mark.skipif(find_spec("cv2") is None, reason="opencv is not installed")
READS = """
import sys, numpy as np, cv2
net = cv2.dnn.readNetFromONNX(sys.argv[1])
net.setInput(np.load(sys.argv[2]), "x")
np.save(sys.argv[3], net.forward())
"""


def by_opencv(
    nodes: list[onnx.NodeProto], x: np.ndarray, w: np.ndarray, out: int, folder: Path
) -> np.ndarray | None:
    """Return the outputs of OpenCV, which runs in a process of its own; None where it fails."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * out)],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = families.save(folder / "gap.onnx", model)
    np.save(folder / "x.npy", x)
    command = [sys.executable, "-c", READS, path, str(folder / "x.npy"), str(folder / "y.npy")]
    done = subprocess.run(command, check=False, capture_output=True)
    return np.load(folder / "y.npy") if done.returncode == 0 else None


@OPENCV
def test_opencv_takes_one_matrix_for_all(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 4, 8)).astype(np.float32)
    w = rng.standard_normal((3, 1, 8, 5)).astype(np.float32)
    got = by_opencv([helper.make_node("MatMul", ["x", "w"], ["y"])], x, w, 4, tmp_path)
    assert got is not None
    np.testing.assert_allclose(got[0], (x @ w)[0], rtol=1e-4, atol=1e-4)
    assert not np.allclose(got[1], (x @ w)[1], atol=1e-3), "mended: take the row off plan/refusals.py"
