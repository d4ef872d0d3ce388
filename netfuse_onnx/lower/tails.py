"""The tails of a family (match/tails.py): each is emitted for its model alone, on that model's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import PER_MODEL, SHARED, Layout
from netfuse_onnx.types import Correspondence, Graph, Node, ValueType

Fetch = Callable[[str, Layout], Held]
Once = Callable[[Node, Mapping[str, Any], Sequence[Any]], list[Tensor]]


def emit_tails(corr: Correspondence, emit: Emitter, fetch: Fetch, once: Once) -> list[list[Tensor]]:
    """Emit all tails. Return the outputs of each model, in the order of its edge."""
    return [
        _Tail(model, tail, emit, fetch).run(once, corr.names[model]) for model, tail in enumerate(corr.tails)
    ]


class _Tail:
    """The tail of one model while it is emitted."""

    def __init__(self, model: int, tail: Graph, emit: Emitter, fetch: Fetch) -> None:
        self.model, self.tail, self.emit, self.fetch = model, tail, emit, fetch
        self.made: dict[str, Tensor] = {}

    def run(self, once: Once, model: str) -> list[Tensor]:
        for index, node in enumerate(self.tail.nodes):
            ins = [self._value(name) if name else None for name in node.reads]
            self.emit.scope = f"{model}/{node.name or f'{node.op}_{index}'}"
            outputs = once(node, node.attrs, ins)
            for name, tensor in zip(node.outputs, outputs, strict=True):
                if name:
                    self.emit.claim(tensor, name)
                    self.emit.note(tensor, self.tail.types.get(name, ValueType()))
                    self.made[name] = tensor
        return [self._value(name) for name in self.tail.outputs]

    def _value(self, name: str) -> Tensor:
        if name in self.made:
            return self.made[name]
        held = self.emit.weight(name, SHARED) if name in self.tail.weights else self.fetch(name, PER_MODEL)
        return held[self.model if len(held) > 1 else 0] if isinstance(held, tuple) else held
