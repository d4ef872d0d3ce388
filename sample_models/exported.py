"""The networks of bench/exporters.py, small or in full size: both of torch's exporters write them.

Attention is the eager one. The fused one of torch has no form before opset 14, and dynamo writes it with a
guard against NaN that TorchScript leaves out: these are two computations, and do not merge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sample_models import zoo_decoders, zoo_vision
from sample_models.families import FAMILIES, Family, Input
from sample_models.zoo import ZOO
from sample_models.zoo_build import EAGER, Architecture, config, image, text, tokens, vision


@dataclass(frozen=True, slots=True)
class Network:
    """One network: how it is built, small or not, and what goes in and comes out."""

    family: Family
    has_norms: bool = False

    def build(self, tiny: bool) -> nn.Module:
        return self.family.build(tiny)

    def inputs(self, tiny: bool) -> tuple[Input, ...]:
        return self.family.inputs(tiny)


def _vit(tiny: bool) -> nn.Module:
    sizes: dict[str, Any] = zoo_vision.TRANSFORMER if tiny else {}
    return vision("ViTForImageClassification", config("ViTConfig", **sizes, **EAGER), "logits")


def _decoder(tiny: bool) -> nn.Module:
    """Llama, in full size with a tenth of the layers and the width of the smallest one that is published."""
    large: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 2}
    large |= {"num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000}
    settings = config("LlamaConfig", **(zoo_decoders.GROUPED if tiny else large), **EAGER)
    return text("LlamaForCausalLM", settings, "logits", use_cache=False)


def _gpt2(tiny: bool) -> nn.Module:
    settings = config("GPT2Config", **(zoo_decoders.GPT2 if tiny else {"n_layer": 2}), **EAGER)
    return text("GPT2LMHeadModel", settings, "logits", use_cache=False)


def _mobilenet(tiny: bool) -> nn.Module:
    if tiny:
        return zoo_vision.mobilenet_v2()
    return vision("MobileNetV2ForImageClassification", config("MobileNetV2Config"), "logits")


def _sides(small: int, large: int) -> Callable[[bool], tuple[Input, ...]]:
    return lambda tiny: image(small if tiny else large)


def _ids(tiny: bool) -> tuple[Input, ...]:
    return tokens(99 if tiny else 32000)


def _zoo(architecture: Architecture) -> Family:
    return architecture.family


LOGITS = {"logits": {0: "batch"}}
TEXT = {"logits": {0: "batch", 1: "sequence"}}
NETWORKS = {
    "mobilenet_v2": Network(
        Family("mobilenet_v2", "MobileNet v2", _mobilenet, _sides(32, 224), LOGITS), has_norms=True
    ),
    "mobilenet_v3": Network(_zoo(ZOO["mobilenet_v3"]), has_norms=True),
    "resnet50": Network(FAMILIES["resnet50"], has_norms=True),
    "bert": Network(FAMILIES["bert"]),
    "vit": Network(Family("vit", "ViT-base", _vit, _sides(32, 224), LOGITS)),
    "llama": Network(Family("llama", "Llama", _decoder, _ids, TEXT)),
    "gpt2": Network(Family("gpt2", "GPT-2", _gpt2, _ids, TEXT)),
    "cnn": Network(FAMILIES["cnn"], has_norms=True),
}
