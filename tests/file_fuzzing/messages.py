"""Changes of one random field of a protobuf message, and of whole parts of a model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper

GIANT = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))
SMALL = (-2, -1, 0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 18, 21, 24, 25, 28, 99, 128, 1000, 9999, 65536, 10**6)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e38, float("inf"), float("-inf"), float("nan"))
NOT_UTF8 = "\x01\x02\x03\x04"
"""Stands for four bytes that are no UTF-8 text: protobuf does not take those, so they are put into the file."""
TEXTS = (
    "", "x", "y", "a", NOT_UTF8, "\0", "ai.onnx", "ai.onnx.ml", "com.microsoft", "who", "a/b", "../x", "%s", "{}",
    "é" * 3, "n" * 5000, "'\"\\", "Identity", "Constant", "Concat", "Loop", "If", "Scan", "Reshape", "LabelEncoder",
    "Range", "Expand", "RegexFullMatch", "TreeEnsemble", "DictVectorizer", "Attention", "Split", "Cast", "Upsample",
    "NOTSET", "SAME_UPPER", "linear", "ij,jk->ik", "i->", "...", "->", "LSTM", "to", "axis", "axes", "value",
    "-1", "1 + n", "[", "model/x", "\n", "\u202e",
)  # fmt: skip


def mutate(model: ModelProto, donor: ModelProto, rng: random.Random) -> None:
    """A few changes; parts may come from the donor."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        change = rng.choice((field, field, field, field, part, part, kind, attribute, bomb))
        change(model, donor, rng)


# --------------------------------------------------------------------------- one field


def field(model: ModelProto, donor: ModelProto, rng: random.Random) -> None:
    """One field of one message: another value, or none, or one more."""
    messages = list(walk(model))
    by_kind: dict[str, list[Message]] = {}
    for message in messages:
        by_kind.setdefault(message.DESCRIPTOR.name, []).append(message)
    message = rng.choice(by_kind[rng.choice(sorted(by_kind))])
    present = [found for found, _ in message.ListFields()]
    fields = present if present and rng.random() < 0.8 else list(message.DESCRIPTOR.fields)
    descriptor = rng.choice(fields)
    if repeated(descriptor):
        _repeated(message, descriptor, rng)
    elif descriptor.type == F.TYPE_MESSAGE:
        _message(message, descriptor, messages, rng)
    elif rng.random() < 0.15:
        message.ClearField(descriptor.name)
    else:
        value = scalar(descriptor, getattr(message, descriptor.name), rng)
        _set(message, descriptor.name, value)


def walk(message: Message) -> Iterator[Message]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.type == F.TYPE_MESSAGE:
            for inner in value if repeated(descriptor) else (value,):
                yield from walk(inner)


def repeated(descriptor: Any) -> bool:
    found = getattr(descriptor, "is_repeated", None)
    return bool(found) if found is not None else bool(descriptor.label == F.LABEL_REPEATED)


def scalar(descriptor: Any, now: Any, rng: random.Random) -> Any:
    """Another value of the kind that the field holds."""
    if descriptor.type == F.TYPE_STRING:
        return rng.choice(TEXTS)
    if descriptor.type == F.TYPE_BYTES:
        return rng.choice(
            (b"", b"\xff\xfe", now[:-1], now + b"\0", now * 2, b"linear", b"reverse", b"\0" * 64)
        )
    if descriptor.type in (F.TYPE_FLOAT, F.TYPE_DOUBLE):
        return rng.choice(NUMBERS)
    if descriptor.type == F.TYPE_ENUM:
        return rng.choice(descriptor.enum_type.values).number
    return rng.choice((*GIANT, *SMALL, *SMALL, now + 1, now - 1, -now))


def _set(message: Message, name: str, value: Any) -> None:
    try:
        setattr(message, name, value)
    except (ValueError, TypeError):  # it does not fit 32 bits
        setattr(message, name, type(value)(value % 2**31) if isinstance(value, int) else value)


def _repeated(message: Message, descriptor: Any, rng: random.Random) -> None:
    values = getattr(message, descriptor.name)
    what = rng.random()
    if not len(values):
        if descriptor.type == F.TYPE_MESSAGE:
            values.add()
        else:
            _append(values, scalar(descriptor, b"" if descriptor.type == F.TYPE_BYTES else 1, rng))
        return
    at = rng.randrange(len(values))
    if what < 0.3:
        del values[at]
    elif what < 0.4:
        del values[:]
    elif what < 0.55:
        kept = list(values)
        copied = [kept[at]] * rng.choice((1, 1, 3, 200))
        values.extend(copied)
    elif what < 0.7 and len(values) > 1:
        _swap(message, descriptor, at, rng.randrange(len(values)))
    elif descriptor.type != F.TYPE_MESSAGE:
        value = scalar(descriptor, values[at], rng)
        try:
            values[at] = value
        except (ValueError, TypeError):
            values[at] = value % 2**31
    else:
        values.add()


def _append(values: Any, value: Any) -> None:
    try:
        values.append(value)
    except (ValueError, TypeError):
        values.append(value % 2**31)


