"""Text encoders, all of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from sample_models.families import Input
from sample_models.zoo_build import BOTH, EAGER, Architecture, config, text, tokens

SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
HIDDEN = "last_hidden_state"


def bert() -> nn.Module:
    return text("BertForSequenceClassification", config("BertConfig", **SIZES), "logits")


def roberta() -> nn.Module:
    return text("RobertaModel", config("RobertaConfig", **SIZES), HIDDEN)


def distilbert() -> nn.Module:
    sizes = {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    return text("DistilBertModel", config("DistilBertConfig", **sizes), HIDDEN)


def albert() -> nn.Module:
    return text("AlbertModel", config("AlbertConfig", **SIZES, embedding_size=16), HIDDEN, "pooler_output")


def electra() -> nn.Module:
    return text("ElectraForPreTraining", config("ElectraConfig", **SIZES, embedding_size=16), "logits")


def deberta() -> nn.Module:
    settings = config(
        "DebertaV2Config",
        **SIZES,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    )
    return text("DebertaV2Model", settings, HIDDEN)


def mpnet() -> nn.Module:
    return text("MPNetModel", config("MPNetConfig", **SIZES), HIDDEN)


def xlnet() -> nn.Module:
    sizes = {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    return text("XLNetModel", config("XLNetConfig", **sizes), HIDDEN, mask=False, use_mems=False)


def funnel() -> nn.Module:
    sizes = {"vocab_size": 99, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64, "block_sizes": [1, 1]}
    return text("FunnelBaseModel", config("FunnelConfig", **sizes), HIDDEN)


def modernbert() -> nn.Module:
    settings = config("ModernBertConfig", **SIZES, pad_token_id=0, local_attention=4)
    return text("ModernBertModel", settings, HIDDEN)


def fnet() -> nn.Module:
    sizes = {key: value for key, value in SIZES.items() if key != "num_attention_heads"}
    return text("FNetModel", config("FNetConfig", **sizes), HIDDEN, mask=False)


def t5_encoder() -> nn.Module:
    sizes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return text("T5EncoderModel", config("T5Config", **sizes, **EAGER), HIDDEN)


DOMAIN = "text encoder"
FIXED = (Input("input_ids", ("batch", 16), 99), Input("attention_mask", ("batch", 16), 2))

ARCHITECTURES = (
    Architecture("bert", DOMAIN, bert, tokens(), exporters=BOTH),
    Architecture("roberta", DOMAIN, roberta, tokens(), exporters=BOTH),
    Architecture("distilbert", DOMAIN, distilbert, tokens(), exporters=BOTH),
    Architecture("albert", DOMAIN, albert, tokens(), ("hidden", "pooled"), exporters=BOTH),
    Architecture("electra", DOMAIN, electra, tokens()),
    Architecture("deberta_v2", DOMAIN, deberta, tokens()),
    Architecture("mpnet", DOMAIN, mpnet, tokens()),
    Architecture("xlnet", DOMAIN, xlnet, tokens(mask=False)),
    Architecture("funnel", DOMAIN, funnel, FIXED),
    Architecture("modernbert", DOMAIN, modernbert, tokens()),
    Architecture("fnet", DOMAIN, fnet, FIXED[:1]),
    Architecture("t5_encoder", DOMAIN, t5_encoder, tokens(), exporters=BOTH),
)
