"""The frozen values that travel: load -> match -> rewrite -> plan -> lower -> write -> verify.

Nothing here computes anything expensive or imports onnx at run time, so every stage may import it. Shapes
are per model unless a name says `merged`; sizes are bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

    from netfuse_onnx.factored import LowRank
    from netfuse_onnx.layouts import Layout
    from netfuse_onnx.original import Original
    from netfuse_onnx.plan.nested import NestedPlan
    from netfuse_onnx.predicted import Prediction
    from netfuse_onnx.respelling import Respelled, Simplified
    from netfuse_onnx.rules import Option, Site

# --------------------------------------------------------------------------- weights


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes in a file: raw little-endian tensor data exactly as ONNX's raw_data holds it."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Weight:
    """One constant tensor of one source: type, per-model shape, and where its bytes lie.

    `data` is an Extent for anything large and `bytes` (raw_data) for small tensors. A string tensor,
    which has no raw form, keeps a tuple of its elements. Where an earlier model of a family holds the same
    bits, `data` is that model's, and `own_data` is the model's own, which the proof of the bytes reads.
    """

    dtype: int  # onnx.TensorProto.DataType
    shape: tuple[int, ...]
    data: Extent | bytes | tuple[bytes, ...]
    own_data: Extent | bytes | tuple[bytes, ...] | None = field(default=None, compare=False)

    @property
    def own(self) -> Weight:
        """Return the weight as the model's own file has it."""
        return self if self.own_data is None else Weight(self.dtype, self.shape, self.own_data)


# --------------------------------------------------------------------------- graphs

Dim = int | str | None
"""A static size, a symbol, or unknown."""


@dataclass(frozen=True, slots=True)
class ValueType:
    """Element type and per-model dims of a tensor value. `dims` is None where the rank is unknown;
    `dtype` is 0 where the type is. `proto` is set for what is not a tensor (sequence, optional, map)."""

    dtype: int = 0
    dims: tuple[Dim, ...] | None = None
    proto: onnx.TypeProto | None = None

    @property
    def rank(self) -> int | None:
        return None if self.dims is None else len(self.dims)


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `inputs` may hold '' for an absent optional input.

    `attrs` maps names to plain Python values (int, float, bytes, lists of them, TensorProto) and, for
    bodies, to GraphProto. `captured` lists, in order of first use, the outer values that the bodies
    read: bodies carry no weights of their own, load hoists those to the main graph.
    """

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    captured: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`Conv`, or `com.microsoft.FusedConv` outside the default domain."""
        return f"{self.domain}.{self.op}" if self.domain else self.op

    @property
    def reads(self) -> tuple[str, ...]:
        """Every value the node depends on: inputs, then captured ones."""
        return self.inputs + self.captured


@dataclass(frozen=True, slots=True)
class Graph:
    """A main graph in normal form: functions inlined, nodes sorted, no Identity, no Constant nodes, no
    dead nodes; every constant is a weight of the main graph."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, Weight]
    types: Mapping[str, ValueType]  # inputs and outputs always; the rest where inferred

    def type_of(self, name: str) -> ValueType:
        """The type of a value or a weight, as far as it is known."""
        weight = self.weights.get(name)
        return ValueType(weight.dtype, weight.shape) if weight else self.types.get(name, ValueType())


@dataclass(frozen=True, slots=True)
class Producer:
    """The tool that wrote a file, as the file names it. `exporter`: dynamo, TorchScript, or '' if unknown."""

    name: str = ""
    version: str = ""
    exporter: str = ""

    def __str__(self) -> str:
        return ", ".join(filter(None, (f"{self.name} {self.version}".strip(), self.exporter)))


@dataclass(frozen=True, slots=True)
class Change:
    """The way in which an adapter changes one weight of its base: it becomes `replaced`, or the sum of itself
    and `scale` times b a. These are as in the adapter's file: matrices [r, in] and [out, r], or filters
    [r, C, k, k] and [O, r, 1, 1]. `transposed`: the base stores the transpose of that. `module` is the
    adapter's name of the place, `node` and `evidence` say where it is and what tells that."""

    module: str
    weight: str
    transposed: bool
    node: str
    evidence: str
    a: Weight | None = None
    b: Weight | None = None
    scale: float = 1.0
    replaced: Weight | None = None


