"""A graph raised to a newer opset, operator by operator, bodies included.

Each version of an operator is one step from the version before it. Steps that change how an operator is
written are in steps.py; all others up to opset REVIEWED only add types, or attributes whose default is what
the operator did before. Where a step is unknown or can't be taken, Unconvertible says why: nothing is
guessed. Operators of other domains stay as they are.
"""

from __future__ import annotations

import bisect
import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, defs, helper, numpy_helper

from netfuse_onnx.errors import FileFault
from netfuse_onnx.load import rebuild
from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer, inferred
from netfuse_onnx.load.normal import normalise
from netfuse_onnx.ops import kinds, schemas, walk
from netfuse_onnx.types import Dim, Source, ValueType

REVIEWED = 26
"""The newest opset whose changes were read."""


class Unconvertible(Exception):
    """A source that stays at its opset. The message completes 'because'."""


class UnknownStep(Unconvertible):
    """The step was not reviewed here; another converter may know it."""


Step = Callable[["Lift", NodeProto], None]
"""Emits what stands for a node in the next version of its operator."""

STEPS: dict[tuple[str, int], Step] = {}
"""(operator, version) -> the step to that version from the one before."""


def step(since: int, *ops: str) -> Callable[[Step], Step]:
    """Register a step for these operators."""

    def register(function: Step) -> Step:
        for op in ops:
            STEPS[op, since] = function
        return function

    return register


