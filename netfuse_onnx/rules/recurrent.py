"""Recurrent operators whose weights the models share: the models join the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.dims import same_dim
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.rules.fallback import RECURRENT


@family("GRU", "LSTM", "RNN")
def shared_weights(site: Site) -> Iterator[Option]:
    """With one set of weights the models join the batch: T(MN)I -> TD(MN)H."""
    need(not site.is_mapped("w", "r", "b", "p"), RECURRENT)
    batch_first = bool(site.attr("layout"))  # everywhere
    states = FOLDED(0) if batch_first else FOLDED(1)
    takes = site.takes({"x": states, "sequence_lens": FOLDED(0), "initial_h": states, "initial_c": states})
    gives = site.gives(FOLDED(0) if batch_first else FOLDED(2), states)
    yield Option("shared_weights", takes, gives, _joined)


def _joined(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
    """The operator on the batch of all models. CUDA does not compare the batch of the states and lengths with
    that of the sequences: with another one, models would read each other's, so the run fails."""
    batch = 0 if site.attr("layout") else 1
    changes: dict[str, Tensor] = {}
    for name in ("sequence_lens", "initial_h", "initial_c"):
        given, axis = site[name], 0 if name == "sequence_lens" else batch
        if given.present and not same_dim(given.dims[axis], site.dims("x")[batch]):
            own, size = emit("Shape", ins[name]), _part(emit("Shape", ins["x"]), batch, batch + 1, emit)
            before = [_part(own, 0, axis, emit)] if axis else []
            behind = [_part(own, axis + 1, given.rank, emit)] if axis + 1 < given.rank else []
            sizes = [*before, size, *behind]
            target = emit("Concat", *sizes, axis=0) if len(sizes) > 1 else size
            changes[name] = emit("Reshape", ins[name], target)
    return emit_same_op(site, ins | changes, emit)


def _part(shape: Tensor, start: int, end: int, emit: Emitter) -> Tensor:
    return emit("Slice", shape, emit.const([start]), emit.const([end]))
