"""Models that a call chooses: every rule and every layout with an axis of models whose size only the call tells."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import chosen
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import oracle
import pytest
from cases import draw, graph
from rule_cases import NAMES, operators, samples

from netfuse_onnx.dims import CHOSEN
from netfuse_onnx.emit.chosen import NEEDS_COUNT, NeedsCount
from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.errors import NotStackable
from netfuse_onnx.layouts import FOLDED, ROWS, SHARED, STACKED, route
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner

# --------------------------------------------------------------------------- rules

LEFT_OUT = {"test_sample.test_causal_conv": "ONNX Runtime has no kernel for it (1.31)"}
COUNTED = {
    "AffineGrid": "its size input counts the images of all models",
    "ConvTranspose": "its groups are in the file, and nothing unfolds it",
    "DeformConv": "its groups are in the file, and nothing unfolds it",
    "GroupNormalization": "its groups are in the file",
    "DynamicQuantizeLinear": "it runs once for each model",
    "QLinearConv": "its groups are in the file",
    "com.microsoft.DynamicQuantizeMatMul": "it runs once for each model",
}
"""Operators for which no case can choose the models, and why. This list only gets shorter."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LEFT_OUT])
def test_rows_are_those_of_the_chosen_models(name: str, tmp_path: Path) -> None:
    refused, ran = Counter[str](), Counter[str]()
    for sample in samples(name):
        why = chosen.check(sample.model, sample.values, sample.role, tmp_path, keep_opset=sample.keep_opset)
        known = "opset" in why or NEEDS_COUNT in why or "no form of its rule" in why
        assert not why or known, why
        (refused if why else ran).update(operators(sample) if "opset" not in why else ())
    if not ran and refused and len(refused) == 1:
        ROWS_REFUSED.update(refused)
    ROWS_RAN.update(ran)


ROWS_REFUSED: Counter[str] = Counter()
ROWS_RAN: Counter[str] = Counter()


def test_only_what_counts_models_is_refused() -> None:
    """It reads what the cases before it have seen."""
    if len(ROWS_RAN) > 100:
        assert ROWS_REFUSED.keys() - ROWS_RAN.keys() <= COUNTED.keys()
        assert not COUNTED.keys() & ROWS_RAN.keys(), "shorten the list"


# --------------------------------------------------------------------------- layouts

N, IDS = 3, [[1, 1, 0, 2], [2], [0, 2], [2, 1, 0]]
DIMS = [(3,), (1, 3), (2, 3), (1, "S", 2), ("B", "S", 2), (2, 3, "S"), (1, 2, 3, 2), ("B", 2), (1, "S")]


def held(values: np.ndarray, layout: object) -> np.ndarray:
    if layout == ROWS:
        return values.reshape(len(values), int(np.prod(values.shape[1:-1])), values.shape[-1])
    return np.stack(values, layout.axis) if layout.stacked else np.concatenate(values, layout.axis)


def converter(src: object, dst: object, dims: tuple) -> onnx.ModelProto:
    """A model that takes a value of the chosen models in one layout and gives it in another."""
    emit = Emitter("g", N, 17, {}, ())
    emit.scope = "conversion"
    x, ids, like = emit.input("x"), emit.input("ids"), emit.input("like")
    emit.choose(ids)
    emit.sizes.learn(like, SHARED, dims, emit.count)
    value = x
    for hop in route(src, dst, dims, ""):
        value = hop.emit(emit, value, onnx.TensorProto.FLOAT)
    emit.output(emit("Identity", value), "y")
    model = gs.export_onnx(emit.graph, do_type_check=False, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    model.graph.ClearField("input")
    kind = dims if src == SHARED else src.merged_dims(dims, CHOSEN)
    for name, dtype, own in (("x", 1, kind), ("ids", 7, (CHOSEN,)), ("like", 1, dims)):
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, dtype, own))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_every_pair_of_layouts(dims: tuple) -> None:
    places = [SHARED, *map(STACKED, range(len(dims) + 1)), *map(FOLDED, range(len(dims)))]
    places += [ROWS] if len(dims) >= 2 else []
    for src in places:
        for dst in places:
            if dst == SHARED:
                continue
            session = ort.InferenceSession(converter(src, dst, dims).SerializeToString())
            for ids in IDS:
                shape = [{"B": 2, "S": 4}.get(d, d) for d in dims]
                values = np.random.default_rng(5).random((len(ids), *shape), np.float32)
                values = np.broadcast_to(values[:1], values.shape) if src == SHARED else values
                feeds = {"ids": np.array(ids), "like": np.zeros(shape, np.float32)}
                feeds["x"] = values[0] if src == SHARED else held(values, src)
                (got,) = session.run(None, {k: v for k, v in feeds.items() if k in names(session)})
                np.testing.assert_array_equal(got, held(values, dst), f"{src} -> {dst}", strict=True)


def names(session: ort.InferenceSession) -> set[str]:
    return {info.name for info in session.get_inputs()}


# --------------------------------------------------------------------------- weights and checks

MODEL = graph("float[B,3] x, float[4,3] w, float[4] b", "t = Gemm<transB=1>(x, w, b) y = Relu(t)")
ROLE = {"x": "input", "w": "weight", "b": "weight"}


