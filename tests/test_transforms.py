"""transforms: undo gives back what apply was given, the proof calls no apply, and the texts stay as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from netfuse_onnx.errors import InternalError
from netfuse_onnx.storage import transforms, weights
from netfuse_onnx.storage.elements import Elements, Files, elements_of
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS, Values, pack
from netfuse_onnx.storage.transforms import AS_IS, AsIs, Repeat, SwapAt, SwapLast, Tile, Transform
from netfuse_onnx.types import Weight

TEXTS: dict[type[Transform], tuple[str, ...]] = {
    AsIs: ("",),
    Repeat: ("x0", "x1", "x2", "x5", "x70"),
    SwapLast: ("T",),
    SwapAt: ("T1", "T2", "T3"),
}
"""Transforms of each type, by their text form in merged files, which must not change."""
RNG = np.random.default_rng(5)


class Array:
    """Elements in memory."""

    def __init__(self, values: Values, bits: int) -> None:
        self.values, self.count, self.bits, self.dtype = values, len(values), bits, values.dtype

    def read(self, start: int, count: int) -> Values:
        assert start >= 0 and start + count <= self.count
        return self.values[start : start + count]


def weight_of(dtype: int, shape: tuple[int, ...]) -> Weight:
    """A weight of random bits; of a string tensor the strings are all different."""
    count = math.prod(shape)
    if dtype == TensorProto.STRING:
        return Weight(dtype, shape, tuple(b"%d" % k for k in range(count)))
    if BITS[dtype] < 8:
        return Weight(
            dtype, shape, pack(RNG.integers(0, 2 ** BITS[dtype], count).astype(np.uint8), BITS[dtype])
        )
    return Weight(dtype, shape, RNG.bytes(count * BITS[dtype] // 8))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Transform, Weight]:
    kind = draw(st.sampled_from(transforms.TYPES))
    transform = transforms.parsed(draw(st.sampled_from(TEXTS[kind])))
    shapes = st.lists(st.integers(0, 6), max_size=5).map(tuple).filter(transform.fits)
    return transform, weight_of(draw(st.sampled_from([*BITS, TensorProto.STRING])), draw(shapes))


def applied(transform: Transform, weight: Weight, source: Elements, memory: int, step: int) -> Array:
    """The whole part, read `step` elements at a time."""
    part = transform.apply(source, weight.shape, memory)
    assert part.count == transform.count(weight.shape)
    pieces = [part.read(at, min(step, part.count - at)) for at in range(0, part.count, step)]
    return Array(np.concatenate([np.empty(0, part.dtype), *pieces]), part.bits)


@given(case=cases(), memory=st.sampled_from([1, 100, 1 << 20]), step=st.integers(1, 50))
@settings(max_examples=400, deadline=None)
def test_undo_gives_the_source_back(case: tuple[Transform, Weight], memory: int, step: int) -> None:
    transform, weight = case
    with Files() as files:
        source = elements_of(weight, files)
        whole = source.read(0, source.count)
        part = applied(transform, weight, source, memory, step)
    seen = np.zeros(source.count, int)
    for tile in transform.undo(part, weight.shape, memory):
        rows, columns, _ = tile.values.shape
        places = tile.start + np.arange(rows)[:, None] * tile.stride + np.arange(columns)
        assert (tile.values == whole[places][:, :, None]).all()
        np.add.at(seen, places, tile.values.shape[2])
    assert (seen * source.count == part.count).all(), "every copy of every element, once"


@given(case=cases(), place=st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_one_wrong_element_is_found(case: tuple[Transform, Weight], place: int) -> None:
    """Each copy of each element counts: a flipped bit anywhere in the merged weight is a difference."""
    transform, weight = case
    recipe = Recipe("w", (weight,), weight.dtype, (transform.count(weight.shape),), 1, transform)
    if weight.dtype == TensorProto.STRING:
        strings = weights.strings(recipe)
        assert weights.first_difference(recipe, tuple(strings)) is None
        if strings:
            strings[place % len(strings)] += b"!"
            assert weights.first_difference(recipe, tuple(strings)) is not None
        return
    merged = bytearray(b"".join(weights.stream(recipe)))
    assert weights.first_difference(recipe, bytes(merged)) is None
    if merged:
        merged[place % len(merged)] ^= 1  # bit 0 is in use at every width
        assert weights.first_difference(recipe, bytes(merged)) is not None


@pytest.mark.parametrize("text", [text for texts in TEXTS.values() for text in texts])
@pytest.mark.parametrize("outer", [1, 6])
def test_the_proof_calls_no_apply(text: str, outer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = transforms.parsed(text)
    parts = tuple(weight_of(TensorProto.FLOAT, (6, 2, 3, 4)) for _ in range(3))
    recipe = Recipe("w", parts, TensorProto.FLOAT, (3 * transform.count((6, 2, 3, 4)),), outer, transform)
    merged = b"".join(weights.stream(recipe))
    for kind in transforms.TYPES:
        monkeypatch.delattr(kind, "apply")
    for helper in ("_Repeated", "_Transposed"):
        monkeypatch.delattr(transforms, helper)
    assert weights.first_difference(recipe, merged) is None


def test_a_proof_that_leaves_elements_out_is_our_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_tile(self: Transform, part: Elements, shape: tuple[int, ...], memory: int) -> Iterator[Tile]:
        yield Tile(0, 0, part.read(0, 1).reshape(1, 1, 1))

    monkeypatch.setattr(AsIs, "undo", one_tile)
    weight = weight_of(TensorProto.INT8, (2,))
    with pytest.raises(InternalError, match="left out"):
        weights.first_difference(Recipe("w", (weight,), TensorProto.INT8, (2,)), weight.data)


def test_every_type_has_its_texts() -> None:
    assert TEXTS.keys() == set(transforms.TYPES)
    for kind, texts in TEXTS.items():
        for text in texts:
            found = transforms.parsed(text)
            assert type(found) is kind and found.text == text
    assert transforms.parsed("") == AS_IS and transforms.parsed("x3") == Repeat(3) != SwapAt(3)


@pytest.mark.parametrize("text", ["t", "T-1", "x", "T01", "x03", "T100", "x1234567890", "Tx", "x٣", "T\n"])
def test_only_written_texts_are_read(text: str) -> None:
    with pytest.raises(ValueError, match="no transform"):
        transforms.parsed(text)
