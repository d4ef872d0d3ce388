"""The tool that wrote a file. Both exporters of pytorch call themselves pytorch: their marks tell them apart.

The marks were seen in torch 2.13, and follow from its code for older versions: dynamo notes on every node,
and on the graph, where it comes from, under keys that begin with pkg.torch; TorchScript names nodes by their
place in the module, /encoder/layer.0/MatMul. A file from which another tool took the marks shows neither.
"""

from __future__ import annotations

import re
from itertools import chain, islice

from onnx import ModelProto

from netfuse_onnx.types import Producer

LOOKED_AT = 1000
"""Nodes whose marks are looked at."""
MOST_LETTERS = 80
DYNAMO, TORCHSCRIPT = "dynamo", "TorchScript"
BEFORE_DYNAMO = re.compile(r"[01]\.")
"""Versions of torch that had no other exporter to ONNX than TorchScript."""


def of(model: ModelProto) -> Producer:
    """The producer that the file names, and the exporter where it is sure."""
    name, version = (_short(text) for text in (model.producer_name, model.producer_version))
    return Producer(name, version, _exporter(model) if name == "pytorch" else "")


def _exporter(model: ModelProto) -> str:
    nodes = list(islice(model.graph.node, LOOKED_AT))
    keys = (entry.key for part in chain([model.graph], nodes) for entry in part.metadata_props)
    if any(key.startswith("pkg.torch.") for key in keys):
        return DYNAMO
    if any(function.domain.startswith("pkg.torch.") for function in model.functions):
        return DYNAMO
    scoped = any(node.name.startswith("/") and f"/{node.op_type}" in node.name for node in nodes)
    return TORCHSCRIPT if scoped or BEFORE_DYNAMO.match(model.producer_version) else ""


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 3] + "..."
