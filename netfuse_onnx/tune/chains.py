"""Chains: nodes that ONNX Runtime may make one kernel of, so that they are measured together.

A chain is a product, a convolution or a sum, and the elementwise operators and normalisations behind it, as
far as nothing else reads the values between them. Its time in one layout is divided between its nodes, so
that the prices of a plan add up to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.rules import Site
from netfuse_onnx.tune.cases import Member
from netfuse_onnx.types import Graph, Lowering, Node

HEADS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Add", f"{MICROSOFT}.FusedConv"})
FOLLOWERS = frozenset(
    {
        "Add", "BatchNormalization", "Clip", "Div", "Erf", "Gelu", "HardSigmoid", "LayerNormalization",
        "LeakyRelu", "Mul", "Relu", "Sigmoid", "Tanh", f"{MICROSOFT}.FastGelu", f"{MICROSOFT}.Gelu",
    }
)  # fmt: skip
"""The operators that the optimisers of ONNX Runtime 1.31 put into the kernel before, alone or together."""
LONGEST = 8


@dataclass(frozen=True)
class Chain:
    """Nodes of a graph by their places, in order. `ends`: how many of them, from the first on, are a chain of
    their own."""

    nodes: tuple[int, ...]
    ends: tuple[int, ...]


def chains(graph: Graph, stored: Set[str]) -> Iterator[Chain]:
    """The chains of a graph that have two nodes or more; no node is in two of them. `stored`: its weights."""
    readers = dict[str, list[int]]()
    for k, node in enumerate(graph.nodes):
        for name in dict.fromkeys(node.reads):
            readers.setdefault(name, []).append(k)
    taken = set[int]()
    for k, node in enumerate(graph.nodes):
        if k not in taken and node.key in HEADS:
            chain = _grown(graph, k, readers, taken, stored)
            if len(chain.nodes) > 1:
                taken.update(chain.nodes)
                yield chain


def _grown(
    graph: Graph, head: int, readers: Mapping[str, Sequence[int]], taken: Set[int], stored: Set[str]
) -> Chain:
    region, ends = [head], [1]
    made = set(graph.nodes[head].outputs)
    while len(region) < LONGEST:
        behind = {k for name in made for k in readers.get(name, ()) if k not in region}
        if not behind:
            break
        following = min(behind)
        node = graph.nodes[following]
        if following in taken or not _follows(node, made, stored):
            break
        region.append(following)
        made.update(node.outputs)
        if _is_closed(graph, region, readers):
            ends.append(len(region))
    return Chain(tuple(region[: ends[-1]]), tuple(ends))


def _follows(node: Node, made: Set[str], stored: Set[str]) -> bool:
    """True for a node that may go into the kernel before. A sum may read one value of another kernel."""
    others = [name for name in node.reads if name and name not in made and name not in stored]
    return node.key in FOLLOWERS and len(others) <= (node.key == "Add")


def _is_closed(graph: Graph, region: Sequence[int], readers: Mapping[str, Sequence[int]]) -> bool:
    """True where nothing outside reads a value of the region but that of its last node."""
    for k in region[:-1]:
        for name in graph.nodes[k].outputs:
            if name in graph.outputs or any(reader not in region for reader in readers.get(name, ())):
                return False
    return True


def members(
    chain: Chain, head: Lowering, options: Sequence[Sequence[Lowering]], sites: Sequence[Site]
) -> tuple[Member, ...]:
    """The nodes of a chain in one layout: that which `head`, a lowering of its first node, gives. The chain
    ends where a node has no lowering that takes what is there."""
    chosen = [Member(head, sites[chain.nodes[0]])]
    layouts = dict(zip(head.site.node.outputs, head.gives, strict=True))
    for k in chain.nodes[1:]:
        fitting = [offer for offer in options[k] if _takes(offer, layouts)]
        if not fitting:
            break
        best = min(fitting, key=lambda offer: offer.gives[0] not in layouts.values())
        chosen.append(Member(best, sites[k]))
        layouts |= zip(best.site.node.outputs, best.gives, strict=True)
    length = max(end for end in chain.ends if end <= len(chosen))
    return tuple(chosen[:length])


def _takes(offer: Lowering, layouts: Mapping[str, object]) -> bool:
    pairs = zip(offer.site.node.inputs, offer.takes, strict=False)
    return all(layouts[name] == take for name, take in pairs if name in layouts)
