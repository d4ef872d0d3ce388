"""Recurrent operators whose weights the models share: the models join the batch."""

from __future__ import annotations

from collections.abc import Iterator

from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.fallback import RECURRENT
from netfuse_onnx.types import FOLDED, SHARED, Layout


@family("GRU", "LSTM", "RNN")
def shared_weights(site: Site) -> Iterator[Option]:
    """one set of weights: T(MN)I -> TD(MN)H, the models join the batch; else once per model"""
    weights = [1, 2, 3] + ([7] if site.op == "LSTM" else [])
    need(not any(site.is_mapped(i) for i in weights), RECURRENT)
    first = bool(site.attr("layout"))  # 1: the batch is the first axis everywhere
    states = FOLDED(0) if first else FOLDED(1)
    takes = tuple(
        SHARED if i in weights or not site.has(i) else FOLDED(0) if i == 4 else states
        for i in range(len(site.node.inputs))
    )
    gives: list[Layout] = [FOLDED(0) if first else FOLDED(2), states, states]
    yield Option("shared_weights", takes, tuple(gives[: len(site.node.outputs)]), emit_same_op)
