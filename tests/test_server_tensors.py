"""Strings of the protocol: each after its length, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netfuse_onnx.runtime.errors import BadInput
from netfuse_onnx.server import tensors

TEXTS = st.lists(st.text(max_size=5).filter(lambda one: one.isprintable() or "\0" in one), max_size=4)


@given(TEXTS, st.binary(min_size=1, max_size=6), st.data())
def test_strings_are_read_as_they_were_written(texts: list[str], more: bytes, data: st.DataObject) -> None:
    raw = tensors.packed(texts)
    assert tensors.strings("m", "x", len(texts), raw) == texts
    with pytest.raises(BadInput):
        tensors.strings("m", "x", len(texts), raw + more)
    with pytest.raises(BadInput):
        tensors.strings("m", "x", len(texts) + 1, raw)
    if raw:
        with pytest.raises(BadInput):
            tensors.strings("m", "x", len(texts), raw[: data.draw(st.integers(0, len(raw) - 1))])
