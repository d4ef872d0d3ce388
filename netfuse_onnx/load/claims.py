"""Types that a file declares of values that are not its inputs, and how far they are true.

ONNX Runtime refuses inputs that differ from their declaration. For outputs and inner values it only warns:
their sizes, ranks and symbols may be anything, and some files are wrong. So only what inference derives from
the inputs and the weights decides how models are merged. Ranks that inference can't tell are looked up in
runs of the model. So are declared sizes of outputs that inference can't tell: the merged file declares only
what was seen to be true. Where no run is possible, it repeats the source.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from onnx import GraphProto, TypeProto

from netfuse_onnx import expressions
from netfuse_onnx.load.infer import infer, unknown, varying
from netfuse_onnx.ops import kinds, walk
from netfuse_onnx.run import symbols
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a source, or what inference says of one: the sizes of the symbols of its inputs, and the
    types of the values that were asked for, all static."""

    sizes: Mapping[str, int]
    values: Mapping[str, ValueType]


Complete = Callable[[Source, tuple[str, ...]], Sequence[Run]]
"""Runs a source, if it can, with other sizes each time, and returns the types of the named values."""


def resolve_claims(source: Source, complete: Complete | None = None) -> tuple[Source, dict[str, ValueType]]:
    """Return the source with types that do not rest on claims, and the types that its outputs may declare."""
    graph = source.graph
    claims = _claims(graph)
    typed = infer(unclaimed(source))
    looped = [node.outputs[k] for node, k in _collected(graph) if _claims_more(node, k, typed)]
    inferred = _inferred(typed, claims)
    doubtful = (name for name in _doubtful(typed, claims) if not inferred or name not in inferred[0].values)
    unsteady = varying(typed)
    steady = (name for name in unknown(typed) if name not in unsteady)  # the rank is the same in all runs
    asked = tuple(dict.fromkeys((*steady, *doubtful, *looped)))
    runs = complete(typed, asked) if complete is not None and asked else ()
    if facts := _facts(typed, claims, runs):
        typed = infer(typed.with_graph(types={**typed.graph.types, **facts}))
    return replace(typed, graph=_true_bodies(typed, runs)), _declared(typed, claims, (*inferred, *runs))


def unclaimed(source: Source) -> Source:
    """Return the source without the shapes that its file declares of values that are not its inputs."""
    graph = source.graph
    bare = {name: _shapeless(declared) for name, declared in _claims(graph).items()}
    return source.with_graph(types={**graph.types, **bare})


def _claims(graph: Graph) -> dict[str, ValueType]:
    """Return the declared types of values that are not inputs."""
    return {name: declared for name, declared in graph.types.items() if name not in graph.inputs}


def _shapeless(declared: ValueType) -> ValueType:
    """Return the part of a declared type that ONNX Runtime checks: everything but shapes."""
    if declared.proto is None:
        return ValueType(declared.dtype)
    bare = copy.deepcopy(declared.proto)
    _clear(bare)
    return ValueType(proto=bare)


def _clear(proto: TypeProto) -> None:
    """Remove all shapes from a type."""
    which = proto.WhichOneof("value") or ""
    if which in ("tensor_type", "sparse_tensor_type"):
        getattr(proto, which).ClearField("shape")
    elif which in ("sequence_type", "optional_type"):
        _clear(getattr(proto, which).elem_type)
    elif which == "map_type":
        _clear(proto.map_type.value_type)


# --------------------------------------------------------------------------- bodies


