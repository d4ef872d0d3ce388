"""The tool that wrote a file. Both exporters of PyTorch call themselves pytorch; their marks tell them apart.

The marks were seen in torch 2.13, and follow from its code for older versions: dynamo notes the origin of
every node and of the graph under keys that begin with pkg.torch; TorchScript names nodes by their place in
the module, such as /encoder/layer.0/MatMul. A file from which another tool removed the marks shows
neither.
"""

from __future__ import annotations

import re
from itertools import chain, islice

from onnx import ModelProto

from netfuse_onnx.types import Producer

LOOKED_AT = 1000
"""The number of nodes whose marks are read."""
MOST_LETTERS = 80
DYNAMO, TORCHSCRIPT = "dynamo", "TorchScript"
BEFORE_DYNAMO = re.compile(r"[01]\.")
"""Versions of torch whose only exporter to ONNX was TorchScript."""


def of(model: ModelProto) -> Producer:
    """Return the producer that the file names, and the exporter where it is certain."""
    name, version = (
        text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 3] + "..."
        for text in (model.producer_name, model.producer_version)
    )
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
