"""Random weights that differ between the models of a family in every tensor.

Freshly built networks are a poor test: biases and norm statistics are 0 or 1 in all of them, so a merge
that swapped two models there would pass. Here every parameter and every floating-point buffer is drawn,
scaled so that activations neither vanish nor explode through fifty layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Networks of transformers define more of them, all called ..Norm or ..Norm2d."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def randomise(network: nn.Module, seed: int) -> None:
    """Fill `network` in place. The same seed gives the same weights, whatever was there before."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, NORMS) or type(module).__name__.removesuffix("2d").endswith("Norm"):
                joins_sum = name.endswith("bn3") or "downsample" in name
                _norm(module, (0.2, 0.6) if joins_sum else (0.5, 1.5), generator)
                continue
            for key, parameter in module.named_parameters(recurse=False):
                spread = _spread(module, key, parameter)
                parameter.normal_(0.0, spread, generator=generator)


def _norm(module: nn.Module, scale: tuple[float, float], generator: torch.Generator) -> None:
    """Draw scale, shift and statistics. The scale is smaller where the result joins a residual sum: the
    running statistics are not the real ones, so nothing else holds the sum down."""
    tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    for key, tensor in tensors.items():
        if key == "weight":
            tensor.uniform_(*scale, generator=generator)
        elif key == "running_var":
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, 0.1, generator=generator)


def _spread(module: nn.Module, key: str, parameter: Tensor) -> float:
    """Standard deviation for a parameter: He for convolutions, 1/sqrt(fan in) for the rest."""
    if "bias" in key or parameter.ndim < 2:
        return 0.1
    if isinstance(module, nn.Embedding):
        return 0.5
    if isinstance(module, CONVOLUTIONS):
        return math.sqrt(2.0 / math.prod(parameter.shape[1:]))
    if isinstance(module, nn.Linear | nn.LSTM):
        return 1.0 / math.sqrt(parameter.shape[-1])
    return 1.0 / math.sqrt(parameter.shape[0])  # XLNet's [hidden, heads, head size]
