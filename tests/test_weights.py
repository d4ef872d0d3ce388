"""weights: recipes stream the right bytes in bounded memory, and the proof finds what is wrong."""

from __future__ import annotations

import errno
import math
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from netfuse_onnx.errors import FileFault, InternalError, ValuesDiffer
from netfuse_onnx.storage import transforms, undo, weights
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS, nbytes, pack, unit, unpack
from netfuse_onnx.storage.transforms import SwapLast, parsed
from netfuse_onnx.types import Extent, Weight

RNG = np.random.default_rng(1)
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored(path: Path, dtype: int, shape: tuple[int, ...], inline: bool = False) -> Weight:
    """A weight of random bits, in a file after some other bytes, or inline."""
    count, bits = math.prod(shape), BITS[dtype]
    if bits < 8:
        data = pack(RNG.integers(0, 2**bits, count).astype(np.uint8), bits)
    else:
        data = RNG.bytes(count * bits // 8)
    if inline:
        return Weight(dtype, shape, data)
    with path.open("ab") as file:
        file.write(b"?" * 3)
        start = file.tell()
        file.write(data)
    return Weight(dtype, shape, Extent(str(path), start, len(data)))


def bits_of(weight: Weight) -> np.ndarray:
    """All elements of a weight as plain bits: the tests' own way to read one."""
    data = b"".join(weights.blocks(weight, 7 if math.prod(weight.shape) < 9999 else 1 << 20))
    if BITS[weight.dtype] < 8:
        return unpack(data, BITS[weight.dtype], 0, math.prod(weight.shape)).reshape(weight.shape)
    return np.frombuffer(data, unit(BITS[weight.dtype])).reshape(weight.shape)


def expected(recipe: Recipe) -> bytes:
    """The merged bytes by plain numpy over whole arrays."""
    parts = []
    for part in recipe.parts:
        values = bits_of(part)
        text = recipe.transform.text
        if text == "T":
            values = values.swapaxes(-1, -2)
        elif text.startswith("T"):
            values = values.reshape(math.prod(part.shape[: int(text[1:])]), -1).T
        elif text:
            values = np.repeat(values.reshape(-1), int(text[1:]))
        parts.append(values.reshape(recipe.outer, -1))
    merged = np.concatenate(parts, axis=1).reshape(-1)
    return pack(merged, BITS[recipe.dtype]) if BITS[recipe.dtype] < 8 else merged.tobytes()


@st.composite
def recipes(draw: st.DrawFn) -> Callable[[Path], Recipe]:
    """A recipe over fresh weights, made when given the file to put them in."""
    dtype = draw(st.sampled_from([1, 2, 6, 7, 9, 10, 15, 16, 21, 22, 23, 25, 27]))
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    models = draw(st.sampled_from([1, 2, 3, 5]))
    transform = draw(st.sampled_from(["", "", "T", "T1", f"T{len(shape) - 1}", "x1", "x3"]))
    outer = draw(st.sampled_from([math.prod(shape[:axis]) for axis in range(len(shape) + 1)]))
    inline = draw(st.lists(st.booleans(), min_size=models, max_size=models))
    times = int(transform[1:]) if transform[:1] == "x" else 1

    def build(path: Path) -> Recipe:
        path.unlink(missing_ok=True)
        parts = tuple(stored(path, dtype, shape, here) for here in inline)
        return Recipe("w", parts, dtype, (models * times * math.prod(shape),), outer, parsed(transform))

    return build


def written(path: Path, recipe: Recipe) -> Extent:
    """The merged weight in a file, by the writer's way."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    sizes: list[int] = []
    weights.copy(recipe, fd, 5, sizes.append)
    os.close(fd)
    assert sum(sizes) == weights.recipe_nbytes(recipe) == max(0, path.stat().st_size - 5)
    return Extent(str(path), 5, sum(sizes))


# --------------------------------------------------------------------------- recipes


@given(build=recipes(), block=st.sampled_from([1, 3, 16, 1 << 20]))
@QUICK
def test_stream_copy_and_proof_agree(tmp_path: Path, build: Callable[[Path], Recipe], block: int) -> None:
    recipe = build(tmp_path / "s")
    want = expected(recipe)
    assert b"".join(weights.stream(recipe, block)) == want
    merged = written(tmp_path / "m", recipe)
    assert (tmp_path / "m").read_bytes()[5:] == want
    assert weights.first_difference(recipe, merged) is None


@given(build=recipes(), place=st.integers(0, 10**6), memory=st.sampled_from([4, 64, 512, 8 << 20]))
@QUICK
def test_one_wrong_byte_is_found_in_the_right_model(
    tmp_path: Path, build: Callable[[Path], Recipe], place: int, memory: int
) -> None:
    """Flip a byte of one source after the merge: the proof names that model and that byte."""
    recipe = build(tmp_path / "s")
    merged = written(tmp_path / "m", recipe)
    model = place % len(recipe.parts)
    data = bytearray(b"".join(weights.blocks(recipe.parts[model])))
    at = place // 5 % len(data)
    data[at] ^= 1  # bit 0 is in use at every width
    parts = list(recipe.parts)
    parts[model] = replace(parts[model], data=bytes(data))
    changed = replace(recipe, parts=tuple(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(undo, "_MEMORY", memory)
        assert weights.first_difference(recipe, merged) is None
        found = weights.first_difference(changed, merged)
    assert found is not None and found[0] == model
    assert found[1] == at or BITS[recipe.dtype] == 6  # there an element lies across bytes


def test_two_models_swapped_are_found(tmp_path: Path) -> None:
    parts = tuple(stored(tmp_path / "s", 1, (30, 40)) for _ in range(2))
    for outer, transform in ((1, ""), (30, ""), (1, "T"), (40, "T")):
        recipe = Recipe("w", parts, 1, (2400,), outer, parsed(transform))
        swapped = replace(recipe, parts=parts[::-1])
        found = weights.first_difference(recipe, written(tmp_path / "m", swapped))
        assert found is not None and found[0] == 0


def test_parts_of_different_sizes(tmp_path: Path) -> None:
    """--partial: head widths may differ between models."""
    parts = tuple(stored(tmp_path / "s", 1, (4, width)) for width in (3, 0, 7))
    recipe = Recipe("w", parts, 1, (4, 10), outer=4)
    assert b"".join(weights.stream(recipe)) == expected(recipe)
    assert weights.first_difference(recipe, written(tmp_path / "m", recipe)) is None


@pytest.mark.parametrize("band", [1, 4000, 1 << 20])
def test_transposing_matrices_larger_than_a_band(
    tmp_path: Path, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "_CHUNK", 500)
    monkeypatch.setattr(weights, "MEMORY", band)
    parts = tuple(stored(tmp_path / "s", 1, (3, 37, 53)) for _ in range(2))
    for outer in (1, 3):
        recipe = Recipe("w", parts, 1, (2 * 3 * 37 * 53,), outer, SwapLast())
        assert b"".join(weights.stream(recipe, 1000)) == expected(recipe)


@pytest.mark.parametrize(
    ("outer", "transform"), [(1, ""), (4, ""), (4096, ""), (1, "T"), (2048, "T"), (1, "x3")]
)
def test_memory_is_bounded(
    tmp_path: Path, outer: int, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "MEMORY", 4 << 20)
    monkeypatch.setattr(undo, "_MEMORY", 4 << 20)
    parts = tuple(stored(tmp_path / "s", 1, (4096, 2048)) for _ in range(2))  # 32 MiB each
    times = 3 if transform == "x3" else 1
    recipe = Recipe("w", parts, 1, (2 * times * 4096 * 2048,), outer, parsed(transform))
    tracemalloc.start()
    merged = written(tmp_path / "m", recipe)
    assert weights.first_difference(recipe, merged) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20


def test_empty_and_scalar_weights(tmp_path: Path) -> None:
    for shape in ((0, 3), (3, 0), ()):
        parts = tuple(stored(tmp_path / "s", 1, shape) for _ in range(2))
        for transform in ("", "x2", "x0") + (("T",) if shape else ()):
            count = 2 * math.prod(shape) * {"x2": 2, "x0": 0}.get(transform, 1)
            recipe = Recipe("w", parts, 1, (count,), 1, parsed(transform))
            assert weights.first_difference(recipe, written(tmp_path / "m", recipe)) is None


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, None])
def test_copying_without_the_kernels_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    def refuse(*_: object) -> int:
        if code is None:
            return 0  # what some file systems answer instead of an error
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    parts = tuple(stored(tmp_path / "s", 1, (1000, 1000)) for _ in range(3))
    recipe = Recipe("w", parts, 1, (3, 1000, 1000))
    written(tmp_path / "m", recipe)
    assert (tmp_path / "m").read_bytes()[5:] == expected(recipe)


def test_recipes_that_make_no_sense(tmp_path: Path) -> None:
    part = stored(tmp_path / "s", 1, (2, 3))
    for bad in (
        Recipe("w", (part,), 1, (7,)),
        Recipe("w", (part,), 10, (6,)),
        Recipe("w", (part,), 1, (6,), outer=4),
        Recipe("w", (replace(part, shape=(6,)),), 1, (6,), transform=SwapLast()),
        Recipe("w", (replace(part, data=(b"a",) * 6),), 1, (6,)),
    ):
        with pytest.raises(InternalError):
            list(weights.stream(bad))
    with pytest.raises(ValuesDiffer):
        weights.first_difference(Recipe("w", (part,), 1, (6,)), Extent(str(tmp_path / "s"), 3, 23))


# --------------------------------------------------------------------------- single weights


@given(count=st.integers(0, 6000), place=st.integers(0, 10**6), inline=st.booleans())
@QUICK
def test_same_is_bit_for_bit(tmp_path: Path, count: int, place: int, inline: bool) -> None:
    (tmp_path / "s").unlink(missing_ok=True)
    a = stored(tmp_path / "s", 1, (count,))
    data = b"".join(weights.blocks(a))
    assert weights.same(a, Weight(1, (count,), data))
    if data:
        other = bytearray(data)
        other[place % len(data)] ^= 0x40
        assert not weights.same(a, Weight(1, (count,), bytes(other)))
    assert not weights.same(a, Weight(1, (count, 1), data))
    assert not weights.same(a, Weight(6, (count,), data))


def test_same_tells_zeros_and_nans_apart() -> None:
    def scalar(bits: int) -> Weight:
        return Weight(1, (), bits.to_bytes(4, "little"))

    assert not weights.same(scalar(0), scalar(0x80000000))
    assert weights.same(scalar(0x7FC00001), scalar(0x7FC00001))
    assert not weights.same(scalar(0x7FC00001), scalar(0x7FC00000))


def test_same_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (stored(tmp_path / "s", 2, (50 << 20,)) for _ in range(2))
    reads: list[int] = []
    real = os.pread

    def pread(fd: int, length: int, at: int) -> bytes:
        reads.append(length)
        return real(fd, length, at)

    monkeypatch.setattr(os, "pread", pread)
    assert not weights.same(a, b)
    assert sum(reads) < 10_000


def test_a_weight_from_every_inline_form() -> None:
    strings = TensorProto(name="s", data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"bc"])
    weight = weights.weight_of(strings)
    assert weight.data == (b"a", b"bc") and weights.nbytes(weight) == 3
    assert list(weights.array(weight)) == ["a", "bc"]
    assert not weights.same(weight, replace(weight, data=(b"a", b"bd")))
    halves = TensorProto(name="h", data_type=TensorProto.FLOAT16, dims=[2], int32_data=[0x3C00, 0xC000])
    assert weights.weight_of(halves).data == np.array([1, -2], np.float16).tobytes()
    signalling = TensorProto(name="f", data_type=TensorProto.FLOAT, dims=[1])
    signalling.ParseFromString(signalling.SerializeToString() + b"\x22\x04\x01\x00\x80\x7f")
    assert weights.weight_of(signalling).data == b"\x01\x00\x80\x7f"
    whole = numpy_helper.from_array(np.arange(6).reshape(2, 3), "i")
    assert weights.proto(weights.weight_of(whole), "i") == whole


def test_a_file_that_shrank_or_went_is_a_file_fault(tmp_path: Path) -> None:
    weight = stored(tmp_path / "s", 1, (1000,))
    os.truncate(tmp_path / "s", 2000)
    recipe = Recipe("w", (weight,), 1, (1000,))
    for read in (lambda: weights.array(weight), lambda: list(weights.stream(recipe))):
        with pytest.raises(FileFault, match="shorter"):
            read()
    (tmp_path / "s").unlink()
    with pytest.raises(FileFault, match="does not exist"):
        weights.array(weight)


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    parts = tuple(stored(tmp_path / f"s{i}", 1, (64, 64)) for i in range(80))
    recipe = Recipe("w", parts, 1, (80, 64, 64), outer=64)
    assert weights.first_difference(recipe, written(tmp_path / "m", recipe)) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_sizes() -> None:
    assert [nbytes(d, (5,)) for d in (1, 22, 25, 27, 15)] == [20, 3, 2, 4, 80]
