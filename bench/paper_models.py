"""Families of the table "CUDA on paper": the paper's four networks at full size, and usual ones of today.

Two files of a family are exported, with weights of their own. A merge of more models names them in turn: a
weight is shared only where it is equal in all models, so no weight is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import models
from bench.zoo import ZOO, image_inputs, mobilenet, single_size, step_with_cache
from sample_models.families import FAMILIES, Family

if TYPE_CHECKING:
    from torch import nn

LAYERS, HEADS, SIZE, WORDS = 12, 12, 64, 50257
"""The sizes of GPT-2 small."""
SEQUENCE = {"sequence": 128}
PAST = {"past": 64, "past + 1": 65}


@dataclass(frozen=True)
class Row:
    """A family, the sizes of its dynamic dims other than the batch, and torch's exporter. `variant` names the
    quantised form, if any."""

    name: str
    family: Family
    sizes: Mapping[str, int] = field(default_factory=dict)
    exporter: str = "dynamo"
    variant: str = ""

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Returns two models, which are written to `folder` where they do not exist yet."""
        paths = models.files(
            self.family, folder / self.exporter / self.family.name, 2, exporter=self.exporter
        )
        if self.variant:
            paths = _quantised(paths, folder / self.name)
        return paths[0], paths[1]


def _quantised(paths: list[Path], folder: Path) -> list[Path]:
    """Returns the models with weights of eight bits, quantised by ONNX Runtime as users do it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / path.name for path in paths]
    for path, target in zip(paths, targets, strict=True):
        if not target.exists():
            part = target.with_suffix(".part")
            quantize_dynamic(path, part, weight_type=QuantType.QInt8)
            part.rename(target)
    return targets


def _vit() -> nn.Module:
    """ViT-B/16."""
    from sample_models.zoo_build import config, vision

    return vision("ViTForImageClassification", config("ViTConfig", num_labels=1000), "logits")


def _gpt2() -> nn.Module:
    """One step of GPT-2 small, with its cache as inputs and outputs."""
    from sample_models.zoo_build import config
    from sample_models.zoo_decoders import Step

    return Step("GPT2LMHeadModel", config("GPT2Config"))


_STEP, _STEP_OUT = step_with_cache(LAYERS, HEADS, SIZE)


def _image_family(name: str, about: str, build: Callable[[], nn.Module]) -> Family:
    return single_size(name, about, build, image_inputs(224))


_DECODER = single_size("gpt2", "a step of GPT-2 small", _gpt2, _STEP, _STEP_OUT, words=WORDS)
_BERT = FAMILIES["bert"]

ROWS = (
    Row("resnet50", FAMILIES["resnet50"]),
    Row("resnext50", FAMILIES["resnext50"]),
    Row("bert", _BERT, SEQUENCE),
    Row("bert-ts", _BERT, SEQUENCE, exporter="torchscript"),
    Row("xlnet", FAMILIES["xlnet"], SEQUENCE),
    Row("xlnet-ts", FAMILIES["xlnet"], SEQUENCE, exporter="torchscript"),
    Row("mobilenet", _image_family("mobilenet-224", "MobileNet v2", mobilenet(224))),
    Row("vit-ti", ZOO["vit"].family),
    Row("vit-b", _image_family("vit-base", "ViT-B/16", _vit)),
    Row("decoder", _DECODER, PAST),
    Row("mlp", FAMILIES["mlp"]),
    Row("qbert", _BERT, SEQUENCE, variant="int8"),
)
BY_NAME = {row.name: row for row in ROWS}
