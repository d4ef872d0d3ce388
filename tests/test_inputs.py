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
from netfuse_onnx.run import inputs, symbols
from netfuse_onnx.run.domains import Accepts, Domains
from netfuse_onnx.run.inputs import Case
from netfuse_onnx.types import Correspondence


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
    assert symbols.free([("s", "p + s"), None, ("a.b", 4)]) == ("s", "p", "a.b")
    assert symbols.batches([("n", "s"), ("n + 1",), (3, "t")]) == ("n",)


def test_the_ladder_tries_sums_OLD() -> None:
    tried = list(symbols.ladder(["past", "sequence", "total"], frozenset(), 2))
    assert len({*tried[0].values()}) == 3
    assert any(t["total"] == t["past"] + t["sequence"] and t["past"] != t["sequence"] for t in tried)


def test_a_dim_that_is_static_somewhere_is_static(tmp_path: Path) -> None:
    text = "g (float[n, {0}] x, float[n, {0}] z) => (float[n, {0}] y) {{ y = Add(x, z) }}"
    paths = [
        save(tmp_path / f"{name}.onnx", build(text.format(size))) for name, size in (("a", "w"), ("b", 7))
    ]
    specs = inputs.describe(match([load(path) for path in paths], ["a", "b"]))
    assert [spec.dims for spec in specs] == [("n", 7), ("n", 7)]
