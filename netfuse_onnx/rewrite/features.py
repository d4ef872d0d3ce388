"""ArrayFeatureExtractor of ai.onnx.ml becomes Gather, whose rules cover data and indices of each model.

It takes the elements of the last axis whose indices a tensor of any shape lists: [.., C], [K] -> [.., K]. A
vector becomes a row first: [C], [K] -> [1, K]. Converters of scikit-learn write the label of a class with it,
and a Reshape to [-1] behind it, which makes that row and the shape of the indices meaningless. An index below
0, with which ONNX Runtime's kernel fails, counts from the end.
"""

from __future__ import annotations

from dataclasses import replace

from netfuse_onnx.ops.schemas import ML
from netfuse_onnx.rewrite.attention import typed
from netfuse_onnx.rewrite.view import View
from netfuse_onnx.types import Correspondence, Node


def gather_features(corr: Correspondence) -> Correspondence:
    """The correspondence with Gather in the place of every ArrayFeatureExtractor on tensors of known rank."""
    nodes = [
        (i, node) for i, node in enumerate(corr.graph.nodes) if node.key == f"{ML}.ArrayFeatureExtractor"
    ]
    view = View(corr)
    done = [_replace(view, i, node) for i, node in nodes]
    return typed(view.replaced()) if any(done) else corr


def _replace(view: View, place: int, node: Node) -> bool:
    data, indices = node.inputs
    rank, given = view.rank(data), view.rank(indices)
    if not rank or given is None or {data, indices} & view.corr.ragged:
        return False
    (result,) = node.outputs
    if rank == 1:
        flat = _only_flattened(view, result)
        gathered = result if flat else view.fresh(f"{result}/gathered")
        made = [Node("Gather", "", node.name, (data, indices), (gathered,), {"axis": 0})]
        view.put(place, made if flat else [*made, view.reshape(gathered, [1, -1], result)])
        return True
    made = []
    if given != 1:
        flattened = view.fresh(f"{indices}/flat")
        made, indices = [view.reshape(indices, [-1], flattened)], flattened
    view.put(
        place,
        [*made, replace(node, op="Gather", domain="", inputs=(data, indices), attrs={"axis": rank - 1})],
    )
    return True


def _only_flattened(view: View, name: str) -> bool:
    """True where one Reshape to [-1] alone reads a value."""
    reader = view.only_reader(name, "Reshape")
    target = None if reader is None or reader.inputs[0] != name else view.values(reader.inputs[1])
    return target is not None and len(target) == 1 and target.reshape(-1).tolist() == [-1]
