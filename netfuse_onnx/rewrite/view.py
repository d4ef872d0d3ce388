"""A correspondence as a pass reads it: who makes and reads each value, and new nodes in the place of old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from netfuse_onnx.storage.weights import array, nbytes
from netfuse_onnx.types import Correspondence, Dim, Node, ValueType, Weight

SMALL = 1 << 20
"""Weights up to so many bytes are read."""


class View:
    """Who makes and who reads each value of the main graph."""

    def __init__(self, corr: Correspondence) -> None:
        self.corr, self.nodes = corr, corr.graph.nodes
        self.weights = dict(corr.weights)
        self._noted: dict[str, ValueType] = {}
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.outputs if name}
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in dict.fromkeys(filter(None, node.reads)):
                self.readers.setdefault(name, []).append(i)
        self._names = {*self.producers, *self.weights, *corr.graph.inputs}
        self._put: dict[int, list[Node]] = {}

    @property
    def opset(self) -> int:
        return self.corr.opsets.get("", 1)

    # ------------------------------------------------------------------ values

    def type(self, name: str) -> ValueType:
        """The type of a value. Nothing is known of the dims of one whose shape differs between the models."""
        kind = self._noted.get(name) or self.corr.type_of(name)
        return replace(kind, dims=None) if name in self.corr.ragged else kind

    def dims(self, name: str) -> tuple[Dim, ...] | None:
        return self.type(name).dims

    def rank(self, name: str) -> int | None:
        return self.type(name).rank

    def producer(self, name: str) -> Node | None:
        """The node that makes a value, if its attributes are those of all models."""
        i = self.producers.get(name)
        return None if i is None or i in self.corr.attrs else self.nodes[i]

    def chain(self, name: str, ops: Sequence[str]) -> tuple[Node, ...] | None:
        """The nodes of these operators, each reading the one before as its first input, that make a value."""
        found: list[Node] = []
        for op in reversed(ops):
            node = self.producer(name)
            if node is None or node.key != op:
                return None
            found.insert(0, node)
            name = node.inputs[0]
        return tuple(found)

    def read_once(self, name: str) -> bool:
        """True for a value that one node alone reads, once."""
        readers = self.readers.get(name, ())
        once = len(readers) == 1 and self.nodes[readers[0]].reads.count(name) == 1
        return once and name not in self.corr.graph.outputs

    def only_reader(self, name: str, op: str) -> Node | None:
        """The node of this operator that alone reads a value, once."""
        if not self.read_once(name):
            return None
        i = self.readers[name][0]
        return self.nodes[i] if self.nodes[i].key == op and i not in self.corr.attrs else None

    def values(self, name: str) -> np.ndarray[Any, Any] | None:
        """The elements of a small weight in all models, stacked; None for any other value."""
        parts = self.weights.get(name, ())
        if not parts or any(isinstance(part.data, tuple) or nbytes(part) > SMALL for part in parts):
            return None
        return np.stack([array(part) for part in parts])

    def number(self, name: str) -> float | None:
        """The number that a weight of one element holds in all models; None for any other value."""
        parts = self.weights.get(name, ())
        if len(parts) != 1 or parts[0].shape not in ((), (1,)):
            return None
        values = self.values(name)
        return None if values is None else float(values.reshape(-1)[0])

    # ------------------------------------------------------------------ new nodes

    def fresh(self, name: str) -> str:
        """A name that nothing carries yet."""
        unique, count = name, 2
        while unique in self._names:
            unique, count = f"{name}-{count}", count + 1
        self._names.add(unique)
        return unique

    def note(self, name: str, kind: ValueType) -> None:
        """Remember the type of a new value while the pass runs."""
        self._noted[name] = kind

    def constant(self, values: Any, dtype: Any, name: str) -> str:
        """The name of a new constant."""
        data = np.asarray(values, dtype)
        name = self.fresh(name)
        kind = helper.np_dtype_to_tensor_dtype(data.dtype)
        self.weights[name] = (Weight(kind, data.shape, data.tobytes()),)
        return name

    def reshaped(self, weight: str, shape: tuple[int, ...]) -> str:
        """The name of a new weight: the same bytes in another shape."""
        name = self.fresh(f"{weight}/{'x'.join(map(str, shape))}")
        self.weights[name] = tuple(replace(part, shape=shape) for part in self.weights[weight])
        return name

    def reshape(self, x: str, target: Sequence[int], result: str) -> Node:
        """A Reshape to a constant shape."""
        shape = self.constant(list(target), np.int64, f"{result}/shape")
        return Node("Reshape", "", f"{result}/reshape", (x, shape), (result,), {})

    def put(self, place: int, nodes: list[Node]) -> None:
        """Put nodes in the place of an old one, whose outputs one of them makes."""
        self._put[place] = nodes

    def replaced(self) -> Correspondence:
        """The correspondence with the new nodes, and nothing that nobody reads."""
        corr = self.corr
        listed = [(i, node) for i, old in enumerate(self.nodes) for node in self._put.get(i, [old])]
        read, kept = set(corr.graph.outputs), list[tuple[int, Node]]()
        for i, node in reversed(listed):
            if not read.isdisjoint(node.outputs):
                kept.insert(0, (i, node))
                read.update(node.reads)
        weights = {name: parts for name, parts in self.weights.items() if name in read}
        first = {name: parts[0] for name, parts in weights.items()}
        nodes = tuple(node for _, node in kept)
        attrs = {new: corr.attrs[i] for new, (i, node) in enumerate(kept) if i in corr.attrs}
        graph = replace(corr.graph, nodes=nodes, weights=first)
        return replace(corr, graph=graph, weights=weights, attrs=attrs)
