"""Random small models for property tests, other spellings of the same model, and single edits.

Every value is float32 of shape [2, 4], so any value fits any operand; operators that change the shape come
with the one that changes it back. `models()` draws a model, `disguised()` another file of the same
architecture with other weights, `edited()` a model that differs in one operator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

SHAPE = [2, 4]
UNARY = ("Relu", "Tanh", "Sigmoid", "Neg", "Abs")
BINARY = ("Add", "Mul", "Max", "Sub", "Min")
COMMUTATIVE = {"Add", "Mul", "Max", "Min"}
KINDS = ("unary", "binary", "binary", "scale", "matmul", "gemm", "leaky", "softmax", "concat", "split", "if")


class Builder:
    """A model as it grows. `values` are the results so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.values: list[str] = []

    def pick(self) -> str:
        return self.rng.choice(self.values)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(tensor(name, shape, self.rng))
        return name

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attrs: object) -> list[str]:
        name = f"n{len(self.nodes)}"
        outs = [f"v{len(self.nodes)}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outs, name=name, **attrs))
        return outs

    def grow(self, kind: str) -> None:
        """One more operator (or a few that belong together) on values drawn from what is there."""
        rng, x = self.rng, self.pick()
        if kind == "unary":
            out = self.add(rng.choice(UNARY), [x])
        elif kind == "binary":
            out = self.add(rng.choice(BINARY), [x, self.pick()])
        elif kind == "scale":
            out = self.add(rng.choice(("Mul", "Add")), rng.sample([x, self.weight(4)], 2))
        elif kind == "matmul":
            out = self.add("MatMul", [x, self.weight(4, 4)])
        elif kind == "gemm":
            bias = [self.weight(4)] if rng.random() < 0.5 else []
            out = self.add("Gemm", [x, self.weight(4, 4), *bias], transB=rng.randrange(2))
        elif kind == "leaky":
            out = self.add("LeakyRelu", [x], alpha=rng.choice((0.01, 0.125, 0.25)))
        elif kind == "softmax":
            out = self.add("Softmax", [x], axis=rng.choice((-1, -2)))
        elif kind == "concat":
            (wide,) = self.add("Concat", [x, self.pick()], axis=1)
            out = self.add("MatMul", [wide, self.weight(8, 4)])
        elif kind == "split":
            left, right = self.add("Split", [x], 2, axis=1)
            out = self.add("Concat", [right, left], axis=1)
        else:
            out = self.add("If", ["flag"], then_branch=self.body(x, "t"), else_branch=self.body(x, "e"))
        self.values += out

    def body(self, x: str, name: str) -> GraphProto:
        """A branch that reads an outer value and has a constant of its own."""
        prefix = f"b{len(self.nodes)}{name}"
        local = tensor(f"{prefix}w", (4,), self.rng)
        result = f"{prefix}r"
        nodes = [
            helper.make_node("Constant", [], [local.name], value=local),
            helper.make_node(self.rng.choice(("Add", "Mul")), [x, local.name], [f"{prefix}s"]),
            helper.make_node(self.rng.choice(UNARY), [f"{prefix}s"], [result], name=f"{prefix}n"),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(result, 1, SHAPE)])

    def model(self, inputs: list[str], outputs: list[str]) -> ModelProto:
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in inputs]
        infos.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in outputs]
        graph = helper.make_graph(self.nodes, "random", infos, results, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensor(name: str, shape: tuple[int, ...], rng: random.Random) -> TensorProto:
    values = np.array([rng.uniform(-1, 1) for _ in range(int(np.prod(shape)))], np.float32)
    return numpy_helper.from_array(values.reshape(shape), name)


@st.composite
def models(draw: st.DrawFn, most: int = 10) -> ModelProto:
    """A random model of one or two outputs and up to `most` steps; twin branches are common."""
    rng = draw(st.randoms(use_true_random=False))
    builder = Builder(rng)
    inputs = ["x", "y"][: rng.randint(1, 2)]
    builder.values += inputs
    for _ in range(rng.randint(1, most)):
        kind = rng.choice(KINDS)
        builder.grow(kind)
        if rng.random() < 0.25:  # the same again, on the same value: branches that look alike
            twin = builder.nodes[-1]
            if twin.op_type in ("MatMul", "Gemm") and twin.input[0] in builder.values:
                ins = [twin.input[0], *(builder.weight(*shape_of(builder, n)) for n in twin.input[1:])]
                builder.values += builder.add(twin.op_type, ins, **attributes(twin))
    made = [name for name in builder.values if name not in inputs]
    outputs = list(dict.fromkeys([made[-1], rng.choice(made)]))
    return builder.model(inputs, outputs)


def shape_of(builder: Builder, name: str) -> tuple[int, ...]:
    return tuple(next(t for t in builder.weights if t.name == name).dims)


def attributes(node: NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


# --------------------------------------------------------------------------- another spelling


def disguised(model: ModelProto, rng: random.Random, *, interface: bool = False) -> ModelProto:
    """The same architecture in another file: other weights, names, node order, operand order, Constants
    for initializers, Identities, a dead node. `interface` renames inputs and outputs as well."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for weight in graph.initializer:
        values = numpy_helper.to_array(tensor(weight.name, tuple(weight.dims), rng))
        as_was = values.astype(helper.tensor_dtype_to_np_dtype(weight.data_type))
        weight.CopyFrom(numpy_helper.from_array(as_was, weight.name))
    for node in graph.node:
        if node.op_type in COMMUTATIVE and rng.random() < 0.5:
            swapped = list(reversed(node.input))
            node.ClearField("input")
            node.input.extend(swapped)
        for body in bodies(node):
            for inner in body.node:
                if inner.op_type == "Constant":
                    value = inner.attribute[0].t
                    value.CopyFrom(tensor(value.name, tuple(value.dims), rng))
    _identities(graph, rng)
    _constants(graph, rng)
    if rng.random() < 0.5:
        graph.node.add(op_type="Tanh", input=[graph.input[0].name], output=["dead"], name="dead")
    shuffled(graph, rng)
    kept = set() if interface else {v.name for v in (*graph.input, *graph.output)}
    renamed(graph, lambda name: name if name in kept or not name else f"{name[::-1]}/'\"{len(name)} é")
    return result


def _identities(graph: GraphProto, rng: random.Random) -> None:
    for i, node in enumerate(list(graph.node)):
        for k, name in enumerate(node.input):
            if name and rng.random() < 0.2:
                graph.node.add(op_type="Identity", input=[name], output=[f"id{i}.{k}"], name=f"id{i}.{k}")
                node.input[k] = f"id{i}.{k}"


def _constants(graph: GraphProto, rng: random.Random) -> None:
    for weight in list(graph.initializer):
        if rng.random() < 0.5:
            graph.initializer.remove(weight)
            graph.node.append(helper.make_node("Constant", [], [weight.name], value=weight))


def shuffled(graph: GraphProto, rng: random.Random) -> None:
    """Another topological order."""
    known = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    rest, result = list(graph.node), []
    while rest:
        ready = [n for n in rest if set(reads(n)) <= known]
        node = rng.choice(ready)
        rest.remove(node)
        result.append(node)
        known.update(node.output)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in result]
    graph.ClearField("node")
    graph.node.extend(copies)


def reads(node: NodeProto) -> Iterator[str]:
    """Return the values that a node of the main graph depends on."""
    yield from (name for name in node.input if name)
    for body in bodies(node):
        local = {name for inner in body.node for name in inner.output}
        yield from (name for inner in body.node for name in inner.input if name and name not in local)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g


def renamed(graph: GraphProto, rename: Callable[[str], str]) -> None:
    """Gives every value and node another name."""
    for named in (*graph.input, *graph.output, *graph.initializer):
        named.name = rename(named.name)
    for node in graph.node:
        node.name = rename(node.name)
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = rename(name)
        for body in bodies(node):
            renamed(body, rename)


# --------------------------------------------------------------------------- edits


@dataclass(frozen=True)
class Edit:
    """A model that differs in one operator. `named`: one of these node names must be in the message."""

    model: ModelProto
    kind: str
    named: tuple[str, ...]


def edited(model: ModelProto, rng: random.Random) -> Edit | None:
    """One random edit of one live node; None where no edit fits."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    live = [graph.node[i] for i in sorted(_live(graph))]
    options = [(edit, node) for node in live for edit in EDITS if EDITS[edit](graph, node, None)]
    if not options:
        return None
    kind, node = rng.choice(options)
    before = [n.name for n in graph.node if set(n.output) & set(node.input)]
    EDITS[kind](graph, node, rng)
    after = [n.name for n in graph.node if set(n.output) & set(node.input)]
    named = (node.name, *before, *after) if kind == "rewire" else (node.name,)
    return Edit(result, kind, named)


def _live(graph: GraphProto) -> set[int]:
    needed = {v.name for v in graph.output}
    found = set()
    for i in range(len(graph.node) - 1, -1, -1):
        if needed & set(graph.node[i].output):
            found.add(i)
            needed.update(reads(graph.node[i]))
    return found


def _operator(graph: GraphProto, node: NodeProto, rng: random.Random | None) -> bool:
    group = next((g for g in (UNARY, BINARY) if node.op_type in g), ())
    if group and rng:
        node.op_type = rng.choice([op for op in group if op != node.op_type])
    return bool(group)


def _attribute(graph: GraphProto, node: NodeProto, rng: random.Random | None) -> bool:
    if node.op_type not in ("LeakyRelu", "Softmax", "Gemm"):
        return False
    if rng and node.op_type == "LeakyRelu":
        node.attribute[0].f += 1.0
    elif rng:
        node.attribute[0].i = {-1: -2, -2: -1, 0: 1, 1: 0}[node.attribute[0].i]
    return True


def _weights(graph: GraphProto, node: NodeProto) -> list[TensorProto]:
    return [t for t in graph.initializer if t.name in node.input]


def _weight_shape(graph: GraphProto, node: NodeProto, rng: random.Random | None) -> bool:
    found = _weights(graph, node)
    if found and rng:
        weight = rng.choice(found)
        weight.CopyFrom(tensor(weight.name, (*weight.dims[:-1], 5), rng))
    return bool(found)


def _weight_dtype(graph: GraphProto, node: NodeProto, rng: random.Random | None) -> bool:
    found = _weights(graph, node)
    if found and rng:
        weight = rng.choice(found)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype("f8"), weight.name))
    return bool(found)


