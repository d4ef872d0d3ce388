"""What is fed to the models: sizes that they take, integers within bounds, other values for each model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from families import family, save
from families import model as build
from onnx import numpy_helper

from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan.sized import assumed
from netfuse_onnx.run import inputs, symbols
from netfuse_onnx.run.domains import Accepts, Domains
from netfuse_onnx.run.inputs import Case
from netfuse_onnx.types import Correspondence, Graph, ValueType


def matched(folder: Path, text: str, weights: dict[str, tuple[int, ...]] | None = None) -> Correspondence:
    return match([load(path) for path in family(folder, text, weights or {}, opset=17)], ["a", "b"])


DOMAINS = {
    "a table": ("g (int64[n] x) => (float[n, 4] y) { y = Gather(table, x) }", Accepts(high=5)),
    "through casts and reshapes": (
        """g (int32[n] x) => (float[m, 2, 4] y) <int64[2] to = {-1, 2}> {
            a = Cast <to = 7> (x) b = Reshape(a, to) y = Gather(table, b) }""",
        Accepts(high=5),
    ),
    "a one-hot": (
        """g (int64[n] x) => (float[n, 9] y) <int64 depth = {9}, float[2] v = {0., 1.}> {
            y = OneHot(x, depth, v) }""",
        Accepts(high=9),
    ),
    "compared with constants": (
        "g (int64 x) => (bool y) <int64 rate = {16000}> { y = Equal(x, rate) }",
        Accepts(values=(16000, 16001)),
    ),
    "a size": ("g (int64[1] x) => (float[n] y) { y = ConstantOfShape(x) }", Accepts(low=0)),
    "nothing known": ("g (int64[n] x) => (int64[n] y) { y = Neg(x) }", Accepts()),
}


@pytest.mark.parametrize("what", DOMAINS)
def test_domains(tmp_path: Path, what: str) -> None:
    text, accepts = DOMAINS[what]
    found = matched(tmp_path, text, {"table": (5, 4)} if "table" in text else {})
    assert Domains(found).of("x") == accepts


def test_a_one_hot_that_was_taken_apart(tmp_path: Path) -> None:
    text = "g (int32[n, 1] x) => (bool[n, 257] y) { y = Equal(x, classes) }"
    proto = build(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(257, dtype=np.int32)[None], "classes"))
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]
    assert Domains(match([load(path) for path in paths], ["a", "b"])).of("x") == Accepts(high=257)


def test_draws(tmp_path: Path) -> None:
    text = """g (float[n, 3] f, int64[n, 4] mask, bool[n] b, int64[n, 2] ids, uint8[n, 8] image) =>
        (float[n, 3] f2, int64[n, 4] m2, bool[n] b2, float[n, 2, 4] y, uint8[n, 8] i2) {
        f2 = Neg(f) m2 = Neg(mask) b2 = Not(b) y = Gather(table, ids) i2 = BitwiseNot(image) }"""
    paths = [save(tmp_path / f"{n}.onnx", build(text, {"table": (5, 4)}, opset=18)) for n in "ab"]
    specs = inputs.describe(match([load(path) for path in paths], ["a", "b"]))
    case = Case("n=50", {"n": 50})
    one, two = (inputs.draw(specs, case, m, frozenset({"f"}), seed=3) for m in range(2))
    assert np.array_equal(one["f"], two["f"])  # shared
    for name in ("mask", "b", "ids", "image"):
        assert not np.array_equal(one[name], two[name])
    mask = np.asarray(one["mask"])
    assert set(np.unique(mask)) == {0, 1}
    assert mask[:, 0].all()
    assert set(np.unique(one["ids"])) == set(range(5))
    assert np.asarray(one["image"]).max() > 200
    again = inputs.draw(specs, case, 0, frozenset({"f"}), seed=3)
    assert all(np.array_equal(one[name], again[name]) for name in one)


def test_draws_of_another_scale_and_salt(tmp_path: Path) -> None:
    text = """g (float[n, 3] f, int64[n, 2] ids, uint8[n, 8] image) =>
        (float[n, 3] f2, float[n, 2, 4] y, uint8[n, 8] i2) {
        f2 = Neg(f) y = Gather(table, ids) i2 = BitwiseNot(image) }"""
    paths = [save(tmp_path / f"{n}.onnx", build(text, {"table": (5, 4)}, opset=18)) for n in "ab"]
    specs = inputs.describe(match([load(path) for path in paths], ["a", "b"]))
    case = Case("n=50", {"n": 50})
    wide, other = replace(case, scale=10.0), replace(case, salt=1)
    assert (case.label, wide.label, other.label) == ("n=50", "n=50, scale 10", "n=50, salt 1")
    plain, scaled, salted = (inputs.draw(specs, c, 0, frozenset(), seed=3) for c in (case, wide, other))
    np.testing.assert_allclose(scaled["f"], np.asarray(plain["f"]) * 10, rtol=1e-6)
    for name in ("ids", "image"):
        assert np.array_equal(scaled[name], plain[name])
        assert not np.array_equal(salted[name], plain[name])
    assert not np.array_equal(salted["f"], plain["f"])
    assert set(np.unique(np.asarray(salted["ids"]))) <= set(range(5))


def test_sizes_of_symbols() -> None:
    values = {"s": 3, "p": 4, "a.b": 7}
    assert symbols.sizes(("s", 2, "s + p", "2*s - 1", "a.b", "p // 2", "?"), values) == (3, 2, 7, 5, 7, 2, 1)
    assert symbols.free([("s", "p + s"), None, ("a.b", 4), ("p",)]) == ("s", "a.b", "p")
    assert symbols.batches([("n", "s"), ("n + 1",), (3, "t")]) == ("n",)


COMPUTED = {
    "past + seq": 14,
    "batch-size": 1,
    "floor(seq/2)": 5,
    "floor(seq/2 - 1/2) + 1": 5,
    "2*seq + 1": 21,
    "((seq - 1)//2) + 1": 5,
    "Max(1, seq - 20)": 1,
    "Min(seq, past)": 4,
    "ceiling(seq/3)": 4,
    "Mod(seq, 4)": 2,
    "seq % 4": 2,
    "max-len*2": 12,
    "2*max-len + batch": 15,
    "s 1 + 1": 9,
    "größe**2": 4,
    "past - seq": 0,
    "seq//0": 1,
    "-past + seq": 6,
}


@pytest.mark.parametrize("text", COMPUTED)
def test_a_dim_is_computed_where_its_terms_are_dims_of_their_own(text: str) -> None:
    values = {"past": 4, "seq": 10, "batch": 3, "size": 2, "max-len": 6, "s 1": 8, "größe": 2}
    others = [(name,) for name in values]
    assert symbols.free([(text,), *others]) == tuple(values)
    assert symbols.batches([(text,), *others]) == tuple(values)
    assert symbols.sizes((text,), values) == (COMPUTED[text],)


NAMES = (
    "batch-size", "batch size", "max-len", "a+b", "a + b", "a*b", "a/b", "N/A", "(n)", "-1", "3", "3*2", "?",
    "seq.len", "2d", "dim=4", "größe", "バッチ", "batch.size + 1", "sizes + 1", "floor(x)", "floor", "os.system('x')",
    "__import__('os')", "a if b else c", "[i for i in seq]", "lambda: seq", "seq + floor", "seq.real", "seq[0]",
    "unk__12", "None", "seq and 2", "seq < 3", "(" * 300 + "seq" + ")" * 300, "seq" + "+seq" * 5000, "seq +",
)  # fmt: skip


@pytest.mark.parametrize("text", NAMES)
def test_any_other_text_is_a_name(text: str) -> None:
    """Some of its terms are no dims, or it is no sum or product at all."""
    shapes = [(text, 4), ("seq", "batch")]
    assert symbols.free(shapes) == (text, "seq", "batch")
    assert symbols.batches(shapes) == (text, "seq")
    assert symbols.sizes((text, "seq"), {text: 7, "seq": 2, "batch": 3}) == (7, 2)


def test_a_power_of_powers_ends() -> None:
    tower = "seq" + "**8" * 40
    assert symbols.free([(tower, "seq")]) == ("seq",)
    assert symbols.sizes((tower,), {"seq": 9}) == (1,)
    assert symbols.sizes(("seq*seq*seq*seq*seq",), {"seq": 10**8}) == (1 << 31,)


def test_a_dim_that_is_static_somewhere_is_static(tmp_path: Path) -> None:
    text = "g (float[n, {0}] x, float[n, {0}] z) => (float[n, {0}] y) {{ y = Add(x, z) }}"
    paths = [
        save(tmp_path / f"{name}.onnx", build(text.format(size))) for name, size in (("a", "w"), ("b", 7))
    ]
    specs = inputs.describe(match([load(path) for path in paths], ["a", "b"]))
    assert [spec.dims for spec in specs] == [("n", 7), ("n", 7)]


def test_assumed_sizes_of_computed_dims() -> None:
    dims = {
        "ids": ("batch", "seq"),
        "mask": ("batch", "past + seq"),
        "past": ("batch", "past"),
        "m": ("max-len",),
    }
    types = {name: ValueType(1, shape) for name, shape in dims.items()}
    graph = Graph("g", tuple(dims), (), (), {}, types)
    found = assumed(graph, {"seq": 3, "max-len": 5})
    assert found == {"batch": 1, "seq": 3, "past + seq": 131, "past": 128, "max-len": 5}
