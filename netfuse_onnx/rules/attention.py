"""The operator Attention of ONNX, from opset 23 on: the models join its batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held
from netfuse_onnx.layouts import FOLDED, STACKED, Layout
from netfuse_onnx.rules._build import emit_same_op
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.rules.contrib_attention import repeated, scores_bias

BATCH, BATCHED = FOLDED(0), ("Q", "K", "V", "past_key", "past_value", "nonpad_kv_seqlen")
SCORES_RANK = 4


@family("Attention")
def attention(site: Site) -> Iterator[Option]:
    """The models join the batch; a mask that is the same for all of it stays one."""
    layout = _mask_layout(site)

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
        if layout == STACKED(0):
            missing = SCORES_RANK - site.rank("attn_mask")
            mask = emit.pad_rank(ins["attn_mask"], layout, SCORES_RANK - missing, SCORES_RANK, 0)
            dims = (*[1] * missing, *site.dims("attn_mask"))
            ins |= {"attn_mask": repeated(site, mask, dims, ins["Q"], emit)}
        return emit_same_op(site, ins, emit)

    takes = site.takes({**dict.fromkeys(BATCHED, BATCH), "attn_mask": layout})
    yield Option("attention", takes, site.gives(BATCH), body)


def _mask_layout(site: Site) -> Layout:
    """The layout of a mask [B or 1, H or 1, S, T], or of fewer axes. The operator itself compares its batch
    with that of the queries."""
    mask = site["attn_mask"]
    if mask.present and mask.rank < SCORES_RANK:
        return site.own_layout("attn_mask")
    several = mask.present and isinstance(mask.dims[0], int) and mask.dims[0] > 1
    return BATCH if several else scores_bias(site, "attn_mask")