def _input_count(graph: GraphProto, node: NodeProto, rng: random.Random | None) -> bool:
    fits = node.op_type in ("Concat", "Max", "Min") or (node.op_type == "Gemm" and len(node.input) == 3)
    if fits and rng:
        if node.op_type == "Gemm":
            del node.input[2]
        else:
            node.input.append(node.input[0])
    return fits


def _rewire(graph: GraphProto, node: NodeProto, rng: random.Random | None) -> bool:
    place = list(graph.node).index(node)
    made = {name: 1 for n in graph.node for name in n.output}
    ready = [v.name for v in graph.input if v.name != "flag"]
    ready += [n.output[0] for n in list(graph.node)[:place] if n.op_type not in ("Split", "Concat")]
    slots = [k for k, n in enumerate(node.input) if n in made or n in ready]
    options = [(k, name) for k in slots for name in ready if name != node.input[k]]
    if node.op_type in ("Split", "Concat", "If") or not options:
        return False
    if any(n.op_type == "Concat" and node.input[k] in n.output for n in graph.node for k in slots):
        return False
    if rng:
        k, name = rng.choice(options)
        node.input[k] = name
    return True


EDITS: dict[str, Callable[[GraphProto, NodeProto, random.Random | None], bool]] = {
    "operator": _operator,
    "attribute": _attribute,
    "weight shape": _weight_shape,
    "weight dtype": _weight_dtype,
    "input count": _input_count,
    "rewire": _rewire,
}
"""Each tells whether it can edit the node and, given a source of chance, does."""
