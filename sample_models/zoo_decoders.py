"""Language models: whole sequences, one step with a key-value cache, mixtures of experts, state spaces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def causal(model: str, settings: Any) -> nn.Module:
    """Ids and mask in, logits out, without a cache."""
    return text(model, settings, "logits", use_cache=False)


class Step(nn.Module):
    """One step of decoding: new ids, the mask over past and new, keys and values of each layer in; logits
    and the longer keys and values out."""

    def __init__(self, model: str, settings: Any) -> None:
        import transformers

        super().__init__()
        torch.manual_seed(0)
        self.model = getattr(transformers, model)(settings)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        from transformers import DynamicCache

        input_ids, attention_mask, *past = tensors
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        grown = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (out.logits, *grown)


def step_inputs(heads: int, size: int, layers: int = 2) -> tuple[Input, ...]:
    """One new token for each sequence, and a cache of any length."""
    past = tuple(
        Input(f"past.{layer}.{kind}", ("batch", heads, "past", size))
        for layer in range(layers)
        for kind in ("key", "value")
    )
    mask = Input("attention_mask", ("batch", "past + 1"), 2)
    return (Input("input_ids", ("batch", 1), 99), mask, *past)


STEP_OUTPUTS = ("logits", *(f"present.{layer}.{kind}" for layer in range(2) for kind in ("key", "value")))


def gpt2() -> nn.Module:
    return causal("GPT2LMHeadModel", config("GPT2Config", **GPT2))


def gpt2_step() -> nn.Module:
    return Step("GPT2LMHeadModel", config("GPT2Config", **GPT2))


def llama() -> nn.Module:
    return causal("LlamaForCausalLM", config("LlamaConfig", **GROUPED))


def llama_step() -> nn.Module:
    return Step("LlamaForCausalLM", config("LlamaConfig", **GROUPED))


def mistral() -> nn.Module:
    return causal("MistralForCausalLM", config("MistralConfig", **GROUPED, sliding_window=4))


def qwen2() -> nn.Module:
    settings = {key: value for key, value in GROUPED.items() if key != "head_dim"}
    return causal("Qwen2ForCausalLM", config("Qwen2Config", **settings))


def qwen3_step() -> nn.Module:
    return Step("Qwen3ForCausalLM", config("Qwen3Config", **GROUPED))


def phi() -> nn.Module:
    return causal("PhiForCausalLM", config("PhiConfig", **SIZES))


def gemma() -> nn.Module:
    return causal("GemmaForCausalLM", config("GemmaConfig", **GROUPED))


def gemma2() -> nn.Module:
    return causal("Gemma2ForCausalLM", config("Gemma2Config", **GROUPED, sliding_window=4))


def opt() -> nn.Module:
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings = config("OPTConfig", **sizes, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64)
    return causal("OPTForCausalLM", settings)


def bloom() -> nn.Module:
    settings = config("BloomConfig", vocab_size=99, hidden_size=32, n_layer=2, n_head=4)
    return causal("BloomForCausalLM", settings)


def gpt_neox() -> nn.Module:
    return causal("GPTNeoXForCausalLM", config("GPTNeoXConfig", **SIZES))


def t5() -> nn.Module:
    """Encoder and decoder at once."""
    from sample_models.zoo_build import Pretrained

    sizes = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    takes = ("input_ids", "attention_mask", "decoder_input_ids")
    settings = config("T5Config", **sizes, **EAGER)
    return Pretrained("T5ForConditionalGeneration", settings, takes, ("logits",), use_cache=False)


def bart() -> nn.Module:
    from sample_models.zoo_build import Pretrained

    sizes = {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    wide = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    takes = ("input_ids", "attention_mask", "decoder_input_ids")
    settings = config("BartConfig", **sizes, **heads, **wide)
    return Pretrained("BartForConditionalGeneration", settings, takes, ("logits",), use_cache=False)


class Experts(nn.Module):
    """A mixture of experts (Shazeer et al., arXiv:1701.06538): each token goes to its best two of four, all
    are computed, and a gate that is zero elsewhere weighs them."""

    def __init__(self, size: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(size, experts, bias=False)
        self.up = nn.Parameter(torch.zeros(experts, size, 2 * size))
        self.down = nn.Parameter(torch.zeros(experts, 2 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.softmax(self.gate(x), -1)
        best, which = scores.topk(2, -1)
        best = best / best.sum(-1, keepdim=True)
        gates = torch.zeros_like(scores).scatter(-1, which, best)
        hidden = torch.nn.functional.silu(torch.einsum("bsd,edf->bsef", x, self.up))
        return torch.einsum("bsef,efd,bse->bsd", hidden, self.down, gates)


class ExpertModel(nn.Module):
    """Two layers of causal attention and experts."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(99, size)
        self.attention = nn.ModuleList(nn.MultiheadAttention(size, 4, batch_first=True) for _ in range(2))
        self.experts = nn.ModuleList(Experts(size) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(5))
        self.head = nn.Linear(size, 99, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        length = input_ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        for i in range(2):
            y = self.norms[2 * i](x)
            x = x + self.attention[i](y, y, y, attn_mask=mask, need_weights=False)[0]
            x = x + self.experts[i](self.norms[2 * i + 1](x))
        logits: Tensor = self.head(self.norms[4](x))
        return logits


def mixtral() -> nn.Module:
    sizes = GROUPED | {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "experts_implementation": "batched_mm",
    }
    return causal("MixtralForCausalLM", config("MixtralConfig", **sizes))


class Selective(nn.Module):
    """A selective state space (Mamba: Gu and Dao, arXiv:2312.00752), its scan as a cumulative sum in the
    logarithm of the decay: h_t = sum over s <= t of exp(A(t) - A(s)) b_s."""

    def __init__(self, size: int = 32, state: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(size, 2 * size, bias=False)
        self.conv = nn.Conv1d(size, size, 4, padding=3, groups=size)
        self.select = nn.Linear(size, 1 + 2 * state, bias=False)
        self.decay = nn.Parameter(torch.zeros(size, state))
        self.skip = nn.Parameter(torch.zeros(size))
        self.leave = nn.Linear(size, size, bias=False)
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x, gate = self.enter(x).chunk(2, -1)
        x = nn.functional.silu(self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2))
        step, into, out = self.select(x).split([1, self.state, self.state], -1)
        step = nn.functional.softplus(step)
        fall = torch.cumsum(-torch.exp(self.decay) * step[..., None], 1)  # [B, S, D, K]
        between = fall[:, :, None] - fall[:, None]  # from s to t
        later = torch.ones(length, length).tril().bool()[None, :, :, None, None]
        kernel = torch.where(later, torch.exp(torch.where(later, between, 0.0)), 0.0)
        state = torch.einsum("btsdk,bsd,bsk->btdk", kernel, x * step, into)
        y = torch.einsum("btdk,btk->btd", state, out) + self.skip * x
        result: Tensor = self.leave(y * nn.functional.silu(gate))
        return result


class StateSpace(nn.Module):
    """Two selective layers between an embedding and a head."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(99, size)
        self.layers = nn.ModuleList(Selective(size) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.head = nn.Linear(size, 99, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + layer(norm(x))
        logits: Tensor = self.head(self.norms[2](x))
        return logits


def mamba() -> nn.Module:
    sizes = {"vocab_size": 99, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    settings = config("MambaConfig", **sizes, use_mambapy=False)
    return text("MambaForCausalLM", settings, "logits", mask=False, use_cache=False)


def rwkv() -> nn.Module:
    settings = config("RwkvConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, context_length=16)
    return text("RwkvForCausalLM", settings, "logits", mask=False, use_cache=False)


DOMAIN = "decoder"
PAIRS = (*tokens(), Input("decoder_input_ids", ("batch", 6), 99))
SHORT = (Input("input_ids", ("batch", 6), 99),)

ARCHITECTURES = (
    Architecture("gpt2", DOMAIN, gpt2, tokens(), exporters=BOTH),
    Architecture("gpt2_step", DOMAIN, gpt2_step, step_inputs(4, 8), STEP_OUTPUTS, exporters=BOTH),
    Architecture("llama", DOMAIN, llama, tokens(), exporters=BOTH),
    Architecture("llama_step", DOMAIN, llama_step, step_inputs(2, 8), STEP_OUTPUTS),
    Architecture("mistral", DOMAIN, mistral, tokens()),
    Architecture("qwen2", DOMAIN, qwen2, tokens()),
    Architecture("qwen3_step", DOMAIN, qwen3_step, step_inputs(2, 8), STEP_OUTPUTS),
    Architecture("phi", DOMAIN, phi, tokens()),
    Architecture("gemma", DOMAIN, gemma, tokens()),
    Architecture("gemma2", DOMAIN, gemma2, tokens()),
    Architecture("opt", DOMAIN, opt, tokens()),
    Architecture("bloom", DOMAIN, bloom, tokens()),
    Architecture("gpt_neox", DOMAIN, gpt_neox, tokens()),
    Architecture("t5", DOMAIN, t5, PAIRS),
    Architecture("bart", DOMAIN, bart, PAIRS),
    Architecture("moe", "mixture of experts", ExpertModel, tokens(mask=False)),
    Architecture("mixtral", "mixture of experts", mixtral, tokens()),
    Architecture("ssm", "state space", StateSpace, tokens(mask=False)),
    Architecture("mamba", "state space", mamba, SHORT),
    Architecture("rwkv", "state space", rwkv, SHORT),
)