class Lift:
    """Raises the nodes of a source's graph. After run(), `model` is the raised one."""

    def __init__(self, source: Source, goal: int, *, guessing: bool = False) -> None:
        """With `guessing`, steps may assume the shapes that they need; the types are right all the same."""
        self.source, self.now, self.goal = source, source.opsets.get("", 0), goal
        self.guessing = guessing
        self.model = rebuild.model(source)
        self._names = set(_names(self.model.graph))
        self._made: list[NodeProto] = []
        self._stored = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def run(self) -> None:
        """Raise the graph. Raises Unconvertible; the model is of no use then."""
        if self.goal < self.now:
            raise Unconvertible(f"{self.source.path} is of opset {self.now}, which is newer")
        self.graph(self.model.graph, self.now)
        for entry in self.model.opset_import:
            if not schemas.canonical(entry.domain):
                entry.version = self.goal

    def graph(self, graph: GraphProto, at: int) -> None:
        """Raise the nodes of a graph that is written as of version `at`."""
        raised: list[NodeProto] = []
        for node in graph.node:
            for _, body in walk.bodies(node):
                self.graph(body, at)
            raised += [node] if schemas.canonical(node.domain) else self._node(node, at)
        del graph.node[:]
        graph.node.extend(raised)

    def _node(self, node: NodeProto, at: int) -> list[NodeProto]:
        """Return what stands for a node of version `at`."""
        versions = _all_versions().get(node.op_type, [])
        following = bisect.bisect_right(versions, at)
        if following == len(versions) or versions[following] > self.goal:
            return [node]
        to = versions[following]
        change = STEPS.get((node.op_type, to))
        if change is None:
            facts = schemas.facts(node.op_type, "", to)
            if to > REVIEWED or facts is None or facts.deprecated:
                raise UnknownStep(f"no conversion of {node.op_type} to opset {to} is known")
            return self._node(node, to)
        outer, self._made = self._made, []
        try:
            change(self, node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
            raise self.refused(node, "its attributes or inputs are not those of the operator") from fault
        emitted, self._made = self._made, outer
        return [each for one in emitted for each in self._node(one, to)]

    # ------------------------------------------------------------------ for the steps

    def refused(self, node: NodeProto, why: str) -> Unconvertible:
        """Return the error for a node that can't be raised."""
        name = node.name or next(iter(node.output), "")
        return Unconvertible(f"{node.op_type} '{name}' of {self.source.path} is of opset {self.now}: {why}")

    def emit(
        self, op: str, ins: Sequence[str], outs: Sequence[str] = (), name: str = "", **attrs: Any
    ) -> str:
        """Emit a node of the version of the step; return its first output."""
        outs = outs or [self.fresh(op)]
        self._made.append(helper.make_node(op, ins, outs, name, **attrs))
        return outs[0]

    def keep(self, node: NodeProto, ins: Sequence[str] | None = None, op: str = "", **changes: Any) -> None:
        """Emit the node with other inputs, operator or attributes; None removes an attribute."""
        result = copy.deepcopy(node)
        result.op_type = op or node.op_type
        if ins is not None:
            del result.input[:]
            result.input.extend(ins)
        for name, value in changes.items():
            for i, attribute in enumerate(result.attribute):
                if attribute.name == name:
                    del result.attribute[i]
                    break
            if value is not None:
                result.attribute.append(helper.make_attribute(name, value))
        self._made.append(result)

    def const(self, values: Any, dtype: Any = np.int64) -> str:
        """Emit a constant and return its name."""
        name = self.fresh("constant")
        self._stored[name] = tensor = numpy_helper.from_array(np.asarray(values, dtype), name)
        self._made.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def fresh(self, hint: str) -> str:
        """Return a name that is new in the model."""
        count = len(self._names)
        while f"{hint}__{count}" in self._names:
            count += 1
        self._names.add(f"{hint}__{count}")
        return f"{hint}__{count}"

    def values(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the values of a small stored tensor."""
        tensor = self._stored.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def numbers(self, name: str) -> Any:
        """Return the numpy type of the elements of a value; float32 where it is unknown."""
        dtype = self._types.get(name, ValueType()).dtype
        return helper.tensor_dtype_to_np_dtype(dtype) if dtype else np.float32

    def dims(self, name: str) -> tuple[Dim, ...] | None:
        """Return what is known of a shape. Inference at a newer opset tells more."""
        dims = self._types.get(name, ValueType()).dims
        return self._newer.get(name, ValueType()).dims if dims is None and not self.guessing else dims

    @functools.cached_property
    def _types(self) -> Mapping[str, ValueType]:
        """The types of all values, also in bodies, as far as they are known. Names are unique."""
        source = unclaimed(self.source)
        inner = dict(_shapes(inferred(source, {}) or rebuild.model(source).graph))
        typed = infer(source).graph.types
        return {
            **inner,
            **{name: value_type for name, value_type in typed.items() if value_type.dims is not None},
        }

    @functools.cached_property
    def _newer(self) -> Mapping[str, ValueType]:
        """The types of all values at the goal's opset."""
        lift = Lift(self.source, self.goal, guessing=True)
        try:
            lift.run()
            opsets = {**self.source.opsets, "": self.goal}
            graph = normalise(lift.model.graph, self.source.path, opsets)
        except (FileFault, Unconvertible):
            return {}
        return infer(unclaimed(replace(self.source, graph=graph, opsets=opsets))).graph.types

    def rank(self, name: str) -> int | None:
        dims = self.dims(name)
        return None if dims is None else len(dims)


def attr(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return a plain attribute value."""
    for attribute in node.attribute:
        if attribute.name == name:
            return schemas.value_of(attribute)
    return default


@functools.cache
def _all_versions() -> Mapping[str, list[int]]:
    """Return the versions of all operators of the default domain, in order."""
    versions: dict[str, list[int]] = {}
    for schema in defs.get_all_schemas_with_history():
        if not schema.domain:
            bisect.insort(versions.setdefault(schema.name, []), schema.since_version)
    for op, end in schemas.EXPERIMENTAL.items():
        versions.setdefault(op, [1, end])
    return versions


def _names(graph: GraphProto) -> Iterator[str]:
    for inner in walk.graphs(graph):
        for group in (inner.input, inner.output, inner.initializer):
            yield from (value.name for value in group)
        for node in inner.node:
            yield from (*node.input, *node.output)


def _shapes(graph: GraphProto) -> Iterator[tuple[str, ValueType]]:
    for inner in walk.graphs(graph):
        for info in (*inner.output, *inner.value_info, *inner.input):
            yield info.name, kinds.of_proto(info.type)
        for tensor in inner.initializer:
            yield tensor.name, ValueType(tensor.data_type, tuple(tensor.dims))