def merged(tmp_path: Path, role: dict[str, str] = ROLE, model: onnx.ModelProto = MODEL) -> onnx.ModelProto:
    values = draw(model, 3, sizes={"B": 2})
    corr = oracle.family(oracle.as_models(model, values, role, tmp_path))
    plan = planner.plan(corr, io="selected", share=oracle.shared(role))
    return onnx.load_from_string(
        oracle.materialise(lower(corr, plan, io="selected", share=oracle.shared(role)))
    )


def test_a_weight_is_stored_as_it_is_read(tmp_path: Path) -> None:
    """A Gemm's transB is undone where the bytes are written: no node transposes what was gathered."""
    model = merged(tmp_path)
    assert "Transpose" not in {node.op_type for node in model.graph.node}
    assert [3, 3, 4] in [list(tensor.dims) for tensor in model.graph.initializer]


def test_a_weight_that_all_share_is_not_gathered(tmp_path: Path) -> None:
    model = merged(tmp_path, {**ROLE, "w": "shared weight"})
    stored = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    gathered = [stored[node.input[0]] for node in model.graph.node if node.op_type == "Gather"
                and node.input[0] in stored]  # fmt: skip
    assert gathered == [[3, 1, 4]] or gathered == [[3, 4]]


def test_only_the_rows_of_a_table_are_read(tmp_path: Path) -> None:
    model = graph("int64[B] i, float[7,4] t", "y = Gather(t, i)")
    values = draw(model, 3, sizes={"B": 2}, low=0, high=6)
    assert chosen.check(model, values, {"i": "input", "t": "weight"}, tmp_path) == ""
    corr = oracle.family(oracle.as_models(model, values, {"i": "input", "t": "weight"}, tmp_path))
    lowered = lower(corr, planner.plan(corr, io="selected"), io="selected").model
    assert [21, 4] in [list(tensor.dims) for tensor in lowered.graph.initializer]


def test_each_weight_is_that_of_the_chosen_model(tmp_path: Path) -> None:
    assert chosen.check(MODEL, draw(MODEL, 3, sizes={"B": 2}), ROLE, tmp_path) == ""


@pytest.mark.parametrize("body", [
    "t = MatMul(x, w) y = Relu(t)", "t = MatMul(x, w) u = Gemm<transB=1>(t, w) y = Relu(u)",
])  # fmt: skip
def test_equal_weights_of_some_models_are_stored_once(body: str, tmp_path: Path) -> None:
    """The nodes that put them in their places work on the weights of all models, whatever a call chooses."""
    model = graph("float[B,24] x, float[24,24] w", body)
    values = draw(model, 4, sizes={"B": 2})
    values["w"][2] = values["w"][0]
    role = {"x": "input", "w": "weight"}
    assert chosen.check(model, values, role, tmp_path) == ""


def test_a_table_that_is_a_matrix_too(tmp_path: Path) -> None:
    model = graph("int64[B] i, float[24,24] w", "e = Gather(w, i) y = Gemm<transB=1>(e, w)")
    values = draw(model, 3, sizes={"B": 2}, low=0, high=6)
    values["w"] = np.random.default_rng(3).random(values["w"].shape, np.float32)
    assert chosen.check(model, values, {"i": "input", "w": "weight"}, tmp_path) == ""


def test_a_constant_of_each_model_is_no_other_constant() -> None:
    """Elsewhere the same numbers are axes, say, and nobody gathers them."""
    emit = Emitter("g", 2, 17, {}, ())
    emit.choose(emit.input("ids"))
    own, axes = emit.of_each([0, 1]), emit.const([0, 1])
    assert emit.rows(own) is not own
    assert emit.rows(axes) is axes


def test_ids_are_checked_though_nothing_reads_them(tmp_path: Path) -> None:
    assert chosen.check(MODEL, draw(MODEL, 1, sizes={"B": 2}), ROLE, tmp_path) == ""
    role = {"x": "input", "w": "shared weight", "b": "shared weight"}
    assert chosen.check(MODEL, draw(MODEL, 3, sizes={"B": 2}), role, tmp_path) == ""


def test_a_name_of_the_sources_stays_theirs(tmp_path: Path) -> None:
    model = graph("float[2,3] models, float[3,4] w", "y = MatMul(models, w)")
    role = {"models": "input", "w": "weight"}
    assert chosen.check(model, draw(model, 3), role, tmp_path) == ""
    assert [info.name for info in merged(tmp_path, role, model).graph.input] == ["models", "netfuse/models"]


def test_what_counts_models_is_refused(tmp_path: Path) -> None:
    model = graph("float[1,2,5,5] x, float[2,3,3,3] w", "y = ConvTranspose(x, w)")
    why = chosen.check(model, draw(model, 2), {"x": "input", "w": "weight"}, tmp_path)
    assert "ConvTranspose" in why and NEEDS_COUNT in why and "--select" in why
    emit = Emitter("g", 3, 17, {}, ())
    emit.choose(emit.input("ids"))
    with pytest.raises(NeedsCount):
        _ = emit.models


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    model = graph("float[2,3] x, float[3,4] w", "y = MatMul(x, w)", opset=11)
    values, role = draw(model, 2), {"x": "input", "w": "weight"}
    corr = oracle.family(oracle.as_models(model, values, role, tmp_path), keep_opset=True)
    with pytest.raises(NotStackable, match="opset 11"):
        lower(corr, planner.plan(corr, io="selected"), io="selected")
