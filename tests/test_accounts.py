"""Accounts: what lowerings and hops emit, and the sizes of what that reads and writes.

That the account of every lowering is what lower emits, the oracle asserts (oracle.py), for all tests of rules.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from families import family
from onnx import TensorProto
from oracle import EveryOnCpu
from test_convert import layouts as layouts_of

from netfuse_onnx.emit.counting import CountingEmitter
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED, Layout, base, route
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner
from netfuse_onnx.plan.account import UNKNOWN_DIM, Accounts, is_view
from netfuse_onnx.plan.cost import AT_LOAD, POINTERS, RESHAPE, Cost
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.measured import Measured
from netfuse_onnx.plan.targets import target
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Correspondence, Dim, Lowering, ValueType

N = 3
GEMM = "g (float[4, 8] x) => (float[4, 5] y) { y = Gemm<alpha = 2.0>(x, w, c) }"


def matched(folder: Path, text: str, weights: dict[str, tuple[int, ...]]) -> Correspondence:
    paths = family(folder, text, weights)
    return match([load(path) for path in paths], [Path(path).stem for path in paths])


def lowering(corr: Correspondence, rule: str, node: int = 0, cost: Cost | None = None) -> Lowering:
    found = planner.candidates(corr, io="separate", share=frozenset(), cost=cost or Cost(corr.models))
    return next(offer for offer in found.options[node] if offer.rule == rule)


def test_a_gemm_costs_what_it_emits(tmp_path: Path) -> None:
    """MatMul, Mul and Add; the bias gains its axis in the file, not in a node."""
    gemm = lowering(matched(tmp_path, GEMM, {"w": (8, 5), "c": (5,)}), "gemm")
    account = Accounts().of(gemm)
    assert [step.op for step in account.steps] == ["MatMul", "Mul", "Add"]
    assert (account.launches, account.views, account.at_load) == (3, 0, 0)
    assert Cost(2).lowering(gemm, gemm.site) == 3.0


def test_a_product_whose_matrices_broadcast_costs_its_pointers(tmp_path: Path) -> None:
    """[N, 2, 4, 8] x [N, 1, 8, 5] is a list of products; [N, 8, 8] x [N, 8, 5] is one."""
    text = "g (float[2, 4, 8] x) => (float[2, 4, 5] y) { y = MatMul(x, w) }"
    corr = matched(tmp_path, text, {"w": (8, 5)})
    apart, together = lowering(corr, "matmul"), lowering(corr, "linear_rows")
    accounts = Accounts()
    assert [accounts.of(offer).broadcast_products for offer in (apart, together)] == [1, 0]
    assert [Cost(2).lowering(offer, offer.site) for offer in (apart, together)] == [1 + POINTERS, 1.0]


def test_an_einsum_costs_what_it_copies(tmp_path: Path) -> None:
    """It copies each operand and its result; MatMul reads weights where they are."""
    text = 'g (float[4, 8] x) => (float[4, 5] y) { y = Einsum<equation = "ab,bc->ac">(x, w) }'
    corr = matched(tmp_path, text, {"w": (8, 5)})
    apart, together = lowering(corr, "einsum"), lowering(corr, "einsum_rows")
    assert [Cost(2).lowering(offer, offer.site) for offer in (apart, together)] == [4.0, 1.0]


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


RNN = """g (float[STEPS, batch, 3] x) => (float[STEPS, 1, batch, 4] y, float[1, batch, 4] h) {
    y, h = RNN<hidden_size = 4>(x, w, r)
}"""


def recurrent(folder: Path, steps: int | str) -> Lowering:
    """An RNN with weights of its own as a Scan."""
    text = RNN.replace("STEPS", str(steps))
    corr = matched(folder, text, {"w": (1, 4, 3), "r": (1, 4, 4)})
    return lowering(corr, "written_out_scan", cost=EveryOnCpu(corr.models))


def test_the_body_of_a_scan_costs_its_nodes_in_each_iteration(tmp_path: Path) -> None:
    """MatMul, Add, Tanh and the copy of a state that is also a result."""
    for steps, priced in ((5, 5), ("time", UNKNOWN_DIM)):
        scan = recurrent(tmp_path, steps)
        account = Accounts().of(scan)
        inside = [step.op for step in account.steps if step.runs]
        assert inside == ["MatMul", "Add", "Tanh", "Identity"]
        outside = [step for step in account.steps if not step.runs and not step.at_load and not is_view(step)]
        assert account.launches == len(outside) + priced * 3
        assert account.views == sum(is_view(step) for step in account.steps if not step.runs) + priced


def test_the_body_of_a_scan_takes_time_in_each_iteration(tmp_path: Path) -> None:
    """The sizes of a target, or those that are bound, tell how many there are."""
    scan = recurrent(tmp_path, "time")
    seconds = [Measured(2, target("cpu"), {"time": steps, "batch": 2}) for steps in (10, 20, 40)]
    few, more, most = (
        cost.lowering(scan, cost_site(scan, steps)) for cost, steps in zip(seconds, (10, 20, 40), strict=True)
    )
    assert most - more == pytest.approx(2 * (more - few), rel=0.01)
    assert more > 1.5 * few


def cost_site(offer: Lowering, steps: int) -> Site:
    """The site of an offer with sizes for its open dims."""
    sizes = {"time": steps, "batch": 2}

    def bound(kind: ValueType) -> ValueType:
        return replace(kind, dims=kind.dims and tuple(sizes.get(dim, dim) for dim in kind.dims))

    site = offer.site
    return replace(site, inputs=tuple(map(bound, site.inputs)), outputs=tuple(map(bound, site.outputs)))
