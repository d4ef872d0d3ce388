"""BERT and XLNet from their transformers configurations: nothing is downloaded, weights are random.

The wrappers only fix which inputs and outputs the exported graph has. Attention is the "eager" one: it
is what both exporters can trace, and it keeps the MatMul - Softmax - MatMul form of published exports.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertModel, XLNetConfig, XLNetModel


class Bert(nn.Module):
    """ids, mask, token types, each [B, S] -> hidden states [B, S, H], pooled output [B, H]."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        base: dict[str, Any] = {"attn_implementation": "eager"}
        small: dict[str, Any] = base | {
            "vocab_size": 99,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
        }
        self.model = BertModel(BertConfig(**(small if tiny else base)))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return out.last_hidden_state, out.pooler_output


class XLNet(nn.Module):
    """ids, mask, each [B, S] -> hidden states [B, S, H]; no memory, no second (query) stream."""

    def __init__(self, tiny: bool) -> None:
        super().__init__()
        base: dict[str, Any] = {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}
        small: dict[str, Any] = {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
        self.model = XLNetModel(XLNetConfig(**(small if tiny else base)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # XLNet computes 1.0 - mask; the dynamo exporter can't promote an integer mask there.
        out = self.model(input_ids, attention_mask=attention_mask.float(), use_mems=False)
        hidden: Tensor = out.last_hidden_state
        return hidden
