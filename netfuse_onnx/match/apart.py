"""Sources that match never pairs, told without matching them."""

from __future__ import annotations

from collections import Counter

from netfuse_onnx.load import opset
from netfuse_onnx.types import Source


def surely_apart(one: Source, other: Source) -> bool:
    """True for two sources with other operators, which no conversion of opsets changes: match pairs operator
    with operator. False says nothing."""
    settled = one.opsets == other.opsets and one.opsets.get("", 0) >= opset.TARGET
    return settled and _operators(one) != _operators(other)


def _operators(source: Source) -> Counter[str]:
    return Counter(node.key for node in source.graph.nodes)