def _collected(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Yield each Loop with the indices of its outputs that are collected over the iterations. Without
    iterations, ONNX Runtime gives them the declared sizes, which are worth keeping if all inputs are
    static."""
    dims = (dim for name in graph.inputs for dim in graph.types[name].dims or (None,))
    if all(isinstance(dim, int) for dim in dims):
        for node in graph.nodes:
            if node.op == "Loop" and not node.domain:
                first = max(0, len(node.inputs) - 2)
                yield from ((node, k) for k in range(first, len(node.outputs)) if node.outputs[k])


def _claims_more(node: Node, k: int, typed: Source) -> bool:
    """Return True where a Loop's body declares sizes of an output that inference can't tell."""
    claimed = kinds.of_proto(node.attrs["body"].output[k + 1].type).dims or ()
    derived = _confirmed_dims(node.outputs[k], typed, ())[1:]
    pairs = zip_longest(claimed, derived)
    return any(isinstance(size, int) and not isinstance(dim, int) for size, dim in pairs)


def _true_bodies(typed: Source, runs: Sequence[Run]) -> Graph:
    """Return the graph without the sizes that bodies declare of their outputs, except those of collected
    outputs that inference or a run confirms."""
    graph = typed.graph
    opened = {id(node): walk.with_bodies(node, _open) for node in graph.nodes}
    for node, k in _collected(graph):
        claimed = kinds.of_proto(node.attrs["body"].output[k + 1].type).dims or ()
        confirmed = _confirmed_dims(node.outputs[k], typed, runs)[1:]
        dims = opened[id(node)].attrs["body"].output[k + 1].type.tensor_type.shape.dim
        for dim, size, size_seen in zip(dims, claimed, confirmed, strict=False):
            if isinstance(size, int) and size == size_seen:
                dim.dim_value = size
    nodes = [opened[id(node)] for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def _confirmed_dims(name: str, typed: Source, runs: Sequence[Run]) -> Sequence[Dim]:
    """Return the dims of a value: those that inference derives, else those that all runs show."""
    dims = typed.graph.types[name].dims
    seen = [run.values[name].dims or () for run in runs if name in run.values]
    if dims is None or any(len(sizes) != len(dims) for sizes in seen):
        return ()
    columns = zip(dims, *seen, strict=True)
    return [dim if isinstance(dim, int) or len(set(sizes)) != 1 else sizes[0] for dim, *sizes in columns]


def _open(body: GraphProto) -> None:
    """Remove the sizes that a body and its nested bodies declare of their outputs."""
    for graph in walk.graphs(body):
        for value in graph.output:
            kinds.clear_sizes(value)


# --------------------------------------------------------------------------- what runs tell


def _inferred(typed: Source, claims: Mapping[str, ValueType]) -> tuple[Run, ...]:
    """Return two runs as inference tells them, with sizes for all symbols, of the outputs that claim what it
    can't tell without. They are as good as runs, and no weights are read."""
    graph, inputs = typed.graph, _input_symbols(typed)
    claimed = [name for name in graph.outputs if name in claims]
    unsure = [name for name in claimed if _is_open(graph.types[name], claims[name], inputs)]
    if not unsure:
        return ()
    shapes = {name: symbols.named(name, graph.types[name].dims) for name in graph.inputs}
    outputs = {name: replace(graph.types[name], dims=None) for name in claimed}
    runs = []
    for sizes in _two_sizes(list(shapes.values())):
        bound = {
            name: replace(graph.types[name], dims=None if dims is None else symbols.sizes(dims, sizes))
            for name, dims in shapes.items()
        }
        types = infer(typed.with_graph(types=outputs | bound)).graph.types
        static = [n for n in unsure if all(isinstance(dim, int) for dim in types[n].dims or (None,))]
        runs.append(Run(sizes, {name: types[name] for name in static}))
    names = runs[0].values.keys() & runs[1].values.keys()
    return tuple(replace(run, values={name: run.values[name] for name in names}) for run in runs)


def _is_open(mine: ValueType, claim: ValueType, inputs: Collection[Dim]) -> bool:
    """Return True where a type claims what inference leaves open. What it contradicts does not count."""
    if claim.dims is None or mine.proto is not None:
        return False
    if mine.dims is None or len(mine.dims) != len(claim.dims):
        return mine.dims is None
    pairs = list(zip(mine.dims, claim.dims, strict=True))
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        return False
    return any(a not in inputs and not isinstance(a, int) and b is not None for a, b in pairs)


def _two_sizes(shapes: Sequence[symbols.Dims]) -> list[dict[str, int]]:
    """Return two choices of sizes for all symbols, all different: small ones for batches, and for others such
    as networks with many strides accept."""
    names, heads = symbols.free(shapes), symbols.batches(shapes)
    return [
        {name: batch + i if name in heads else size + 64 * i for i, name in enumerate(names)}
        for batch, size in ((5, 128), (11, 160))
    ]


def _doubtful(typed: Source, claims: Mapping[str, ValueType]) -> Iterator[str]:
    """Yield the outputs that claim a rank or a size which inference can't tell, or tells otherwise."""
    inputs = _input_symbols(typed)
    for name in typed.graph.outputs:
        mine, claimed = typed.graph.types[name].dims, claims.get(name, ValueType()).dims
        if mine is None and claimed is not None:
            yield name
        if mine is None or claimed is None or len(mine) != len(claimed):
            continue
        pairs = zip(mine, claimed, strict=True)
        if any(isinstance(claim, int) and dim != claim and dim not in inputs for dim, claim in pairs):
            yield name


def _facts(typed: Source, claims: Mapping[str, ValueType], runs: Sequence[Run]) -> dict[str, ValueType]:
    """Return what runs tell: ranks that were unknown, and sizes that the file declares and inference
    miscounts. Other sizes may be those of the inputs that happened to be drawn."""
    facts: dict[str, ValueType] = {}
    unsteady = varying(typed) if runs else set()
    for name in {name: None for run in runs for name in run.values if name not in unsteady}:
        types = [run.values[name] for run in runs if name in run.values]
        mine = typed.graph.types.get(name, ValueType())
        if len({each.rank for each in types}) != 1 or mine.proto is not None:
            continue
        if mine.dims is None:
            facts[name] = ValueType(types[0].dtype, (None,) * len(types[0].dims or ()))
        elif name in claims and mine.rank == types[0].rank == claims[name].rank:
            columns = (mine.dims, claims[name].dims or (), *(each.dims or () for each in types))
            rows = zip(*columns, strict=True)
            dims = tuple(claimed if _miscounted(dim, claimed, seen) else dim for dim, claimed, *seen in rows)
            facts |= {name: replace(mine, dims=dims)} if dims != mine.dims else {}
    return facts


def _miscounted(dim: Dim, claimed: Dim, seen: Sequence[Dim]) -> bool:
    """Return True where inference tells one size, the file another, and the file is right."""
    return isinstance(dim, int) and isinstance(claimed, int) and all(size == claimed for size in seen)


# --------------------------------------------------------------------------- what outputs may declare


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of an output: the dim that inference derives, the dim that the file declares, its sizes in
    runs, and the sizes of the inputs' symbols in these."""

    derived: Dim
    claimed: Dim
    seen: tuple[Dim, ...]
    sizes: tuple[Mapping[str, int], ...]


def _declared(typed: Source, claims: Mapping[str, ValueType], runs: Sequence[Run]) -> dict[str, ValueType]:
    """Return the true part of what the outputs declare. The derived type counts where the file says less or
    is wrong; a rank that nothing can tell is the file's."""
    outputs = {name: typed.graph.types[name] for name in typed.graph.outputs if name in claims}
    rows = {name: _axes(name, derived, claims[name], runs) for name, derived in outputs.items()}
    names = _Names(typed, [axis for row in rows.values() for axis in row or ()])
    return {
        name: derived if (row := rows[name]) is None else replace(derived, dims=tuple(map(names.truth, row)))
        for name, derived in outputs.items()
    }


def _axes(name: str, mine: ValueType, claim: ValueType, runs: Sequence[Run]) -> list[_Axis] | None:
    """Return the axes of an output; None where its rank is unknown, or another than declared was seen."""
    observed = [run for run in runs if name in run.values]
    seen, sizes = [run.values[name].dims or () for run in observed], tuple(run.sizes for run in observed)
    declared, derived = claim.dims, mine.dims
    if derived is None and declared is not None and all(len(dims) == len(declared) for dims in seen):
        derived = (None,) * len(declared)
    if derived is None or mine.proto is not None:
        return None
    if declared is None or len(declared) != len(derived):
        declared = (None,) * len(derived)
    columns_seen = seen if all(len(dims) == len(derived) for dims in seen) else []
    columns = zip(derived, declared, *columns_seen, strict=True)
    return [_Axis(dim, claimed, tuple(own), sizes) for dim, claimed, *own in columns]


class _Names:
    """The names that a source's file gives to sizes, and whether they are true."""

    def __init__(self, typed: Source, axes: Sequence[_Axis]) -> None:
        self.inputs = _input_symbols(typed)
        self.free = symbols.free([tuple(self.inputs)])
        self.false = {
            name
            for name in {axis.claimed for axis in axes}
            if isinstance(name, str) and self._differs(name, axes)
        }

    def truth(self, axis: _Axis) -> Dim:
        """Return the dim to declare."""
        own = axis.derived if axis.derived in self.inputs else self._size_of_an_input(axis)
        if isinstance(axis.derived, int):
            return axis.derived
        if isinstance(axis.claimed, int):
            return axis.claimed if own is None and all(size == axis.claimed for size in axis.seen) else own
        if axis.claimed is None or axis.claimed in self.false:
            return own
        if not self._computed(axis.claimed):
            return axis.claimed
        return own or (axis.claimed if self._holds(axis.claimed, axis) else None)

    def _size_of_an_input(self, axis: _Axis) -> Dim:
        """Return the one dim of the inputs that had the size of this axis in all runs, if the sizes vary."""
        if len(set(axis.seen)) < 2:
            return None
        like = [name for name in self.inputs if self._holds(str(name), axis)]
        return like[0] if len(like) == 1 else None

    def _computed(self, name: str) -> bool:
        """Return True for a size of the inputs, and for an expression of these."""
        return name in self.inputs or bool(expressions.terms(name, self.free))

    def _holds(self, name: str, axis: _Axis) -> bool:
        """Return True where no run contradicts."""
        runs = zip(axis.sizes, axis.seen, strict=False)
        return all(symbols.sizes((name,), sizes) == (size,) for sizes, size in runs)

    def _differs(self, name: str, axes: Sequence[_Axis]) -> bool:
        """Return True for a name that the outputs alone have and that stands for several sizes."""
        mine = [axis for axis in axes if axis.claimed == name]
        derived = {
            axis.derived for axis in mine if axis.derived in self.inputs or isinstance(axis.derived, int)
        }
        seen: dict[tuple[tuple[str, int], ...], set[Dim]] = {}
        for sizes, size in (row for axis in mine for row in zip(axis.sizes, axis.seen, strict=False)):
            seen.setdefault(tuple(sorted(sizes.items())), set()).add(size)
        return not self._computed(name) and (len(derived) > 1 or any(len(some) > 1 for some in seen.values()))


def _input_symbols(source: Source) -> dict[Dim, None]:
    """Return the names of the sizes of the inputs, in order."""
    graph = source.graph
    dims = (dim for name in graph.inputs for dim in graph.types.get(name, ValueType()).dims or ())
    return dict.fromkeys(dim for dim in dims if isinstance(dim, str))
