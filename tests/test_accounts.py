"""Accounts: what lowerings and hops emit, and the sizes of what that reads and writes.

That the account of every lowering is what lower emits, the oracle asserts (oracle.py), for all tests of rules.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from families import family
from onnx import TensorProto
from test_convert import layouts as layouts_of

from netfuse_onnx.emit.counting import CountingEmitter
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED, Layout, base, route
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner
from netfuse_onnx.plan.account import Accounts, is_view
from netfuse_onnx.plan.cost import AT_LOAD, RESHAPE, Cost
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.types import Correspondence, Dim, Lowering, ValueType

N = 3
GEMM = "g (float[4, 8] x) => (float[4, 5] y) { y = Gemm<alpha = 2.0>(x, w, c) }"


def matched(folder: Path, text: str, weights: dict[str, tuple[int, ...]]) -> Correspondence:
    paths = family(folder, text, weights)
    return match([load(path) for path in paths], [Path(path).stem for path in paths])


def lowering(corr: Correspondence, rule: str, node: int = 0) -> Lowering:
    found = planner.candidates(corr, io="separate", share=frozenset(), cost=Cost(corr.models))
    return next(offer for offer in found.options[node] if offer.rule == rule)


def test_a_gemm_costs_what_it_emits(tmp_path: Path) -> None:
    """MatMul, Mul and Add; the bias gains its axis in the file, not in a node."""
    gemm = lowering(matched(tmp_path, GEMM, {"w": (8, 5), "c": (5,)}), "gemm")
    account = Accounts().of(gemm)
    assert [step.op for step in account.steps] == ["MatMul", "Mul", "Add"]
    assert (account.launches, account.views, account.at_load) == (3, 0, 0)
    assert Cost(2).lowering(gemm, gemm.site) == 3.0


def test_sizes_between_the_nodes_are_inferred(tmp_path: Path) -> None:
    gemm = lowering(matched(tmp_path, GEMM, {"w": (8, 5), "c": (5,)}), "gemm")
    account = Accounts().of(gemm)
    shapes = Shapes(account, gemm.site, lambda dims: tuple(d if isinstance(d, int) else 7 for d in dims))
    models = gemm.site.models
    assert [shapes.of(step.outputs[0]) for step in account.steps] == [(models, 4, 5)] * 3
    assert shapes.of(account.steps[0].inputs[1]) == (models, 8, 5)


def test_nodes_that_read_only_weights_are_computed_at_load(tmp_path: Path) -> None:
    text = "g (float[4, 8] x) => (float[4, 8] y) { v = Relu(w) y = Add(x, v) }"
    corr = matched(tmp_path, text, {"w": (4, 8)})
    relu = lowering(corr, "unary")
    assert Accounts().of(relu).at_load == 1
    assert Cost(2).lowering(relu, relu.site) == AT_LOAD


def test_nodes_that_are_alike_share_their_account(tmp_path: Path) -> None:
    """Names do not matter, nor do those of open dims; attributes and ranks do."""
    text = """g (float[a, 8] x, float[b, 8] z, float[b, 2, 8] u) => (float[a, 8] y, float[b, 8] v, float[b, 8] t,
              float[b, 2, 8] s) { y = Softmax<axis = 1>(x) v = Softmax<axis = 1>(z) t = Softmax<axis = 0>(z)
              s = Softmax<axis = 1>(u) }"""
    corr = matched(tmp_path, text, {})
    found = planner.candidates(corr, io="separate", share=frozenset(), cost=Cost(corr.models))
    accounts = Accounts()
    first, same, other_axis, other_rank = (accounts.of(offers[0]) for offers in found.options)
    assert first is same
    assert len({first, other_axis, other_rank}) == 3


def test_a_body_that_reads_the_elements_of_a_weight_is_noticed(tmp_path: Path) -> None:
    """A body that reads elements may emit by them, so its account belongs to this node alone."""
    corr = matched(tmp_path, GEMM, {"w": (8, 5), "c": (5,)})
    emit = CountingEmitter(corr.models, 17)
    emit.begin(corr.weights)
    weight = emit.weight("c", STACKED(0))
    assert not emit.values_read and not isinstance(weight, tuple)
    assert emit.elements(weight, 100) is not None
    assert emit.values_read


@pytest.mark.parametrize("provider", ["", "cpu", "cuda"])
@pytest.mark.parametrize("dims", [(2, 4, 6), (2, 4), (1, 4, 6), (2, 3, 4, 6)], ids=str)
def test_hops_count_what_they_emit(
    dims: tuple[Dim, ...], provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dims are static: a join of open dims compares shapes as well, which is no part of its price."""
    monkeypatch.setitem(base.GROUP, "cuda", 2)
    layouts: list[Layout] = [SHARED, *layouts_of(dims)]
    for src in layouts:
        for dst in layouts:
            if dst == SHARED or src == dst or not (src.fits(dims) and dst.fits(dims)):
                continue
            for hop in route(src, dst, dims, provider):
                emit = CountingEmitter(N, 17, provider)
                kind = ValueType(TensorProto.FLOAT, hop.src.merged_dims(dims, N))
                one = [emit.value(kind) for _ in range(N)]
                hop.emit(emit, tuple(one) if hop.src == PER_MODEL else one[0], TensorProto.FLOAT)
                views = sum(map(is_view, emit.steps))
                counts = hop.counts(N, provider)
                told = counts.launches + RESHAPE * counts.views
                made = len(emit.steps) - views + RESHAPE * views
                assert made == pytest.approx(told), f"{hop.src} -> {hop.dst}: {[s.op for s in emit.steps]}"
