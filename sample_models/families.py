"""The table of families: what each is called, what goes in, what comes out, how to build it.

Nothing here imports torch before a network is built, so that `--help` and errors come at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

Dims = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Input:
    """A graph input. A dim that is a string is dynamic. `high` > 0: integers in [0, high)."""

    name: str
    dims: Dims
    high: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture. `build(tiny)` gives a network whose forward takes `inputs` in order and
    returns `outputs` in order; `outputs` maps each name to its dynamic axes."""

    name: str
    help: str
    build: Callable[[bool], nn.Module]
    inputs: Callable[[bool], tuple[Input, ...]]
    outputs: dict[str, dict[int, str]]


BATCH = {0: "batch"}
TEXT = {0: "batch", 1: "sequence"}


def _resnet50(tiny: bool) -> nn.Module:
    from sample_models.resnet import RESNET50, TINY_RESNET, ResNet

    return ResNet(TINY_RESNET if tiny else RESNET50)


def _resnext50(tiny: bool) -> nn.Module:
    from sample_models.resnet import RESNEXT50, TINY_RESNEXT, ResNet

    return ResNet(TINY_RESNEXT if tiny else RESNEXT50)


def _bert(tiny: bool) -> nn.Module:
    from sample_models.text import Bert

    return Bert(tiny)


def _xlnet(tiny: bool) -> nn.Module:
    from sample_models.text import XLNet

    return XLNet(tiny)


def _mlp(tiny: bool) -> nn.Module:
    from sample_models.small import mlp

    return mlp((16, 32, 32, 8) if tiny else (784, 512, 512, 10))


def _cnn(tiny: bool) -> nn.Module:
    from sample_models.small import Keyword

    return Keyword(16 if tiny else 64)


def _lstm(tiny: bool) -> nn.Module:
    from sample_models.small import Recurrent

    return Recurrent(features=16 if tiny else 80, hidden=24 if tiny else 512)


def _image(tiny: bool) -> tuple[Input, ...]:
    side = 64 if tiny else 224
    return (Input("image", ("batch", 3, side, side)),)


def _tokens(vocabulary: int) -> Input:
    return Input("input_ids", ("batch", "sequence"), vocabulary)


MASK = Input("attention_mask", ("batch", "sequence"), 2)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("resnet50", "ResNet-50, 224x224 (tiny: 64x64)", _resnet50, _image, {"logits": BATCH}),
        Family("resnext50", "ResNeXt-50 32x4d, 224x224 (tiny: 64x64)", _resnext50, _image, {"logits": BATCH}),
        Family(
            "bert",
            "BERT-base of transformers: ids, mask, token types in; hidden states and pooled output",
            _bert,
            lambda tiny: (
                _tokens(99 if tiny else 30522),
                MASK,
                Input("token_type_ids", ("batch", "sequence"), 2),
            ),
            {"last_hidden_state": TEXT, "pooler_output": BATCH},
        ),
        Family(
            "xlnet",
            "XLNet-base of transformers, one stream: ids and mask in, hidden states out",
            _xlnet,
            lambda tiny: (_tokens(99 if tiny else 32000), MASK),
            {"last_hidden_state": TEXT},
        ),
        Family(
            "mlp",
            "three linear layers, ReLU between, a LayerNorm before the last",
            _mlp,
            lambda tiny: (Input("x", ("batch", 16 if tiny else 784)),),
            {"y": BATCH},
        ),
        Family(
            "cnn",
            "keyword spotter: depthwise-separable convolutions over 49 frames of 10 features",
            _cnn,
            lambda tiny: (Input("frames", ("batch", 1, 49, 10)),),
            {"scores": BATCH},
        ),
        Family(
            "lstm",
            "two-layer LSTM and a linear head, the last state out",
            _lstm,
            lambda tiny: (Input("x", ("batch", "sequence", 16 if tiny else 80)),),
            {"y": BATCH, "state": {1: "batch"}},
        ),
    )
}
