"""One network, written in different ways: by either exporter of torch, at any opset, with BatchNormalization
folded or not. Each file has weights of its own.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sample_models.export import EXAMPLE, example
from sample_models.families import Family, Input
from sample_models.weights import randomise

OLDEST = {"dynamo": 18, "torchscript": 11}
"""The oldest opset that each exporter is asked for. Dynamo writes 18; it converts down, or fails to."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write a network. `norms` says what becomes of BatchNormalization: 'folded' by the exporter,
    'kept' as an operator, or 'fused' into the convolutions before the export."""

    exporter: str = "dynamo"
    opset: int = 18
    norms: str = "folded"
    static: bool = False

    def __str__(self) -> str:
        norms = "" if self.norms == "folded" else f", norms {self.norms}"
        return f"{self.exporter} {self.opset}{norms}{', fixed sizes' if self.static else ''}"


def write(
    network: nn.Module, family: Family, inputs: tuple[Input, ...], way: Way, path: Path, seed: int
) -> Path:
    """Write a network with random weights of `seed` to `path`. Where norms are fused, the network changes."""
    for noisy in ("torch.onnx", "onnxscript", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    network.eval()
    randomise(network, seed)
    if way.norms == "fused":
        fuse(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own deprecations
        if way.exporter == "dynamo":
            _dynamo(network, family, inputs, way, path)
        else:
            _torchscript(network, family, inputs, way, path)
    return path


def fuse(network: nn.Module) -> None:
    """Put each BatchNorm2d that follows a Conv2d among the children of a module into its weights."""
    for module in list(network.modules()):
        children = list(module.named_children())
        for (name, conv), (after, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())


def _dynamo(network: nn.Module, family: Family, inputs: tuple[Input, ...], way: Way, path: Path) -> None:
    dims = {name: torch.export.Dim(name) for name in EXAMPLE if "+" not in name}
    shapes: Any = tuple(
        {axis: dims[dim] for axis, dim in enumerate(item.dims) if isinstance(dim, str)} for item in inputs
    )
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        shapes = (shapes,)
    torch.onnx.export(
        network, tuple(example(inputs, EXAMPLE).values()), path, dynamo=True, opset_version=way.opset,
        input_names=[item.name for item in inputs], output_names=list(family.outputs),
        dynamic_shapes=None if way.static else shapes, external_data=False, verbose=False,
        optimize=way.norms != "kept",
    )  # fmt: skip


def _torchscript(network: nn.Module, family: Family, inputs: tuple[Input, ...], way: Way, path: Path) -> None:
    axes = {
        item.name: {axis: dim for axis, dim in enumerate(item.dims) if isinstance(dim, str)}
        for item in inputs
    }
    kept = way.norms == "kept"
    training = torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        network, tuple(example(inputs, EXAMPLE).values()), path, dynamo=False, opset_version=way.opset,
        input_names=[item.name for item in inputs], output_names=list(family.outputs),
        dynamic_axes=None if way.static else axes | family.outputs, training=training,
        do_constant_folding=not kept,
    )  # fmt: skip