def _swap(message: Message, descriptor: Any, one: int, other: int) -> None:
    values = list(getattr(message, descriptor.name))
    if descriptor.type == F.TYPE_MESSAGE:
        values = [type(v).FromString(v.SerializePartialToString()) for v in values]
    values[one], values[other] = values[other], values[one]
    message.ClearField(descriptor.name)
    getattr(message, descriptor.name).extend(values)


def _message(message: Message, descriptor: Any, messages: list[Message], rng: random.Random) -> None:
    name = descriptor.message_type.name
    others = [found for found in messages if found.DESCRIPTOR.name == name]
    if rng.random() < 0.3 or not others:
        message.ClearField(descriptor.name)
        if rng.random() < 0.5:
            getattr(message, descriptor.name).SetInParent()
        return
    other = rng.choice(others)
    copy = type(other).FromString(other.SerializePartialToString())
    getattr(message, descriptor.name).CopyFrom(copy)


# --------------------------------------------------------------------------- parts of a model


def graphs(model: ModelProto) -> list[GraphProto]:
    return [found for found in walk(model) if isinstance(found, GraphProto)]


def nodes(model: ModelProto) -> list[NodeProto]:
    return [found for found in walk(model) if isinstance(found, NodeProto)]


def part(model: ModelProto, donor: ModelProto, rng: random.Random) -> None:
    """A node or a name: gone, twice, exchanged, moved, or of another operator."""
    graph = rng.choice(graphs(model) or [model.graph])
    if graph.node:
        names = sorted({name for n in graph.node for name in (*n.input, *n.output)})
        rng.choice(PARTS)(graph, rng.choice(graph.node), names or [""], donor, rng)


