"""The values inside a Gelu that is written out: ONNX Runtime makes one kernel of its operators."""

from __future__ import annotations

from collections.abc import Iterator

from netfuse_onnx.types import Graph, Node


def absorbed(graph: Graph) -> frozenset[str]:
    """The values inside each `x * (1 + erf(x / sqrt(2))) * 0.5`, its factors in any order. The result of the
    last node is none of them."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    readers = dict[str, list[Node]]()
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def only_reader(node: Node | None, op: str) -> Node | None:
        found = readers.get(node.outputs[0], []) if node is not None else []
        return found[0] if len(found) == 1 and found[0].op == op else None

    def inside() -> Iterator[Node]:
        for erf in graph.nodes:
            scaled = makers.get(erf.inputs[0]) if erf.op == "Erf" else None
            added = only_reader(erf, "Add")
            product = only_reader(added, "Mul")
            if scaled is None or scaled.op not in ("Div", "Mul") or added is None or product is None:
                continue
            last = only_reader(product, "Mul")
            others = [makers[name] for name in product.inputs if name in makers and makers[name] is not added]
            if last is not None and {*product.inputs, *last.inputs} & {*scaled.inputs}:
                yield from (scaled, erf, added, product)
            elif others and others[0].op == "Mul" and {*others[0].inputs} & {*scaled.inputs}:
                yield from (scaled, erf, added, others[0])

    return frozenset(node.outputs[0] for node in inside())
