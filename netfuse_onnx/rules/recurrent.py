"""Recurrent operators whose weights the models share: the models join the batch."""

from __future__ import annotations

from collections.abc import Iterator

from netfuse_onnx.layouts import FOLDED, SHARED, Layout
from netfuse_onnx.rules._build import again, need
from netfuse_onnx.rules._registry import Option, Site, family
from netfuse_onnx.rules.fallback import RECURRENT


@family("GRU", "LSTM", "RNN")
def shared_weights(site: Site) -> Iterator[Option]:
    """one set of weights: T(MN)I -> TD(MN)H, the models join the batch; else once per model"""
    weights = [1, 2, 3] + ([7] if site.op == "LSTM" else [])
    need(not any(site.is_mapped(i) for i in weights), RECURRENT)
    first = bool(site.attr("layout", 0))  # 1: the batch is the first axis everywhere
    states = FOLDED(0) if first else FOLDED(1)
    takes = tuple(
        SHARED if i in weights or not site.has(i) else FOLDED(0) if i == 4 else states
        for i in range(len(site.node.inputs))
    )
    gives: list[Layout] = [FOLDED(0) if first else FOLDED(2), states, states]
    yield Option("shared_weights", takes, tuple(gives[: len(site.node.outputs)]), again)
