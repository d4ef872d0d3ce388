"""Sizes of symbolic dims for the proof: the smallest that tell, found also where they depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import family, merged, model, save
from hypothesis import given, settings
from hypothesis import strategies as st

import netfuse_onnx
from netfuse_onnx.errors import NotProven, UsageFault
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.prove.sizes import ATTEMPTS, Search, tells
from netfuse_onnx.prove.trial import Options, Trial
from netfuse_onnx.run import runtime
from netfuse_onnx.run.domains import Accepts
from netfuse_onnx.run.inputs import Case, InputSpec
from netfuse_onnx.run.ladder import ladder, numbers
from netfuse_onnx.run.offers import Offers, Seen
from netfuse_onnx.run.runtime import RunFailed, Value
from netfuse_onnx.types import Dim
from netfuse_onnx.write import metadata

Sizes = Mapping[str, int]


def specs(*shapes: tuple[Dim, ...]) -> list[InputSpec]:
    return [InputSpec(f"x{i}", 1, dims, Accepts()) for i, dims in enumerate(shapes)]


def found(
    offers: Offers, takes: Callable[[Sizes], bool], says: Callable[[Sizes], str] = lambda _: ""
) -> Case | None:
    """The first case that a source takes that refuses all others."""
    for tried, case in enumerate(offers):
        if tried == ATTEMPTS:
            break
        if takes(case.sizes):
            return case
        offers.refused(says(case.sizes))
    return None


# --------------------------------------------------------------------------- the ladder


@given(plain=st.integers(0, 5), wide=st.integers(0, 3), models=st.integers(1, 40))
def test_the_first_sizes_differ_from_each_other_and_from_n(plain: int, wide: int, models: int) -> None:
    shapes = [("n", *(f"p{i}" for i in range(plain)))[:3], ("n", 3, *(f"w{i}" for i in range(wide)))]
    names = [f"p{i}" for i in range(min(plain, 2))] + [f"w{i}" for i in range(wide)]
    first = next(ladder(shapes, names, models).rung((0, 0)))
    assert first.keys() == set(names)
    assert len({*first.values(), models, 3}) == len({models, 3}) + len(names)


def test_sizes_are_small_at_first_and_spatial_ones_even() -> None:
    steps = ladder([("n", "s"), ("n", 3, "h", "w")], ["s", "h", "w"], 2)
    assert next(steps.rung((0, 0))) == {"s": 8, "h": 12, "w": 16}
    assert next(steps.rung((0, 3)))["h"] == 64
    alike = [*steps.rung((1, 1))][-1]
    assert alike == {"s": 16, "h": 16, "w": 16}


def test_numbers_in_messages() -> None:
    said = "Non-zero status code while running Add node. Name:'/l.3/Add_7' axis 2: 17 by 10, shape:{1,4,3,10}"
    assert numbers(said) == [17, 10, 1, 4, 3]


@pytest.mark.parametrize(
    ("sizes", "message", "first"),
    [
        ({"p": 8, "s": 9, "t": 10}, "axis 1: 17 by 10", {"t": 17}),
        ({"p": 8, "s": 9, "t": 12}, "axis 1: 17 by 11", {"t": 18}),  # t stands one less in the sum
        ({"p": 8, "s": 9, "t": 30}, "axis 1: 17 by 15", {"t": 34}),  # half of t does
    ],
)
def test_messages_propose_sizes(sizes: dict[str, int], message: str, first: dict[str, int]) -> None:
    steps = ladder([("n", "p"), ("n", "s"), ("n", "t")], ["p", "s", "t"], 2)
    assert steps.proposed(sizes, message)[0] == sizes | first
    assert steps.proposed(sizes, "refused") == []


def test_a_message_without_a_known_number_proposes_nothing() -> None:
    steps = ladder([("n", "s")], ["s"], 2)
    assert steps.proposed({"s": 8}, "it is 35, not 77") == []


# --------------------------------------------------------------------------- relations

RELATIONS: dict[str, Callable[[int, int], int]] = {
    "sum": lambda a, b: a + b,
    "sum and one": lambda a, b: a + b + 1,
    "sum less one": lambda a, b: a + b - 1,
    "one less": lambda a, b: a - 1,
    "one more": lambda a, b: a + 1,
    "twice": lambda a, b: 2 * a,
    "equal": lambda a, b: a,
    "product": lambda a, b: a * b,
}


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(["a", "b", "c"]),
    relation=st.sampled_from([*RELATIONS]),
    talks=st.booleans(),
    least=st.integers(0, 12),
    data=st.data(),
)
def test_any_relation_of_sizes_is_found(
    order: list[str], relation: str, talks: bool, least: int, data: st.DataObject
) -> None:
    """One symbol depends on the others, whichever it is, and whether the refusal says anything or not."""
    one, two, depends = order
    rank = data.draw(st.sampled_from([2, 4]))

    def wants(sizes: Sizes) -> int:
        return RELATIONS[relation](sizes[one], sizes[two])

    def says(sizes: Sizes) -> str:
        return f"dimension 1: {wants(sizes)} by {sizes[depends]}" if talks else ""

    shapes: list[tuple[Dim, ...]] = [("n", "a"), ("n", "b"), ("n", "c")]
    if rank == 4:
        shapes[1] = ("n", 2, "b", 4)
    case = found(Offers(specs(*shapes), 1, {}, models=2), lambda s: s[depends] == wants(s), says)
    assert case is not None
    assert case.sizes[depends] == wants(case.sizes)


@settings(max_examples=40, deadline=None)
@given(layers=st.integers(1, 24), shift=st.integers(-1, 1), talks=st.booleans(), named=st.booleans())
def test_a_mask_of_its_own_beside_caches_of_many_layers(
    layers: int, shift: int, talks: bool, named: bool
) -> None:
    past = ["p"] * layers if named else [f"p{i}" for i in range(layers)]
    shapes = [("b", "s"), *(("b", 2, name, 8) for name in past), ("b", "t")]

    def says(sizes: Sizes) -> str:
        return f"{sizes[past[0]] + sizes['s'] + shift} by {sizes['t']}" if talks else ""

    def takes(sizes: Sizes) -> bool:
        alike = len({sizes[name] for name in past}) == 1
        return alike and sizes["t"] == sizes[past[0]] + sizes["s"] + shift

    case = found(Offers(specs(*shapes), 1, {}, models=3), takes, says)
    assert case is not None and case.sizes["t"] > case.sizes["s"]


def test_a_first_dim_that_grows_with_the_batch() -> None:
    inputs = specs(("b", "s"), ("bh", 4, "s"))
    first = found(Offers(inputs, 1, {}, models=3), lambda s: s["bh"] == 4 * s["b"])
    assert first is not None
    again = Offers(inputs, 3, {}, models=3, seen=Seen(first, 1))
    assert next(iter(again)).sizes == {**first.sizes, "b": 3, "bh": 12}
    bound = Offers(inputs, 3, {"bh": 4}, models=3, seen=Seen(first, 1))
    assert next(iter(bound)).sizes["bh"] == 4


def test_no_case_is_offered_twice_and_all_name_all_sizes() -> None:
    offers = Offers(specs(("b", "s"), ("b", 3, "h", "w")), 2, {"w": 5}, models=2)
    cases = [*offers]
    assert len({(c.title, c.floats, c.integers) for c in cases}) == len(cases)
    assert all(c.title.startswith("b=2, ") and "w=5" in c.title for c in cases)
    assert all(f"{name}=" in c.title for c in cases for name in ("s", "h"))


def test_what_runs_decides_the_sizes_of_the_other_batches() -> None:
    case = Case("", {"b": 1, "s": 9, "t": 17})
    first = next(iter(Offers(specs(("b", "s"), ("b", "t")), 5, {}, seen=Seen(case, 1))))
    assert first.label == "b=5, s=9, t=17"


# --------------------------------------------------------------------------- the search


def search(run: Callable[[Case], dict[str, Value]], most: int = 50) -> Search:
    return Search(run, lambda _: "", lambda done, total: None, most)


def test_larger_sizes_are_tried_until_each_output_tells() -> None:
    def run(case: Case) -> dict[str, Value]:
        height = case.sizes["h"]
        return {"y": np.arange(height) // 20.0, "z": np.arange(3.0)}

    best = search(run).best(Offers(specs(("b", 3, "h", "w")), 1, {}, models=2))
    assert best is not None and best.complete
    assert best.case.sizes["h"] == 32


def test_the_smallest_stays_where_larger_sizes_show_no_more() -> None:
    seen: list[int] = []

    def run(case: Case) -> dict[str, Value]:
        seen.append(case.sizes["h"])
        return {"y": np.zeros(case.sizes["h"]), "z": np.arange(3.0)}

    best = search(run).best(Offers(specs(("b", 3, "h", "w")), 1, {}, models=2))
    assert best is not None and not best.complete
    assert best.case.sizes["h"] == 8
    assert 1 < len(seen) <= 4


def test_the_search_ends() -> None:
    def run(case: Case) -> dict[str, Value]:
        raise RunFailed("no")

    looking = search(run, most=17)
    assert looking.best(Offers(specs(("b", "s"), ("b", "t")), 1, {})) is None
    assert looking.runs == 17
    assert looking.why == "b=1, s=8, t=9: no"


def test_what_is_too_large_is_not_run() -> None:
    def refuse(case: Case) -> str:
        return "too large" if case.sizes["s"] > 4 else ""

    ran: list[int] = []

    def run(case: Case) -> dict[str, Value]:
        ran.append(case.sizes["s"])
        return {"y": np.arange(4.0)}

    best = Search(run, refuse, lambda done, total: None, 50).best(Offers(specs(("b", "s")), 1, {}))
    assert best is not None and best.case.sizes["s"] <= 4
    assert max(ran) <= 4


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.zeros((2, 3)), False),
        (np.array([1.0, np.nan]), True),
        (np.array([np.nan, np.nan]), False),
        (np.zeros((0, 3)), False),
        (np.zeros((1, 1)), True),  # one number can't vary
        (np.zeros(3, np.int64), True),
        ([np.zeros(3)], True),
        (None, False),
    ],
)
def test_what_tells(value: Value, told: bool) -> None:
    assert tells(value) == told


# --------------------------------------------------------------------------- in ONNX Runtime

DECODER = """g (int64[b, s] ids, float[b, 2, p, 4] past_key, float[b, 2, p, 4] past_value, int64[b, t] attention_mask)
    => (float[b, 2, k, 4] key, float[b, 2, k, 4] value, float[b, s, 11] logits)
    <int64[4] heads = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}, float big = {-10000.0}, float one = {1.0},
     int64[2] middle = {1, 2}, int64[1] second = {1}, int64[1] end = {100000}> {
    x = Gather(table, ids)
    q0 = MatMul(x, wq) q1 = Reshape(q0, heads) q = Transpose <perm = [0, 2, 1, 3]> (q1)
    k0 = MatMul(x, wk) k1 = Reshape(k0, heads) k2 = Transpose <perm = [0, 2, 1, 3]> (k1)
    v0 = MatMul(x, wv) v1 = Reshape(v0, heads) v2 = Transpose <perm = [0, 2, 1, 3]> (v1)
    key = Concat <axis = 2> (past_key, k2)
    value = Concat <axis = 2> (past_value, v2)
    turned = Transpose <perm = [0, 1, 3, 2]> (key)
    scores = MatMul(q, turned)
    m0 = Cast <to = 1> (attention_mask)
    m1 = CHANGE(m0)
    m2 = Sub(one, m1) m3 = Mul(m2, big) m4 = Unsqueeze(m3, middle)
    masked = Add(scores, m4)
    weights = Softmax <axis = -1> (masked)
    o0 = MatMul(weights, value) o1 = Transpose <perm = [0, 2, 1, 3]> (o0) o2 = Reshape(o1, flat)
    logits = MatMul(o2, head)
}"""
DECODER_WEIGHTS = {"table": (11, 8), "wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "head": (8, 11)}


@pytest.mark.parametrize("silent", [False, True], ids=["messages", "no messages"])
@pytest.mark.parametrize(("change", "more"), [("Identity(m0)", 0), ("Slice(m0, second, end, second)", 1)])
def test_a_decoder_whose_mask_has_a_symbol_of_its_own(
    tmp_path: Path, change: str, more: int, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if silent:
        refused = Offers.refused
        monkeypatch.setattr(Offers, "refused", lambda self, message: refused(self, ""))
    paths = family(tmp_path, DECODER.replace("CHANGE(m0)", change), DECODER_WEIGHTS, count=3)
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    assert report.proof is not None and not report.proof.values.skipped
    assert len(report.proof.values.cases) == 3
    for shapes in report.proof.values.shapes.values():
        (_, length), (_, total) = shapes["ids"], shapes["attention_mask"]
        assert total == length + shapes["past_key"][2] + more
        assert length != shapes["past_key"][2]


PAIRS = {
    "h * w": (
        "g (float[n, 3, h, w] x, float[n, 3, t] z) => (float[n, 3, u] y) <int64[3] to = {0, 0, -1}> {"
        " a = Reshape(x, to) y = Add(a, z) }",
        {"t": lambda s: s["h"] * s["w"]},
    ),
    "half": (
        "g (float[n, 1, s] x, float[n, 1, t] z) => (float[n, 1, u] y) {"
        " a = MaxPool <kernel_shape = [2], strides = [2]> (x) y = Add(a, z) }",
        {"t": lambda s: s["s"] // 2},
    ),
    "heads": (
        "g (float[n, s, 8] x, float[m, s, 4] z) => (float[m, s, 4] y) <int64[4] to = {0, 0, 2, 4}> {"
        " a = Reshape(x, to) b = Transpose <perm = [0, 2, 1, 3]> (a) c = Shape(z) d = Reshape(b, c)"
        " y = Add(d, z) }",
        {"m": lambda s: 2 * s["n"]},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_sizes_that_depend_on_others(tmp_path: Path, name: str) -> None:
    text, relations = PAIRS[name]
    trial = trial_of(family(tmp_path, text))
    assert len(trial.cases) == 2
    for case in trial.cases:
        assert all(case.sizes[symbol] == wants(case.sizes) > 1 for symbol, wants in relations.items())


def trial_of(paths: list[str], **options: object) -> Trial:
    matched = match([load(path) for path in paths], [str(i) for i in range(len(paths))])
    trial = Trial(matched, Options(runtime.Runtime("cpu"), **options))  # type: ignore[arg-type]
    trial.run_sources(lambda *_: None)
    return trial


def test_inputs_that_nothing_takes_are_told_with_their_shapes(tmp_path: Path) -> None:
    text = """g (float[n, s] x, float[n, 2, t] z) => (float[7, 11] y) <int64[2] to = {7, 11}, int64[2] flat = {0, -1}> {
        a = Reshape(z, flat) b = Concat <axis = 1> (x, a) y = Reshape(b, to) }"""
    with pytest.raises(NotProven) as caught:
        trial_of(family(tmp_path, text), dims={"s": 1})
    assert "tried, first x [1, 1], z [1, 2, 8]: " in caught.value.message
    assert "--dim NAME=VALUE (there are n, s, t)" in caught.value.hint


def test_an_image_network_of_many_strides_gets_larger_images(tmp_path: Path) -> None:
    """After five strides an image of 8 is one pixel; the mean of one pixel is its maximum."""
    steps = "".join(
        f" a{i + 1} = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (a{i}, w)"
        for i in range(4)
    )
    text = f"g (float[n, 2, h, w0] x) => (float[n, 2, 1, 1] y) {{ a0 = Neg(x) {steps} y = GlobalAveragePool(a4) }}"
    paths = family(tmp_path, text, {"w": (2, 2, 3, 3)})
    (case, *_) = trial_of(paths).cases
    assert case.sizes == {"n": 1, "h": 32, "w0": 48}
    plain = family(
        tmp_path, text.replace("GlobalAveragePool(a4)", "GlobalAveragePool(a0)"), {"w": (2, 2, 3, 3)}
    )
    assert trial_of(plain).cases[0].sizes == {"n": 1, "h": 8, "w0": 12}


def test_an_output_that_is_constant_for_small_images_gets_larger_ones(tmp_path: Path) -> None:
    """No shape tells it: the image is cut by a computed amount, and what is left is normalised."""
    text = """g (float[n, 2, h, w] x) => (float[n, 2, a, b] y)
        <float[2] s = {1.0, 2.0}, float[2] t = {0.0, 1.0}, int64[2] most = {1, 1}, int64[2] cut = {15, 23},
         int64[2] axes = {2, 3}, int64[2] end = {100, 100}> {
        shape = Shape <start = 2> (x)
        left = Sub(shape, cut)
        safe = Max(left, most)
        start = Sub(shape, safe)
        part = Slice(x, start, end, axes)
        y = InstanceNormalization(part, s, t)
    }"""
    (case, *_) = trial_of(family(tmp_path, text, opset=18)).cases
    assert case.sizes["h"] > 16 and case.sizes["w"] > 24


# --------------------------------------------------------------------------- in the report


def test_shapes_and_sizes_are_in_the_report(tmp_path: Path) -> None:
    text = "g (float[n, s, ?] x, int64[n] k) => (float[n, s, ?] y, int64[n] l) { y = Softmax(x) l = Neg(k) }"
    paths = family(tmp_path, text)
    values = netfuse_onnx.verify(merged(tmp_path, paths), paths).values
    assert values.cases[:2] == ("n=1, s=8, x.2=9", "n=2, s=8, x.2=9")
    assert values.shapes["n=2, s=8, x.2=9"] == {"x": (2, 8, 9), "k": (2,)}


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    paths = family(tmp_path, "g (float[n, s] x) => (float[n, s] y) { y = Softmax(x) }")
    netfuse_onnx.verify(merged(tmp_path, paths), paths, progress=lambda *step: told.append(step))
    assert ("looking for inputs that the models take", 0, ATTEMPTS) in told
    assert ("running the merged model", 1, 2) in told
    assert all(done <= total for _, done, total in told)


# --------------------------------------------------------------------------- kept in the file


@pytest.mark.usefixtures("one_setting")
def test_given_sizes_are_kept_for_verify_and_bench(tmp_path: Path) -> None:
    paths = family(tmp_path, "g (float[n, s] x) => (float[n, s] y) { y = Softmax(x) }")
    out = str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, out, dims={"s": 5, "n": 3})
    assert metadata.read(out).dims == {"s": 5, "n": 3}
    assert netfuse_onnx.verify(out, paths).values.cases == ("n=3, s=5",)
    assert netfuse_onnx.verify(out, paths, dims={"s": 6}).values.cases == ("n=3, s=6",)
    assert netfuse_onnx.bench(out, paths, rounds=1, seconds=0.0).case == "n=3, s=5"
    with pytest.raises(UsageFault, match="no symbolic dimension 'm'"):
        netfuse_onnx.verify(out, paths, dims={"m": 6})


def test_files_without_sizes_are_read(tmp_path: Path) -> None:
    paths = family(tmp_path, "g (float[n, s] x) => (float[n, s] y) { y = Softmax(x) }")
    out = merged(tmp_path, paths)
    assert '"dims"' not in {p.key: p.value for p in onnx.load(out).metadata_props}[metadata.KEY]
    assert metadata.read(out).dims == {}
    assert netfuse_onnx.verify(out, paths).values.cases[0] == "n=1, s=8"


def test_kept_sizes_of_symbols_that_the_sources_lack_are_left(tmp_path: Path) -> None:
    text = "g (float[n, s] x) => (float[n, s] y) { y = Softmax(x) }"
    paths = family(tmp_path, text)
    out = merged(tmp_path, paths, dims={"s": 5})
    others = [save(Path(path), model(text.replace("s]", "t]"))) for path in paths]
    assert netfuse_onnx.verify(out, others).values.cases[0] == "n=1, t=8"
