"""From a family to ONNX files: one network, re-weighted and exported once per model.

Each file is an export of its own, not a copy with other bytes: that is what a user's files are.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sample_models.families import Family, Input
from sample_models.weights import randomise

OPSETS = {"dynamo": 18, "torchscript": 17}
PINNED = ("lstm",)
"""Families whose dynamic dims the dynamo exporter pins to the example's. torch.export (2.13) takes the length
that an LSTM loops over for a constant; the graph, whose LSTM has no loop, holds it in its types only."""

EXAMPLE = {"batch": 2, "sequence": 9, "past": 5, "past + 1": 6, "nodes": 7, "edges": 11}
"""Sizes of the dynamic dims: neither 0, 1 nor a size that the networks themselves contain."""


def export_family(
    family: Family,
    out: Path,
    *,
    count: int,
    tiny: bool = False,
    exporter: str = "dynamo",
    seed: int = 0,
    external_data: bool = False,
) -> Iterator[Path]:
    """Write `count` models to `out`/NAME-0.onnx and on, yielding each path when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    for noisy in ("torch.onnx", "onnxscript", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # torchvision is not installed, and the like
    network = family.build(tiny).eval()
    inputs = family.inputs(tiny)
    for index in range(count):
        randomise(network, seed * 1000 + index)
        path = out / f"{family.name}-{index}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters' own deprecations: not the user's affair
            if exporter == "dynamo":
                _dynamo(network, family, inputs, path, external_data)
                if family.name in PINNED:
                    _unpin(path, family, inputs)
            else:
                _torchscript(network, family, inputs, path)
                if external_data:
                    _move_out(path)
        yield path


def example(inputs: tuple[Input, ...], sizes: dict[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Seeded inputs with the dynamic dims bound to `sizes`; a mask starts with ones, as masks do."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for item in inputs:
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in item.dims]
        if item.high:
            value = torch.randint(0, item.high, shape, generator=generator)
            if item.name == "attention_mask":
                value[:, : max(1, shape[1] // 2)] = 1
        else:
            value = torch.randn(shape, generator=generator)
        values[item.name] = value
    return values


def _dynamo(
    network: nn.Module, family: Family, inputs: tuple[Input, ...], path: Path, external_data: bool
) -> None:
    dims = {name: torch.export.Dim(name) for name in EXAMPLE if "+" not in name}
    dims["past + 1"] = dims["past"] + 1
    shapes: tuple[Any, ...] = tuple(
        {axis: dims[dim] for axis, dim in enumerate(item.dims) if isinstance(dim, str)} for item in inputs
    )
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    torch.onnx.export(
        network,
        tuple(example(inputs, EXAMPLE).values()),
        path,
        dynamo=True,
        opset_version=OPSETS["dynamo"],
        input_names=[item.name for item in inputs],
        output_names=list(family.outputs),
        dynamic_shapes=(shapes,) if inspect.Parameter.VAR_POSITIONAL in kinds else shapes,
        external_data=external_data,
        verbose=False,
    )


def _unpin(path: Path, family: Family, inputs: tuple[Input, ...]) -> None:
    """Declares the inputs and outputs as the family does. Types of what is between them are left out."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    axes = {item.name: dict(enumerate(item.dims)) for item in inputs} | family.outputs
    for info in (*model.graph.input, *model.graph.output):
        for axis, dim in axes[info.name].items():
            if isinstance(dim, str):
                info.type.tensor_type.shape.dim[axis].dim_param = dim
    del model.graph.value_info[:]
    onnx.save_model(model, path)


def _torchscript(network: nn.Module, family: Family, inputs: tuple[Input, ...], path: Path) -> None:
    axes = {
        item.name: {axis: dim for axis, dim in enumerate(item.dims) if isinstance(dim, str)}
        for item in inputs
    }
    torch.onnx.export(
        network,
        tuple(example(inputs, EXAMPLE).values()),
        path,
        dynamo=False,
        opset_version=OPSETS["torchscript"],
        input_names=[item.name for item in inputs],
        output_names=list(family.outputs),
        dynamic_axes=axes | family.outputs,
    )


def _move_out(path: Path) -> None:
    """The TorchScript exporter writes external data only above 2 GB, so onnx moves it afterwards."""
    import onnx

    model = onnx.load(path)
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=1024)
