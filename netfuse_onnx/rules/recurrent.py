"""Recurrent operators whose weights the models share: the models join the batch."""

from __future__ import annotations

from collections.abc import Iterator

from netfuse_onnx.layouts import FOLDED
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Site
from netfuse_onnx.rules.fallback import RECURRENT


@family("GRU", "LSTM", "RNN")
def shared_weights(site: Site) -> Iterator[Option]:
    """With one set of weights the models join the batch: T(MN)I -> TD(MN)H."""
    need(not site.is_mapped("w", "r", "b", "p"), RECURRENT)
    batch_first = bool(site.attr("layout"))  # everywhere
    states = FOLDED(0) if batch_first else FOLDED(1)
    takes = site.takes({"x": states, "sequence_lens": FOLDED(0), "initial_h": states, "initial_c": states})
    gives = site.gives(FOLDED(0) if batch_first else FOLDED(2), states)
    yield Option("shared_weights", takes, gives, emit_same_op)
