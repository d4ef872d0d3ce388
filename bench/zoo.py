"""What is measured: the paper's four networks at full size, usual ones of today, and such as are so small
that launching their operators takes longer than computing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sample_models.families import BATCH, FAMILIES, TEXT, Dims, Family, Input

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Measured:
    """One row of the benchmark: a family, and the sizes of its dynamic dims other than the batch."""

    name: str
    group: str
    family: Family
    sizes: Mapping[str, int] = field(default_factory=dict)


PAPER, USUAL, SMALL = "paper", "usual", "dispatch-bound"

LAYERS, HEADS, SIZE, WORDS = 6, 8, 64, 8192
"""The sizes of the small decoder."""


def single_size(
    name: str,
    about: str,
    build: Callable[[], nn.Module],
    inputs: Mapping[str, Dims],
    outputs: Any = "y",
    words: int = WORDS,
) -> Family:
    """Returns a family of one size. An input called input_ids holds token ids, below `words`."""
    high = {"input_ids": words, "attention_mask": 2}
    given = tuple(Input(key, dims, high.get(key, 0)) for key, dims in inputs.items())
    named = {outputs: BATCH} if isinstance(outputs, str) else outputs
    return Family(name, about, lambda tiny: build(), lambda tiny: given, named)


def _mlp(*sizes: int, act: str = "ReLU") -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torch import nn

        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), getattr(nn, act)()]
        return nn.Sequential(*layers[:-1])

    return build


def _wakeword() -> nn.Module:
    """openWakeWord's: 16 frames of 96 features, two hidden layers, a score."""
    from torch import nn

    body = [nn.Linear(1536, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 128), nn.LayerNorm(128)]
    return nn.Sequential(*body, nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid())


def _spotter() -> nn.Module:
    """A streaming keyword spotter: two GRU layers of width 64 over one frame of 40 features, whose states are
    inputs and outputs."""
    import torch
    from torch import nn

    class Spotter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.cells, self.last = nn.Linear(40, 64), nn.GRU(64, 64, 2), nn.Linear(64, 12)

        def forward(self, frame: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y, state = self.cells(torch.relu(self.first(frame)), state)
            return self.last(y), state

    return Spotter()


def _atari() -> nn.Module:
    """Mnih et al., 2015: three convolutions over four frames."""
    from torch import nn

    eyes = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
    head = [nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6)]
    return nn.Sequential(*eyes, *head)


def mobilenet(side: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from sample_models.zoo_build import config, vision

        settings = config("MobileNetV2Config", image_size=side, num_labels=1000)
        return vision("MobileNetV2ForImageClassification", settings, "logits")

    return build


def _efficientnet() -> nn.Module:
    """B0. The configuration's own sizes are those of B7."""
    from sample_models.zoo_build import config, vision

    sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 224, "hidden_dim": 1280}
    settings = config("EfficientNetConfig", **sizes, num_labels=1000)
    return vision("EfficientNetForImageClassification", settings, "logits")


def _vit() -> nn.Module:
    """ViT-Ti/16."""
    from sample_models.zoo_build import config, vision

    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_labels": 1000}
    return vision("ViTForImageClassification", config("ViTConfig", **sizes), "logits")


def _distilbert() -> nn.Module:
    from sample_models.zoo_build import config, text

    return text("DistilBertModel", config("DistilBertConfig"), "last_hidden_state")


def _decoder() -> nn.Module:
    """One step of a Llama of 28 million parameters, with its cache as inputs and outputs."""
    from sample_models.zoo_build import config
    from sample_models.zoo_decoders import Step

    sizes = {"vocab_size": WORDS, "hidden_size": HEADS * SIZE, "intermediate_size": 1376}
    heads = {"num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS}
    return Step("LlamaForCausalLM", config("LlamaConfig", **sizes, **heads, head_dim=SIZE))


def _cache(word: str, layers: int) -> tuple[str, ...]:
    return tuple(f"{word}.{layer}.{kind}" for layer in range(layers) for kind in ("key", "value"))


def step_with_cache(layers: int, heads: int, size: int) -> tuple[dict[str, Dims], dict[str, Dims]]:
    """The inputs and outputs of one step of a decoder that reads and gives keys and values of each layer."""
    inputs: dict[str, Dims] = {
        "input_ids": ("batch", 1),
        "attention_mask": ("batch", "past + 1"),
        **dict.fromkeys(_cache("past", layers), ("batch", heads, "past", size)),
    }
    return inputs, dict.fromkeys(("logits", *_cache("present", layers)), BATCH)


_STEP, _STEP_OUT = step_with_cache(LAYERS, HEADS, SIZE)
_IDS: dict[str, Dims] = {"input_ids": ("batch", "sequence"), "attention_mask": ("batch", "sequence")}


def image_inputs(side: int, channels: int = 3) -> dict[str, Dims]:
    return {"image": ("batch", channels, side, side)}


_FRAME: tuple[dict[str, Dims], dict[str, dict[int, str]]] = (
    {"frame": (1, "batch", 40), "state": (2, "batch", 64)},
    {"logits": {1: "batch"}, "next": {1: "batch"}},
)


def _vector(size: int) -> dict[str, Dims]:
    return {"x": ("batch", size)}


ROWS = (
    Measured("resnet50", PAPER, FAMILIES["resnet50"]),
    Measured("resnext50", PAPER, FAMILIES["resnext50"]),
    Measured("bert", PAPER, FAMILIES["bert"], {"sequence": 128}),
    Measured("xlnet", PAPER, FAMILIES["xlnet"], {"sequence": 128}),
    Measured("bert-16", PAPER, FAMILIES["bert"], {"sequence": 16}),
    Measured("xlnet-16", PAPER, FAMILIES["xlnet"], {"sequence": 16}),
    Measured(
        "policy", SMALL, single_size("policy", "MLP 17-64-64-6", _mlp(17, 64, 64, 6, act="Tanh"), _vector(17))
    ),
    Measured(
        "tabular", SMALL, single_size("tabular", "MLP 32-128-128-8", _mlp(32, 128, 128, 8), _vector(32))
    ),
    Measured("wakeword", SMALL, single_size("wakeword", "MLP 1536-128-128-1", _wakeword, _vector(1536))),
    Measured("keyword", SMALL, FAMILIES["cnn"]),
    Measured(
        "spotter", SMALL, single_size("spotter", "GRU of two layers, a frame a call", _spotter, *_FRAME)
    ),
    Measured("atari", SMALL, single_size("atari", "CNN of a policy", _atari, image_inputs(84, 4))),
    Measured(
        "mobilenet-64", USUAL, single_size("mobilenet-64", "MobileNet v2", mobilenet(64), image_inputs(64))
    ),
    Measured(
        "mobilenet-96", USUAL, single_size("mobilenet-96", "MobileNet v2", mobilenet(96), image_inputs(96))
    ),
    Measured(
        "efficientnet",
        USUAL,
        single_size("efficientnet", "EfficientNet-B0", _efficientnet, image_inputs(224)),
    ),
    Measured("vit", USUAL, single_size("vit", "ViT-Ti/16", _vit, image_inputs(224))),
    Measured(
        "distilbert",
        USUAL,
        single_size("distilbert", "DistilBERT", _distilbert, _IDS, {"y": TEXT}),
        {"sequence": 128},
    ),
    Measured(
        "decoder",
        USUAL,
        single_size("decoder", "a step of a Llama", _decoder, _STEP, _STEP_OUT),
        {"past": 64},
    ),
)
ZOO = {row.name: row for row in ROWS}