def _gone(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    graph.node.remove(node)


def _twice(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    graph.node.add().CopyFrom(node)


def _reads(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _gives(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)


def _other(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    other = rng.choice(nodes(donor) or [node])
    node.op_type, node.domain = other.op_type, other.domain


def _added(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    added = graph.node.add()
    added.CopyFrom(rng.choice(nodes(donor) or [node]))
    for i in range(len(added.input)):
        added.input[i] = rng.choice(names)
    if graph.output and added.output and rng.random() < 0.7:
        graph.output.add(name=added.output[0])


def _output(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    graph.output.add(name=rng.choice(names))


def _more(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    node.input.extend([rng.choice((*names, ""))] * rng.choice((1, 2, 40)))


def _untyped(
    graph: GraphProto, node: NodeProto, names: list[str], donor: ModelProto, rng: random.Random
) -> None:
    values = (*graph.input, *graph.output, *graph.value_info)
    if values:
        rng.choice(values).ClearField("type")


PARTS = (_gone, _twice, _reads, _gives, _other, _added, _output, _more, _untyped)


def kind(model: ModelProto, donor: ModelProto, rng: random.Random) -> None:
    """A declared type: no type, another element type, nested, dims that are negative, huge, or many."""
    graph = rng.choice(graphs(model) or [model.graph])
    values = [*graph.input, *graph.output, *graph.value_info]
    if values:
        proto = rng.choice(values).type
        rng.choice((_element, _dims, _dims, _dims, _nests, _map))(proto, rng)


def _element(proto: TypeProto, rng: random.Random) -> None:
    proto.tensor_type.elem_type = rng.choice((-1, 0, 8, 14, 16, 17, 22, 23, 24, 28, 29, 99, 2**31 - 1))


def _dims(proto: TypeProto, rng: random.Random) -> None:
    shape = proto.tensor_type.shape
    what = rng.randrange(4)
    if what == 0:
        shape.dim.add().dim_value = rng.choice((-1, 0, 2**31, 2**62, 10**6))
    elif what == 1:
        for _ in range(rng.choice((8, 70, 2000))):
            shape.dim.add().dim_value = rng.choice((1, 1, 2))
    for dim in shape.dim if what > 1 else ():
        if what == 2:
            dim.dim_value = rng.choice((*GIANT, *SMALL))
        else:
            dim.dim_param = rng.choice(TEXTS)


def _nests(proto: TypeProto, rng: random.Random) -> None:
    proto.CopyFrom(nested(proto, rng.choice((1, 2, 30))))


def _map(proto: TypeProto, rng: random.Random) -> None:
    proto.map_type.key_type = rng.choice((0, 1, 7, 8, 99))
    proto.map_type.value_type.SetInParent()


def nested(proto: TypeProto, depth: int) -> TypeProto:
    for _ in range(depth):
        proto = helper.make_sequence_type_proto(proto)
    return proto


def attribute(model: ModelProto, donor: ModelProto, rng: random.Random) -> None:
    """An attribute: gone, of another kind, of another node, or with another value."""
    some = [node for node in nodes(model) if node.attribute]
    if not some:
        return
    node = rng.choice(some)
    chosen = rng.choice(node.attribute)
    what = rng.randrange(5)
    if what == 0:
        node.attribute.remove(chosen)
    elif what == 1:
        chosen.type = rng.choice(list(AttributeProto.AttributeType.values()))
    elif what == 2:
        others = [a for n in nodes(donor) for a in n.attribute] or [chosen]
        name = chosen.name
        chosen.CopyFrom(rng.choice(others))
        chosen.name = rng.choice((name, chosen.name))
    elif what == 3:
        node.attribute.add().CopyFrom(chosen)
    elif chosen.type in (AttributeProto.INT, AttributeProto.INTS):
        value = rng.choice((*GIANT, *SMALL))
        chosen.i = value
        if chosen.ints:
            chosen.ints[rng.randrange(len(chosen.ints))] = value


# --------------------------------------------------------------------------- bombs


def bomb(model: ModelProto, donor: ModelProto, rng: random.Random) -> None:
    """A few nodes whose result is huge, or never ends."""
    graph = model.graph
    size = rng.choice((2**20, 2**28, 2**31, 2**33, 2**40, 2**62, -1))
    which = rng.choice(sorted(BOMBS))
    made = BOMBS[which](size)
    for name, values in (("bomb_n", [size]), ("bomb_2", [2, 2]), ("bomb_one", [1])):
        if all(t.name != name for t in graph.initializer):
            graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
    if all(t.name != "bomb_s" for t in graph.initializer):
        graph.initializer.append(helper.make_tensor("bomb_s", TensorProto.INT64, [], [size]))
        graph.initializer.append(helper.make_tensor("bomb_0", TensorProto.INT64, [], [0]))
        graph.initializer.append(helper.make_tensor("bomb_1", TensorProto.INT64, [], [1]))
    graph.node.extend(made)
    last = made[-1].output[0]
    if rng.random() < 0.5:
        kept = graph.output[0].name if graph.output else "y"
        graph.node.append(helper.make_node("Shape", [last], [f"{kept}_shape"]))
        graph.output.add(name=f"{kept}_shape").type.tensor_type.elem_type = 7
    else:
        graph.output.add(name=last).type.tensor_type.elem_type = 7


def _doubled(size: int) -> list[NodeProto]:
    chain = ["bomb_2"]
    made = []
    for k in range(34):
        chain.append(f"double_{k}")
        made.append(helper.make_node("Concat", chain[-2:-1] * 2, chain[-1:], axis=0))
    return made


def _looped(size: int) -> list[NodeProto]:
    body = helper.make_graph(
        [helper.make_node("Identity", ["lc"], ["ld"]), helper.make_node("Add", ["ls", "bomb_1"], ["lt"])],
        "body",
        [helper.make_tensor_value_info(n, t, []) for n, t in (("li", 7), ("lc", 9), ("ls", 7))],
        [helper.make_tensor_value_info(n, t, []) for n, t in (("ld", 9), ("lt", 7))],
    )
    return [helper.make_node("Loop", ["bomb_s", "", "bomb_1"], ["bomb_loop"], body=body)]


def _one(op: str, *inputs: str, **attrs: Any) -> list[NodeProto]:
    return [helper.make_node(op, list(inputs), [f"bomb_{op}"], **attrs)]


BOMBS: dict[str, Any] = {
    "concat": _doubled,
    "loop": _looped,
    "constant": lambda size: _one("ConstantOfShape", "bomb_n"),
    "expand": lambda size: _one("Expand", "bomb_1", "bomb_n"),
    "tile": lambda size: _one("Tile", "bomb_one", "bomb_n"),
    "range": lambda size: _one("Range", "bomb_0", "bomb_s", "bomb_1"),
    "one hot": lambda size: _one("OneHot", "bomb_one", "bomb_s", "bomb_2"),
    "split": lambda size: [
        helper.make_node("Range", ["bomb_0", "bomb_s", "bomb_1"], ["bomb_range"]),
        helper.make_node("SplitToSequence", ["bomb_range"], ["bomb_parts"], keepdims=0),
        helper.make_node("SequenceLength", ["bomb_parts"], ["bomb_length"]),
    ],
    "eye": lambda size: [
        helper.make_node("Concat", ["bomb_n", "bomb_n"], ["bomb_square"], axis=0),
        helper.make_node("ConstantOfShape", ["bomb_square"], ["bomb_zeros"]),
        helper.make_node("EyeLike", ["bomb_zeros"], ["bomb_eye"], dtype=7),
    ],
    "random": lambda size: _one("RandomNormal", shape=[size, 4]),
    "window": lambda size: _one("HannWindow", "bomb_s"),
    "pad": lambda size: [
        helper.make_node("Concat", ["bomb_n", "bomb_n"], ["bomb_pads"], axis=0),
        helper.make_node("Pad", ["bomb_2", "bomb_pads"], ["bomb_padded"]),
    ],
    "bits": lambda size: _one("BitShift", "bomb_n", "bomb_n", direction="LEFT"),
    "mel": lambda size: _one("MelWeightMatrix", "bomb_s", "bomb_s", "bomb_s", "bomb_0", "bomb_1"),
    "reshape": lambda size: _one("Reshape", "bomb_2", "bomb_n"),
    "power": lambda size: _one("Pow", "bomb_n", "bomb_n"),
}
