"""Scan of opset 8, which has a batch axis, as the Scan of later opsets, which has none."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto, ValueInfoProto, helper

from netfuse_onnx.load.lift import Lift, attr, step
from netfuse_onnx.ops.kinds import clear_shape

SPELLED = 11
"""The opset in which the nodes of the new body are written."""


@step(9, "Scan")
def scan_of_batches(lift: Lift, node: NodeProto) -> None:
    """Opset 8 scans each item of a batch, axis 0, along axis 1: a Scan over the batch with a Scan inside.

    Sequences may have lengths of their own: an item is cut to its length first, and its results are padded
    with zeros.
    """
    lengths, *given = node.input
    scanned, body = int(attr(node, "num_scan_inputs")), attr(node, "body")
    states = len(given) - scanned
    inner = helper.make_node("Scan", [], [], num_scan_inputs=scanned, body=body)
    if attr(node, "directions"):
        inner.attribute.append(helper.make_attribute("scan_input_directions", attr(node, "directions")))
    item = GraphProto(name=lift.fresh("item"))
    if lengths:
        if lift.goal < SPELLED:
            raise lift.refused(node, "its sequences have lengths of their own")
        item.input.append(helper.make_tensor_value_info(lift.fresh("length"), 7, []))
    for infos, ends, names in (
        (body.input, item.input, inner.input),
        (body.output, item.output, inner.output),
    ):
        for k, info in enumerate(infos):
            names.append(lift.fresh(info.name))
            ends.append(ValueInfoProto(name=names[-1], type=info.type))
            if k >= states:  # a whole sequence
                clear_shape(ends[-1])
    item.node.extend(_cut(lift, item, inner, states) if lengths else [inner])
    lift.graph(item, SPELLED if lengths else 9)
    ins = [lengths, *given] if lengths else given
    lift.emit("Scan", ins, node.output, node.name, num_scan_inputs=len(ins), body=item)


def _cut(lift: Lift, item: GraphProto, inner: NodeProto, states: int) -> Iterator[NodeProto]:
    """Yield the Scan of one item, cut to the first `length` elements, with zeros behind the results."""

    def const(name: str, value: int) -> NodeProto:
        tensor = helper.make_tensor(name, 7, [1], [value])
        return helper.make_node("Constant", [], [name], value=tensor)

    zero, one, end, length, longest = (
        lift.fresh(name) for name in ("zero", "one", "far", "length", "longest")
    )
    yield from (const(zero, 0), const(one, 1), const(end, 1 << 62))
    yield helper.make_node("Unsqueeze", [item.input[0].name], [length], axes=[0])
    shape = lift.fresh("shape")
    yield helper.make_node("Shape", [inner.input[states]], [shape])
    yield helper.make_node("Slice", [shape, zero, one, zero], [longest])
    for k in range(states, len(inner.input)):
        cut = lift.fresh("cut")
        yield helper.make_node("Slice", [inner.input[k], zero, length, zero], [cut])
        inner.input[k] = cut
    rest = lift.fresh("rest")
    yield helper.make_node("Sub", [longest, length], [rest])
    filled: list[tuple[str, str, int]] = []
    for k in range(states, len(inner.output)):
        short = lift.fresh("short")
        filled.append((short, inner.output[k], item.output[k].type.tensor_type.elem_type))
        inner.output[k] = short
    yield inner
    for short, full, element_type in filled:
        size, tail, missing, zeros = (lift.fresh(name) for name in ("size", "tail", "missing", "zeros"))
        yield helper.make_node("Shape", [short], [size])
        yield helper.make_node("Slice", [size, one, end, zero], [tail])
        yield helper.make_node("Concat", [rest, tail], [missing], axis=0)
        value = helper.make_tensor("value", element_type or 1, [1], [0])
        yield helper.make_node("ConstantOfShape", [missing], [zeros], value=value)
        yield helper.make_node("Concat", [short, zeros], [full], axis=0)
