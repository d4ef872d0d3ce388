"""Prices on a GPU: what a launch takes, which launches a node makes, and what a plan makes of both."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from families import family
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from netfuse_onnx.emit.counting import CountingEmitter
from netfuse_onnx.errors import FileFault
from netfuse_onnx.layouts import FOLDED, PER_MODEL, SHARED, STACKED, route
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import planner, targets
from netfuse_onnx.plan.absorbed import absorbed
from netfuse_onnx.plan.account import Account
from netfuse_onnx.plan.card import Card
from netfuse_onnx.plan.device import VIEW, Device
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.launches import (
    CONVOLUTION,
    GROUPED,
    LINK,
    MEMORY,
    PRODUCT,
    TRANSPOSED,
    Launch,
    launches,
)
from netfuse_onnx.plan.work import Work
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Dim, Node, ValueType

FLOAT, HALF, UINT8, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT64
MICROSOFT = "com.microsoft"


@pytest.fixture(scope="module")
def card() -> Card:
    found = targets.target("cuda")
    assert isinstance(found, Card)
    return found


def bound(dims: Sequence[Dim]) -> tuple[int, ...]:
    """Open dims are 1, as a plan takes the batch."""
    return tuple(dim if isinstance(dim, int) else 1 for dim in dims)


def emitted(
    op: str, ins: list[Any], out: list[int], attrs: dict[str, Any] | None = None, domain: str = ""
) -> tuple[Any, Shapes]:
    """A step with inputs of these shapes, or (element type, shape), and an output of this one."""
    emit = CountingEmitter(2, 21)
    kinds = [x if isinstance(x, tuple) else (FLOAT, x) for x in ins]
    values: list[Any] = [emit.value(ValueType(dtype, tuple(dims))) for dtype, dims in kinds]
    (y,) = emit.node(op, values, attrs, domain=domain)
    types = [ValueType(dtype, tuple(dims)) for dtype, dims in kinds]
    result = ValueType(TensorProto.INT32 if op == "MatMulInteger" else kinds[0][0], tuple(out))
    names = tuple(f"x{i}" for i in range(len(ins)))
    node = Node(op, domain, "", names, ("y",), attrs or {})
    none = (False,) * len(ins)
    site = Site(node, 2, {"": 21, MICROSOFT: 1}, tuple(types), (result,), none, none, (None,) * len(ins))
    ports = tuple(((x,), SHARED) for x in (*values, y))
    return emit.steps[0], Shapes(Account(tuple(emit.steps), ports), site, bound)


def made(
    op: str, ins: list[Any], out: list[int], attrs: dict[str, Any] | None = None, domain: str = ""
) -> list[Launch]:
    return list(launches(*emitted(op, ins, out, attrs, domain)))


def price(card: Card, op: str, ins: list[Any], out: list[int], **more: Any) -> float:
    return Device(2, card)._step(*emitted(op, ins, out, **more))


# --------------------------------------------------------------------------- a launch


@pytest.mark.parametrize(
    ("count", "m", "n", "k", "share"),
    [
        (1, 128, 128, 64, 4 * 0.7 / 132),  # four tiles of 64, or one of 128
        (132, 128, 128, 64, 1.0),  # one full wave
        (133, 128, 128, 64, 0.7 * 532 / (5 * 132)),  # a wave more for one tile: the small tiles lose less
        (1, 128, 128, 2048, 16 * 0.7 / 132),  # the sum in four pieces
        (1, 128, 128, 1023, 0.7 * 4 * 1023 / 512 / 132),  # two pieces of 512, one of which is not full
        (8, 128, 768, 768, 48 * 768 / 512 / 132),  # 48 large tiles in two pieces, of 512 and 256
    ],
)
def test_the_fill_of_a_card(card: Card, count: int, m: int, n: int, k: int, share: float) -> None:
    """Tiles of 128 or, at 0.7 of the rate, of 64 on 132 multiprocessors."""
    assert card.fill(Work(PRODUCT, count, m, n, k)) == pytest.approx(share, rel=0.02)


def test_a_launch_takes_the_slowest_of_three(card: Card) -> None:
    work = Work(PRODUCT, 132, 1280, 1280, 1280)
    flops = 2.0 * 132 * 1280**3
    assert card.work(Launch(card.bytes_over[MEMORY])) == pytest.approx(1.0)
    assert card.work(Launch(1e3, work=work, element=FLOAT)) == pytest.approx(
        flops / card.operations[PRODUCT]["tf32"]
    )
    assert card.work(Launch(1e3, work=work, element=HALF)) == pytest.approx(
        flops / card.operations[PRODUCT]["half"]
    )
    assert card.work(Launch(0.0, work=Work(PRODUCT, 1, 1, 1, 1), cached=7 * card.cache)) == pytest.approx(7.0)
    assert card.work(Launch(1.0, LINK)) > card.work(Launch(1.0, TRANSPOSED)) > card.work(Launch(1.0))


def test_the_start_of_a_launch_is_between_a_graph_and_none(card: Card) -> None:
    """A short launch takes the mean of both; a long one hides its issue."""
    assert card.microseconds(Launch(0.0)) == pytest.approx((card.launch + card.issue) / 2)
    long = Launch(100 * card.bytes_over[MEMORY])
    assert card.microseconds(long) == pytest.approx(card.launch + 100)
    assert card.microseconds(replace(long, waits=True)) == pytest.approx(card.launch + 100 + card.wait)


SIZES = st.integers(1, 3000)
KERNELS = st.sampled_from([PRODUCT, CONVOLUTION, GROUPED])


@given(
    KERNELS, st.sampled_from([1, 8, 64]), SIZES, SIZES, SIZES, SIZES, st.integers(0, 3), st.integers(1, 500)
)
def test_a_price_grows_with_each_size(
    kernel: str, channels: int, count: int, m: int, n: int, k: int, which: int, by: int
) -> None:
    """A larger product never costs less, however its tiles fall."""
    card = targets.target("cuda")
    assert isinstance(card, Card)
    sizes = [count, m, n, k]
    smaller = card.work(Launch(0.0, work=Work(kernel, *sizes), channels=channels))
    sizes[which] += by
    assert card.work(Launch(0.0, work=Work(kernel, *sizes), channels=channels)) >= smaller * (1 - 1e-9)


@given(SIZES, SIZES, SIZES, st.integers(1, 40))
def test_one_launch_of_many_costs_no_more_than_many_launches(m: int, n: int, k: int, count: int) -> None:
    card = targets.target("cuda")
    assert isinstance(card, Card)
    one = card.microseconds(Launch(4.0 * m * k, work=Work(PRODUCT, 1, m, n, k)))
    many = card.microseconds(Launch(4.0 * count * m * k, work=Work(PRODUCT, count, m, n, k)))
    assert many <= count * one * (1 + 1e-9)


# --------------------------------------------------------------------------- the launches of a node


@pytest.mark.parametrize(
    ("x", "w", "y", "copies", "work"),
    [
        ([8, 128, 64], [8, 64, 32], [8, 128, 32], 0, (8, 128, 32, 64)),
        ([8, 4, 128, 64], [64, 32], [8, 4, 128, 32], 0, (1, 4096, 32, 64)),
        ([8, 4, 128, 64], [1, 1, 64, 32], [8, 4, 128, 32], 0, (1, 4096, 32, 64)),
        ([8, 4, 128, 64], [8, 1, 64, 32], [8, 4, 128, 32], 3, (32, 128, 32, 64)),
        ([8, 1, 128, 64], [8, 1, 64, 32], [8, 1, 128, 32], 0, (8, 128, 32, 64)),
        ([128, 64], [8, 64, 32], [8, 128, 32], 3, (8, 128, 32, 64)),
    ],
)
def test_products_are_strided_where_both_sides_have_equally_many(
    x: list[int], w: list[int], y: list[int], copies: int, work: tuple[int, ...]
) -> None:
    """Else ONNX Runtime copies three arrays of addresses."""
    found = made("MatMul", [x, w], y)
    assert [one.over for one in found] == [LINK] * copies + [MEMORY]
    assert found[-1].work == Work(PRODUCT, *work)
    assert found[-1].moved == 4 * (math.prod(x) + math.prod(w) + math.prod(y))


@pytest.mark.parametrize(("w", "copies"), [([8, 1, 64, 32], 3), ([8, "B", 64, 32], 0), ([64, 32], 0)])
def test_a_product_that_repeats_matrices_over_an_open_batch_has_addresses(w: list[Any], copies: int) -> None:
    """The batch is taken for 1, where the product would be strided; it is not 1 in every call."""
    found = made("MatMul", [[8, "B", 128, 64], w], [8, "B", 128, 32])  # type: ignore[list-item]
    assert [one.over for one in found] == [LINK] * copies + [MEMORY]


def test_a_convolution_adds_its_bias_in_a_launch_of_its_own() -> None:
    """A FusedConv has its bias, its activation and what is added before it in one launch."""
    x, w, b, y = [1, 64, 56, 56], [128, 8, 3, 3], [128], [1, 128, 56, 56]
    conv, bias = made("Conv", [x, w, b], y, {"group": 8})
    assert conv.work == Work(GROUPED, 8, 56 * 56, 16, 8 * 9)
    assert bias.moved == 4 * (128 + 2 * math.prod(y))
    (fused,) = made("FusedConv", [x, w, b, y], y, {"group": 8, "activation": b"Relu"}, MICROSOFT)
    assert fused.work == conv.work
    assert fused.moved == 4 * (math.prod(x) + math.prod(w) + 128 + 2 * math.prod(y))


@pytest.mark.parametrize(("groups", "channels"), [(1, 16), (2, 8), (4, 4), (16, 1)])
def test_groups_with_few_channels_are_slower(card: Card, groups: int, channels: int) -> None:
    """Below 8 channels tensor cores are no use."""
    (conv,) = made("Conv", [[1, 16, 9, 9], [32, channels, 3, 3]], [1, 32, 7, 7], {"group": groups})
    assert conv.work is not None and (conv.work.kernel, conv.channels) == (
        GROUPED if groups > 1 else CONVOLUTION,
        channels,
    )
    flops = 2.0 * 49 * 32 * channels * 9
    least = flops / card.grouped[max(size for size in card.grouped if size <= channels)]["tf32"]
    assert (card.work(replace(conv, moved=0.0)) == pytest.approx(least)) is (channels < 8)


def test_an_einsum_copies_its_operands(card: Card) -> None:
    """A product of the same sizes is one launch."""
    ins, out = [[2, 128, 64], [2, 64, 32]], [2, 128, 32]
    found = made("Einsum", ins, out, {"equation": b"nij,njk->nik"})
    assert [one.over for one in found] == [TRANSPOSED] * 3 + [MEMORY]
    assert price(card, "Einsum", ins, out, attrs={"equation": b"nij,njk->nik"}) > 2 * price(
        card, "MatMul", ins, out
    )


@pytest.mark.parametrize(
    ("op", "ins", "attrs", "domain"),
    [
        ("Attention", [[4, 128, 64]] * 3, {"q_num_heads": 8, "kv_num_heads": 8}, ""),
        ("Attention", [[4, 8, 128, 8]] * 3, {}, ""),
        ("MultiHeadAttention", [[4, 128, 64]] * 3, {"num_heads": 8}, MICROSOFT),
    ],
)
def test_attention_is_one_launch(op: str, ins: list[list[int]], attrs: dict[str, int], domain: str) -> None:
    (one,) = made(op, ins, ins[0], attrs, domain)
    assert one.work == Work(PRODUCT, 64, 128, 128, 8)


def test_a_gather_reads_no_more_than_it_writes() -> None:
    (one,) = made("Gather", [[30000, 768], (INT64, [8])], [8, 768])
    assert one.moved == 2 * 4 * 8 * 768


def test_many_tensors_have_a_table_of_addresses() -> None:
    few, many = ([[4]] * count for count in (32, 33))
    assert [one.over for one in made("Concat", few, [128])] == [MEMORY]
    assert [one.over for one in made("Concat", many, [132])] == [LINK, MEMORY]


def test_a_node_without_a_kernel_is_copied_there_and_back(card: Card) -> None:
    """Its inputs are waited for; those that are stored stay where they are."""
    on_host = price(card, "DynamicQuantizeLinear", [[1000, 1000]], [1000, 1000])
    assert on_host > card.wait + 8e6 / card.bytes_over[LINK]
    assert price(card, "MatMulInteger", [(UINT8, [4, 4])] * 2, [4, 4]) > price(
        card, "MatMulInteger", [(TensorProto.INT8, [4, 4])] * 2, [4, 4]
    )


def test_arithmetic_of_shapes_is_free(card: Card) -> None:
    """ONNX Runtime computes it where the shapes are; on elements it is a launch."""
    assert price(card, "Mul", [(INT64, [3]), (INT64, [3])], [3]) == VIEW
    assert price(card, "Reshape", [[8, 8], (INT64, [1])], [64]) == VIEW
    assert price(card, "Mul", [[3], [3]], [3]) > card.launch


# --------------------------------------------------------------------------- a plan


def test_conversions_are_launches_too(card: Card) -> None:
    """A value of half the bytes moves in half the time; more than 32 models are joined in two steps."""
    dims = (64, 1024, 1024)

    def convert(models: int, dtype: int) -> float:
        device = Device(models, card)
        return sum(device.hop(hop, dims, dtype) for hop in route(PER_MODEL, STACKED(0), dims))

    assert convert(8, FLOAT) - card.launch == pytest.approx(2 * (convert(8, HALF) - card.launch), rel=0.01)
    assert convert(33, FLOAT) - 33 / 32 * convert(32, FLOAT) > card.launch / 2
    assert Device(2, card).conversion(STACKED(1), FOLDED(1), ValueType(FLOAT, dims)) < 1.0


CONVOLVED = """g (float[batch, 4, 9, 9] x) => (float[batch, 4, 9, 9] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w)
    y = Relu(c)
}"""


def test_an_open_batch_of_one_is_transposed(tmp_path: Path, card: Card) -> None:
    """A conversion past a batch that the file leaves open is emitted as a Transpose, whatever its size is."""
    paths = family(tmp_path, CONVOLVED, {"w": (4, 4, 3, 3)})
    corr = match([load(path) for path in paths], [Path(path).stem for path in paths])
    device = Device(corr.models, card, {"batch": 1})
    value = device.priced(corr).graph.types["c"]
    assert value.dims == (1, 4, 9, 9)
    assert device.conversion(FOLDED(1), STACKED(0), value, "c") > card.launch
    assert device.conversion(FOLDED(1), STACKED(0), value) < card.launch


GELUS = {
    "half in the middle": "d = Div(x, root) e = Erf(d) a = Add(e, one) p = Mul(half, a) y = Mul(x, p)",
    "half last": "d = Div(x, root) e = Erf(d) a = Add(e, one) p = Mul(x, a) y = Mul(p, half)",
    "half first": "p = Mul(x, half) d = Mul(root, x) e = Erf(d) a = Add(one, e) y = Mul(p, a)",
}


@pytest.mark.parametrize("body", GELUS.values(), ids=GELUS)
def test_a_gelu_is_one_kernel(body: str, tmp_path: Path, card: Card) -> None:
    """ONNX Runtime fuses it, so only its last node is paid for."""
    text = f"g (float[512, 3072] x) => (float[512, 3072] y) <float root = {{1.4142}}, float one = {{1.0}}, float half = {{0.5}}> {{ {body} }}"
    paths = family(tmp_path, text, {})
    corr = match([load(path) for path in paths], [Path(path).stem for path in paths])
    made = planner.plan(corr, io="stacked", cost=Device(corr.models, card))
    assert made.prediction is not None
    nodes = made.prediction.parts["batched"]
    mul = price(card, "Mul", [[2, 512, 3072]] * 2, [2, 512, 3072])
    assert nodes == pytest.approx(mul + 4 * VIEW, rel=0.5)
    assert absorbed(corr.graph) == {"p", "d", "e", "a"}


def test_what_else_reads_erf_is_no_gelu(tmp_path: Path) -> None:
    text = "g (float[4] x) => (float[4] y) <float root = {1.4142}, float one = {1.0}> { d = Div(x, root) e = Erf(d) a = Add(e, one) b = Add(e, x) y = Mul(a, b) }"
    paths = family(tmp_path, text, {})
    assert absorbed(match([load(path) for path in paths], ["a", "b"]).graph) == frozenset()


def test_a_file_of_a_card_is_read(tmp_path: Path, card: Card) -> None:
    """Its digest follows the numbers, not where they come from."""
    text = (Path(targets.__file__).parent.parent / "targets" / "cuda.json").read_text()
    value = json.loads(text)
    path = tmp_path / "mine.json"
    value["provenance"]["measured"] = "2026-11-27"
    path.write_text(json.dumps(value))
    assert targets.target(str(path)).digest == card.digest
    value["constants"]["launch"]["value"] = 3.0
    path.write_text(json.dumps(value))
    assert targets.target(str(path)).digest != card.digest
    del value["constants"]["launch"]
    path.write_text(json.dumps(value))
    with pytest.raises(FileFault, match=r"mine\.json holds no constants of a target \('launch'\)"):
        targets.target(str(path))


def test_every_constant_says_where_it_comes_from() -> None:
    text = (Path(targets.__file__).parent.parent / "targets" / "cuda.json").read_text()
    for name, constant in json.loads(text)["constants"].items():
        assert set(constant) - {"measured"} == {"value", "unit", "source"}, name
        assert constant["source"], name
