"""What the zoo's files share: how an architecture is described, and networks of transformers with plain
tensors in and out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sample_models.families import Family, Input

BOTH = ("dynamo", "torchscript")

EAGER: dict[str, Any] = {"attn_implementation": "eager"}
"""For the networks whose fused attention, with a bias, torch's exporters do not take."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture at a size for tests. Dims of `inputs` that are strings are dynamic.

    `exporters` are those of torch's that are tried. `reason` says why the merged graph is larger than usual.
    """

    name: str
    domain: str
    build: Callable[[], nn.Module]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...] = ("y",)
    exporters: tuple[str, ...] = ("dynamo",)
    reason: str = ""

    @property
    def family(self) -> Family:
        """As the exporter takes it. Every output's first axis is the batch where the inputs' is."""
        batch = {0: "batch"} if any("batch" in item.dims for item in self.inputs) else {}
        return Family(
            self.name,
            self.domain,
            lambda tiny: self.build(),
            lambda tiny: self.inputs,
            dict.fromkeys(self.outputs, batch),
        )


def image(side: int = 32, channels: int = 3) -> tuple[Input, ...]:
    return (Input("image", ("batch", channels, side, side)),)


def tokens(vocabulary: int = 99, *, mask: bool = True) -> tuple[Input, ...]:
    """Token ids, and the mask of those that are not padding."""
    ids = Input("input_ids", ("batch", "sequence"), vocabulary)
    return (ids, Input("attention_mask", ("batch", "sequence"), 2)) if mask else (ids,)


class Pretrained(nn.Module):
    """A network of transformers: tensors in as the keyword arguments `takes`, the fields `gives` out."""

    def __init__(
        self,
        model: str,
        config: Any,
        takes: tuple[str, ...],
        gives: tuple[str, ...],
        **fixed: Any,
    ) -> None:
        import transformers

        super().__init__()
        torch.manual_seed(0)
        self.model = getattr(transformers, model)(config)
        self.takes = takes
        self.gives = gives
        self.fixed = fixed

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        out = self.model(**dict(zip(self.takes, tensors, strict=True)), **self.fixed)
        return tuple(out[name] for name in self.gives)


def config(name: str, **settings: Any) -> Any:
    """A configuration of transformers by its class name. What it warns of, such as a vocabulary without
    the usual last token, is meant."""
    import transformers

    transformers.logging.set_verbosity_error()
    return getattr(transformers, name)(**settings)


def vision(model: str, settings: Any, *gives: str, **fixed: Any) -> nn.Module:
    """A network of transformers that takes one image."""
    return Pretrained(model, settings, ("pixel_values",), gives, **fixed)


def text(model: str, settings: Any, *gives: str, mask: bool = True, **fixed: Any) -> nn.Module:
    """A network of transformers that takes token ids and, mostly, their mask."""
    takes = ("input_ids", "attention_mask") if mask else ("input_ids",)
    return Pretrained(model, settings, takes, gives, **fixed)
