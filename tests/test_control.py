"""If, Loop and Scan with one condition and trip count for all models: merged inside, through the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest

from netfuse_onnx.layouts import SHARED, STACKED
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.types import Became

IF = """y = If (c) <
    then_branch = t () => (float[3,4] a) { m = MatMul(x, w) a = Add(m, v) },
    else_branch = e () => (float[3,4] b) { b = Relu(v) }>"""

LOOP = """z, all = Loop (n, c, x) <
    body = l (int64 i, bool keep, float[3,4] s) => (bool again, float[3,4] t, float[3,4] out) {
        again = Identity(keep) p = Mul(s, w) t = Add(p, v) out = Tanh(t) }>"""

GROWN = """z, k = Loop (n, c, w, v) <
    body = l (int64 i, bool keep, float[3,4] s, float[3,4] r) => (bool again, float[3,4] t, float[3,4] q) {
        again = Identity(keep) t = Add(s, r) q = Mul(r, x) }>"""

SCAN = """z, ys = Scan (x, seq) <num_scan_inputs = 1, scan_input_axes = [AXIS], scan_output_axes = [OUT],
        scan_input_directions = [1],
    body = l (float[4] s, float[4] e) => (float[4] t, float[4] y) {
        p = Mul(s, w) t = Add(p, e) y = Sigmoid(t) }>"""

NESTED = """z = Loop (n, c, x) <
    body = l (int64 i, bool keep, float[3,4] s) => (bool again, float[3,4] t) {
        again = Identity(keep)
        t = If (d) <
            then_branch = t1 () => (float[3,4] a) { a = Add(s, w) },
            else_branch = e1 () => (float[3,4] b) { q = Mul(s, v) b = Add(q, w) }> }>"""


@pytest.mark.parametrize("condition", [True, False])
def test_if(condition: bool, tmp_path: Path) -> None:
    model = oracle.graph("bool c, float[3,4] x, float[4,4] w, float[3,4] v", IF)
    # A condition that is a graph input is shared, or the node is replicated.
    steer = ("shared weight", "shared input")
    oracle.sweep(model, tmp_path, given={"c": np.array(condition)}, steer=steer, alike=["y"])


@pytest.mark.parametrize("body", [LOOP, GROWN], ids=["state", "a state that only the body makes differ"])
def test_loop(body: str, tmp_path: Path) -> None:
    model = oracle.graph("int64 n, bool c, float[3,4] x, float[3,4] w, float[3,4] v", body)
    given = {"n": np.array(3), "c": np.array(True)}
    oracle.sweep(model, tmp_path, given=given, steer=("shared weight", "shared input"), alike=["z", "k"])


def test_a_loop_without_a_condition(tmp_path: Path) -> None:
    body = """all = Loop (n, "") <
        body = l (int64 i, bool keep) => (bool again, float[3,4] out) { again = Identity(keep) out = Tanh(w) }>"""
    model = oracle.graph("int64 n, float[3,4] w", body)
    oracle.sweep(model, tmp_path, given={"n": np.array(3)})


@pytest.mark.parametrize(("axis", "out"), [(0, 0), (1, 0), (0, 1), (-1, -1)])
def test_scan(axis: int, out: int, tmp_path: Path) -> None:
    shape = "3,4" if axis == 0 else "4,3"
    text = SCAN.replace("AXIS", str(axis)).replace("OUT", str(out))
    model = oracle.graph(f"float[4] x, float[{shape}] seq, float[4] w", text)
    oracle.sweep(model, tmp_path)


@pytest.mark.parametrize("inner", [True, False])
def test_a_branch_inside_a_loop(inner: bool, tmp_path: Path) -> None:
    model = oracle.graph("int64 n, bool c, bool d, float[3,4] x, float[3,4] w, float[3,4] v", NESTED)
    given = {"n": np.array(2), "c": np.array(True), "d": np.array(inner)}
    oracle.sweep(model, tmp_path, given=given, alike=["z"])


def test_a_condition_per_model_is_replicated_and_right(tmp_path: Path) -> None:
    model = oracle.graph("bool c, float[3,4] x, float[4,4] w, float[3,4] v", IF)
    values = oracle.draw(model, 3)
    values["c"] = np.array([True, False, True])
    role = {"c": "input", "x": "input", "w": "weight", "v": "weight"}
    oracle.check(model, values, role, tmp_path, reason="condition .c. differs")


def test_what_the_branches_do_not_touch_stays_shared(tmp_path: Path) -> None:
    model = oracle.graph("bool c, float[3,4] x, float[4,4] w, float[3,4] v", IF)
    values = oracle.draw(model, 3, given={"c": np.array(True)})
    role = {"c": "shared input", "x": "shared input", "w": "shared weight", "v": "shared weight"}
    family = oracle.family(oracle.as_models(model, values, role, tmp_path))
    (lowering,) = planning.plan(family, share=frozenset({"c", "x"})).lowerings
    assert (lowering.became, lowering.gives) == (Became.SHARED, (SHARED,))


def test_bodies_hold_no_weights_and_capture_merged_ones(tmp_path: Path) -> None:
    model = oracle.graph("bool c, float[3,4] x, float[4,4] w, float[3,4] v", IF)
    values = oracle.draw(model, 3, given={"c": np.array(True)})
    role = {"c": "shared input", "x": "input", "w": "weight", "v": "weight"}
    family = oracle.family(oracle.as_models(model, values, role, tmp_path))
    plan = planning.plan(family, share=frozenset({"c"}))
    assert plan.lowerings[0].gives == (STACKED(0),)
    merged = lower(family, plan, share=frozenset({"c"}))
    (branch,) = [node for node in merged.model.graph.node if node.op_type == "If"]
    assert list(branch.input) == ["c"]
    assert not any(attr.g.initializer for attr in branch.attribute)
    assert {"w", "v"} <= {tensor.name for tensor in merged.model.graph.initializer}
    inner = [row.name for row in merged.report.nodes]
    assert any(name.endswith("then_branch/-> a") for name in inner)