@dataclass(frozen=True, slots=True)
class Adapted:
    """An adapter as a model: the path of its base, its own files, the changes, and what they do not keep."""

    base: str
    files: tuple[str, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One input model: its normal form, and what else of the file the merged model must carry. `adapted` is
    set for an adapter with its base; `path` is that of the adapter. `original` is set for a model of a merged
    file: `path` is that of a graph whose weights lie there."""

    path: str
    graph: Graph
    opsets: Mapping[str, int]  # domain ('' for ai.onnx) -> version
    ir_version: int
    metadata: Mapping[str, str]
    files: tuple[str, ...]  # every file read: the model, then external data
    node_count: int = 0  # non-trivial nodes of the file as it stands (all but Constant and Identity)
    producer: Producer = field(default_factory=Producer)
    adapted: Adapted | None = None
    original: Original | None = None
    simplified: Simplified | None = None

    def with_graph(self, **changes: Any) -> Source:
        """Return the source with these fields of its graph changed."""
        return replace(self, graph=replace(self.graph, **changes))


# --------------------------------------------------------------------------- match


class Ran(enum.StrEnum):
    """The answer of ONNX Runtime, on which a plan depends, where inference could not tell a rank."""

    NOTHING = "nothing"
    TOLD = "told"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Edge:
    """The inputs and outputs of one model: the first model's name of each -> the model's own."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Correspondence:
    """N equivalent sources, expressed in the names of the first. `sources` have one opset, and one spelling
    where the files differ; `loaded` are the same models as their files have them. `weights[v]` has one entry
    when the tensor is bit-identical in all models, else N entries in model order. `attrs[i]` (--partial): for
    node i, one attribute mapping per model. `ragged` are values whose shape differs between the models by
    construction (--partial), `least` the smallest size that each of their axes has in any model, where all
    sizes are known. `declared` are the types that outputs of the merged model may declare (load/claims.py).
    `believed` are types of values that hold in every run (rewrite/believed.py). `warnings` and `differences`
    (--partial) are sentences for the user: where merged inputs are narrower than a source's, where the
    sources are not one architecture. `ran`: what ONNX Runtime was asked. `edges`: each model's own names,
    none where all have the first one's. `own_names`: the merged model keeps them; files of old versions have
    the first model's names for all. `rows`: the inputs whose batch is bound to 1 (rewrite/per_row.py).
    `combined`: the outputs that are given once, and how they combine all models' values: mean, sum or vote.
    `unmoved`: weights keep the order of the sources (emit/stored_once.py). `portable`: the merged file keeps
    to what other runtimes run, too (plan/refusals.py).
    `respelled`: what had to become one spelling. `tails` (--partial): where only the first part of the graphs
    is common, what each model alone computes from there; `graph` is the common part, its outputs are what
    tails read, and the outputs of the models are those of the tails, by the names in `edges`.
    """

    sources: tuple[Source, ...]
    names: tuple[str, ...]
    graph: Graph  # of the first source, with inferred types
    weights: Mapping[str, tuple[Weight, ...]]
    opsets: Mapping[str, int]
    ir_version: int
    attrs: Mapping[int, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    ragged: frozenset[str] = frozenset()
    declared: Mapping[str, ValueType] = field(default_factory=dict)
    believed: Mapping[str, ValueType] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    ran: Ran = Ran.NOTHING
    least: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()
    own_names: bool = True
    rows: frozenset[str] = frozenset()
    loaded: tuple[Source, ...] = ()
    low_rank: LowRank | None = None
    respelled: Respelled | None = None
    combined: Mapping[str, str] = field(default_factory=dict)
    unmoved: bool = False
    tails: tuple[Graph, ...] = ()
    portable: bool = False

    @classmethod
    def of_one(cls, source: Source) -> Correspondence:
        """Return the family of one source."""
        weights = {name: (weight,) for name, weight in source.graph.weights.items()}
        return cls((source,), ("",), source.graph, weights, source.opsets, source.ir_version)

    @property
    def models(self) -> int:
        return len(self.sources)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the models, by the names of the first model that has each."""
        if not self.tails:
            return self.graph.outputs
        return tuple(dict.fromkeys(name for edge in self.edges for name in edge.outputs))

    @property
    def every_weight(self) -> Mapping[str, tuple[Weight, ...]]:
        """The weights of the common graph, and those that only one model's tail has."""
        own = {name: (weight,) for tail in self.tails for name, weight in tail.weights.items()}
        return {**self.weights, **own} if own else self.weights

    def type_of(self, name: str) -> ValueType:
        """The per-model type of a value or weight, as far as a plan may believe it."""
        if parts := self.weights.get(name):
            return ValueType(parts[0].dtype, parts[0].shape)
        return self.believed.get(name) or self.graph.types.get(name, ValueType())

    def edge_type(self, name: str) -> ValueType:
        """The type of a graph input or output of one model, as it is declared."""
        return self.declared.get(name) or self.graph.types[name]

    def edge(self, model: int) -> Edge:
        """The names of a model's inputs and outputs, by the first model's."""
        if self.edges:
            return self.edges[model]
        first = self.sources[0].graph
        return Edge({name: name for name in first.inputs}, {name: name for name in first.outputs})


# --------------------------------------------------------------------------- plan


class Became(enum.StrEnum):
    """The outcomes of lowering a node, as `inspect` shows them."""

    BATCHED = "batched"
    GROUPED = "grouped"
    SHARED = "shared"
    REPLICATED = "replicated"


@dataclass(frozen=True, slots=True)
class Choice:
    """The row that tells a lowering from others of its node: what became of it, the rule, the layouts."""

    became: str
    rule: str = ""
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()

    def __str__(self) -> str:
        layouts = f"{', '.join(self.takes)} -> {', '.join(self.gives)}"
        return f"{self.became}{f' by {self.rule}' if self.rule else ''} ({layouts})"


@dataclass(frozen=True, slots=True)
class Lowering:
    """One way to lower a node. `site` is the node as its rules see it, one object for all ways. `option` is
    set where it runs once on the values of all models."""

    became: Became
    takes: tuple[Layout | None, ...]
    gives: tuple[Layout, ...]
    site: Site
    rule: str = ""
    option: Option | NestedPlan | None = None
    reason: str = ""

    @property
    def choice(self) -> Choice:
        """The row of this lowering, in the words that a report shows."""
        takes = tuple(str(layout or "unread") for layout in self.takes)
        return Choice(str(self.became), self.rule, takes, tuple(map(str, self.gives)))


@dataclass(frozen=True, slots=True)
class Plan:
    """A lowering per node, by its index. `ragged`: graph outputs whose shape may differ between models;
    `provider`: that of the target, '' where none is named."""

    lowerings: tuple[Lowering, ...]
    cost: float
    exact: bool
    notes: tuple[str, ...] = ()
    prediction: Prediction | None = None
    ragged: frozenset[str] = frozenset()
    provider: str = ""
