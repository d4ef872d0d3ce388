"""The figures of what the models of a family share: bytes stored and read once, arithmetic that runs once.

All of them are read off the merged graph and the accounts of its plan, which say what is emitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from netfuse_onnx import edges
from netfuse_onnx.apart import tail_work
from netfuse_onnx.dims import Sizes, points
from netfuse_onnx.expected import bytes_of_weights
from netfuse_onnx.lowered import Merged
from netfuse_onnx.merge_rows import Sharing
from netfuse_onnx.ops import traits, walk
from netfuse_onnx.plan.multiply_adds import MultiplyAdds
from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.plan.outlook import once_per_model
from netfuse_onnx.plan.sized import assumed, retyped
from netfuse_onnx.rules import Site
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Became, Correspondence, Lowering


def of(family: Correspondence, merged: Merged, dims: Sizes, *, io: str = edges.SEPARATE) -> Sharing:
    """Return what the models share in a merged graph. Open dims have the first sizes of `dims`, or assumed
    ones. Where a call chooses its models, only that tells what it reads and computes."""
    sizes = assumed(family.graph, points(dims)[0])
    once, every, one = _arithmetic(family, merged, sizes)
    tails = [tail_work(family, model, sizes) for model in range(family.models)]
    every, one = every + sum(tails), one + tails[0]
    return Sharing(
        stored=weights.stored(merged.model),
        sources=bytes_of_weights(family),
        read=None if edges.chooses(io) else read_bytes(merged.model.graph),
        once=once / one if one else 0.0,
        arithmetic=every / one if one and not edges.chooses(io) else None,
    )


# --------------------------------------------------------------------------- arithmetic


def _arithmetic(
    family: Correspondence, merged: Merged, sizes: Mapping[str, int]
) -> tuple[float, float, float]:
    """Return the multiply-adds of one model in nodes that run once for all models, those of a call of the
    merged model, and those of a call of one model."""
    if merged.plan is None:
        return 0.0, 0.0, 0.0
    count = MultiplyAdds(family.models, sizes)
    lowerings = merged.plan.lowerings
    return _counted(lowerings, retyped([each.site for each in lowerings], count.priced(family)), count)


def _counted(
    lowerings: Sequence[Lowering], sites: Sequence[Site], count: MultiplyAdds
) -> tuple[float, float, float]:
    once = every = one = 0.0
    for lowering, sized in zip(lowerings, sites, strict=True):
        if isinstance(lowering.option, NestedPlan):
            inner = [each for body in lowering.option.bodies.values() for each in body.plan.lowerings]
            sums = _counted(inner, [each.site for each in inner], count)
            once, every, one = once + sums[0], every + sums[1], one + sums[2]
            continue
        mine = count.lowering(once_per_model(lowering), sized) / count.models
        one, every = one + mine, every + count.lowering(lowering, sized)
        once += mine if lowering.became is Became.SHARED else 0.0
    return once, every, one


# --------------------------------------------------------------------------- bytes


def read_bytes(graph: GraphProto) -> int:
    """Return the bytes of stored tensors that a call reads, each counted once. What a session computes from
    stored tensors when it loads the file is read in its place. A table from which rows are taken by index is
    left out: a call reads some of it."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    sizes = {name: _nbytes(tensor) for name, tensor in held.items()}
    read: set[str] = set()
    for node in graph.node:
        known = [sizes[name] for name in node.input if name in sizes]
        if len(known) == len(node.input) > 0 and not node.domain and not any(walk.bodies(node)):
            sizes[node.output[0]] = _computed(node, known, held)
        else:
            read |= {name for each in _within(node) for name in _whole(each)}
    return sum(size for name, size in sizes.items() if name in read)


def _computed(node: NodeProto, known: Sequence[int], held: Mapping[str, TensorProto]) -> int:
    """Return the bytes that a node on stored tensors gives."""
    if node.op_type == "Concat":
        return sum(known)
    if node.op_type == "Gather" and node.input[1] in held:
        ids = numpy_helper.to_array(held[node.input[1]])
        return known[0] * ids.size // max(1, int(ids.max(initial=0)) + 1)
    return known[0]


def _within(node: NodeProto) -> list[NodeProto]:
    """Return a node and those of its bodies."""
    return [node, *(each for _, body in walk.bodies(node) for each in walk.nodes(body))]


def _whole(node: NodeProto) -> Sequence[str]:
    """Return the inputs that a node reads whole."""
    tables = {each.table for each in traits.of(walk.key(node)).indices}
    return [name for place, name in enumerate(node.input) if place not in tables]


def _nbytes(tensor: TensorProto) -> int:
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return weights.nbytes(weights.weight_of(_head(tensor)))


def _head(tensor: TensorProto) -> TensorProto:
    return TensorProto(data_type=tensor.data_type, dims=tensor.dims)
