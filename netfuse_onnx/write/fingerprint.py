"""The fingerprint of a merged file, by which a report says which file it is about.

It is the SHA-256 of the model without large tensor data and without the places of that data: of its nodes,
types, small weights and metadata, which have the SHA-256 of each source, the plan, and a recipe for every
merged weight. So it takes milliseconds, whatever the size of the weights. It does not see bytes of large
weights that were changed afterwards: the proof of the bytes does.
"""

from __future__ import annotations

import hashlib

import onnx

from netfuse_onnx.ops import walk
from netfuse_onnx.storage import wire


def of(path: str) -> str:
    """Return the fingerprint of the file at `path`. Raises FileFault where it is no model."""
    return of_model(wire.scan(path).model)


def of_model(model: onnx.ModelProto) -> str:
    """Return the fingerprint of a skeleton."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for graph in walk.graphs(plain.graph):
        for tensor in graph.initializer:
            if tensor.external_data:
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
    return hashlib.sha256(plain.SerializeToString(deterministic=True)).hexdigest()
