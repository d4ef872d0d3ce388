"""A file's claims about values that are not its inputs, and what can be believed of them.

ONNX Runtime refuses inputs that are not as declared. Of outputs and inner values it only warns: their
sizes, ranks and names may be anything, and there are files that keep none of them. So what inference derives
from the inputs and the weights counts, and nothing else decides how models are merged. Ranks that inference
can't tell are looked up in runs of the model. So are declared sizes of outputs that inference can't tell: the
merged file declares no more than was found to be so. Only where no run is possible does it repeat the source.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from onnx import GraphProto, TypeProto

from netfuse_onnx.load.infer import infer, unknown, varying
from netfuse_onnx.ops import kinds, walk
from netfuse_onnx.run import expressions, symbols
from netfuse_onnx.types import Dim, Graph, Node, Source, ValueType


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a source, or what inference says of one: the sizes of the symbols of its inputs, and the
    types of the tensors that were asked for, all of them static."""

    sizes: Mapping[str, int]
    values: Mapping[str, ValueType]


Complete = Callable[[Source, tuple[str, ...]], Sequence[Run]]
"""Runs a source, if it can, with other sizes each time, and gives the types of the named values."""


def settle(source: Source, complete: Complete | None = None) -> tuple[Source, dict[str, ValueType]]:
    """A source as loaded, with types that are no mere claims, and the types that its outputs may declare."""
    graph = source.graph
    claims = _claims(graph)
    found = infer(unclaimed(source))
    looped = [node.outputs[k] for node, k in _collected(graph) if _unsure(node, k, found)]
    inferred = _inferred(found, claims)
    doubtful = (name for name in _doubtful(found, claims) if not inferred or name not in inferred[0].values)
    asked = tuple(dict.fromkeys((*_steady(found), *doubtful, *looped)))
    runs = complete(found, asked) if complete is not None and asked else ()
    if facts := _facts(found, claims, runs):
        found = infer(replace(found, graph=replace(found.graph, types={**found.graph.types, **facts})))
    return replace(found, graph=_honest(found, runs)), _declared(found, claims, (*inferred, *runs))


def unclaimed(source: Source) -> Source:
    """The source without the shapes that its file declares of values that are not its inputs."""
    graph = source.graph
    bare = {**graph.types, **{name: _shapeless(kind) for name, kind in _claims(graph).items()}}
    return replace(source, graph=replace(graph, types=bare))


def _claims(graph: Graph) -> dict[str, ValueType]:
    return {name: kind for name, kind in graph.types.items() if name not in graph.inputs}


def _shapeless(kind: ValueType) -> ValueType:
    """The part of a declared type that ONNX Runtime checks: all but shapes."""
    if kind.proto is None:
        return ValueType(kind.dtype)
    bare = TypeProto()
    bare.CopyFrom(kind.proto)
    _clear(bare)
    return ValueType(proto=bare)


def _clear(proto: TypeProto) -> None:
    which = proto.WhichOneof("value") or ""
    if which in ("tensor_type", "sparse_tensor_type"):
        getattr(proto, which).ClearField("shape")
    elif which in ("sequence_type", "optional_type"):
        _clear(getattr(proto, which).elem_type)
    elif which == "map_type":
        _clear(proto.map_type.value_type)


# --------------------------------------------------------------------------- bodies


def _collected(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Loops, and which of their outputs are collected from all iterations. Where there is none, ONNX Runtime
    gives them the sizes that the body declares: these are worth keeping where no input has an open axis."""
    dims = (dim for name in graph.inputs for dim in graph.types[name].dims or (None,))
    if all(isinstance(dim, int) for dim in dims):
        for node in graph.nodes:
            if node.op == "Loop" and not node.domain:
                first = max(0, len(node.inputs) - 2)
                yield from ((node, k) for k in range(first, len(node.outputs)) if node.outputs[k])


def _unsure(node: Node, k: int, found: Source) -> bool:
    """True where a Loop's body declares sizes of an output that inference can't tell."""
    said = kinds.of_proto(node.attrs["body"].output[k + 1].type).dims or ()
    told = _told(node.outputs[k], found, ())[1:]
    pairs = zip_longest(said, told)
    return any(isinstance(size, int) and not isinstance(dim, int) for size, dim in pairs)


def _honest(found: Source, runs: Sequence[Run]) -> Graph:
    """The graph without the sizes that bodies declare of their outputs, but those of collected outputs that
    inference or a run bears out."""
    graph = found.graph
    true = {(id(node), k): _told(node.outputs[k], found, runs)[1:] for node, k in _collected(graph)}
    nodes = []
    for node in graph.nodes:
        opened = walk.with_bodies(node, _opened)
        for body in walk.bodies_of(opened.attrs).values() if node.op == "Loop" else ():
            for k, (value, said) in enumerate(zip(body.output, node.attrs["body"].output, strict=True)):
                claim = kinds.of_proto(said.type).dims or ()
                dims, sizes = value.type.tensor_type.shape.dim, true.get((id(node), k - 1), ())
                for dim, size, sure in zip(dims, claim, sizes, strict=False):
                    if isinstance(size, int) and size == sure:
                        dim.dim_value = size
        nodes.append(opened)
    return replace(graph, nodes=tuple(nodes))


def _told(name: str, found: Source, runs: Sequence[Run]) -> Sequence[Dim]:
    """The dims of a value: what inference derives, else what all runs show."""
    dims = found.graph.types[name].dims
    seen = [run.values[name].dims or () for run in runs if name in run.values]
    if dims is None or any(len(sizes) != len(dims) for sizes in seen):
        return ()
    columns = zip(dims, *seen, strict=True)
    return [dim if isinstance(dim, int) or len(set(sizes)) != 1 else sizes[0] for dim, *sizes in columns]


def _opened(body: GraphProto) -> None:
    """Take away the sizes that a body, and those inside of it, declare of their outputs."""
    for graph in walk.graphs(body):
        for value in graph.output:
            kinds.clear_sizes(value)


# --------------------------------------------------------------------------- what runs tell


def _inferred(found: Source, claims: Mapping[str, ValueType]) -> tuple[Run, ...]:
    """Inference tells of two runs with sizes for all symbols, of outputs that claim what it can't tell
    without these: as good as runs, and no weights are read."""
    graph, known = found.graph, _input_symbols(found)
    open_ = [
        name for name in graph.outputs if name in claims and _is_open(graph.types[name], claims[name], known)
    ]
    if not open_:
        return ()
    shapes = {name: symbols.named(name, graph.types[name].dims) for name in graph.inputs}
    every = {name: replace(graph.types[name], dims=None) for name in graph.outputs if name in claims}
    runs = []
    for sizes in _two_sizes(list(shapes.values())):
        bound = {
            name: replace(graph.types[name], dims=None if dims is None else symbols.sizes(dims, sizes))
            for name, dims in shapes.items()
        }
        types = infer(replace(found, graph=replace(graph, types=every | bound))).graph.types
        static = {
            name: types[name]
            for name in open_
            if all(isinstance(d, int) for d in types[name].dims or (None,))
        }
        runs.append(Run(sizes, static))
    told = runs[0].values.keys() & runs[1].values.keys()
    return tuple(replace(run, values={name: run.values[name] for name in told}) for run in runs)


def _is_open(mine: ValueType, claim: ValueType, known: Collection[Dim]) -> bool:
    """True where a type claims what inference does not tell. What it tells otherwise, it would tell again."""
    if claim.dims is None or mine.proto is not None:
        return False
    if mine.dims is None or len(mine.dims) != len(claim.dims):
        return mine.dims is None
    pairs = list(zip(mine.dims, claim.dims, strict=True))
    miscounted = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    return not miscounted and any(
        a not in known and not isinstance(a, int) and b is not None for a, b in pairs
    )


def _two_sizes(shapes: Sequence[symbols.Dims]) -> list[dict[str, int]]:
    """Two choices of sizes for all symbols, all different: small ones for batches, and for others such as
    networks of many strides take."""
    names, heads = symbols.free(shapes), symbols.batches(shapes)
    return [
        {name: batch + i if name in heads else size + 64 * i for i, name in enumerate(names)}
        for batch, size in ((5, 128), (11, 160))
    ]


def _steady(found: Source) -> list[str]:
    """Values of an unknown rank that is the same in all runs."""
    unsteady = varying(found)
    return [name for name in unknown(found) if name not in unsteady]


def _doubtful(found: Source, claims: Mapping[str, ValueType]) -> Iterator[str]:
    """The outputs that claim a rank or a size which inference can't tell, or tells otherwise."""
    known = _input_symbols(found)
    for name in found.graph.outputs:
        mine, said = found.graph.types[name].dims, claims.get(name, ValueType()).dims
        if mine is None and said is not None:
            yield name
        if mine is None or said is None or len(mine) != len(said):
            continue
        pairs = zip(mine, said, strict=True)
        if any(isinstance(claim, int) and dim != claim and dim not in known for dim, claim in pairs):
            yield name


def _facts(found: Source, claims: Mapping[str, ValueType], runs: Sequence[Run]) -> dict[str, ValueType]:
    """Runs tell of the values: ranks that were unknown; and sizes that the file declares and inference
    miscounts. Other sizes may be those of the inputs that happened to be drawn."""
    facts: dict[str, ValueType] = {}
    unsteady = varying(found) if runs else set()
    for name in {name: None for run in runs for name in run.values if name not in unsteady}:
        kinds = [run.values[name] for run in runs if name in run.values]
        mine = found.graph.types.get(name, ValueType())
        if len({kind.rank for kind in kinds}) != 1 or mine.proto is not None:
            continue
        if mine.dims is None:
            facts[name] = ValueType(kinds[0].dtype, (None,) * len(kinds[0].dims or ()))
        elif name in claims and mine.rank == kinds[0].rank == claims[name].rank:
            rows = zip(mine.dims, claims[name].dims or (), *(kind.dims or () for kind in kinds), strict=True)
            dims = tuple(said if _miscounted(dim, said, seen) else dim for dim, said, *seen in rows)
            facts |= {name: replace(mine, dims=dims)} if dims != mine.dims else {}
    return facts


def _miscounted(dim: Dim, said: Dim, seen: Sequence[Dim]) -> bool:
    """True where inference tells a size, the file another one, and the file is right."""
    return isinstance(dim, int) and isinstance(said, int) and all(size == said for size in seen)


# --------------------------------------------------------------------------- what outputs may declare


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of an output: what inference derives, what the file declares, its sizes in runs, and those of
    the inputs' symbols there."""

    derived: Dim
    claimed: Dim
    seen: tuple[Dim, ...]
    sizes: tuple[Mapping[str, int], ...]


def _declared(found: Source, claims: Mapping[str, ValueType], runs: Sequence[Run]) -> dict[str, ValueType]:
    """The true part of what the outputs declare. What inference derives counts where the file says less or is
    wrong; a rank that nothing can tell is the file's."""
    outputs = {name: found.graph.types[name] for name in found.graph.outputs if name in claims}
    rows = {name: _axes(name, kind, claims[name], runs) for name, kind in outputs.items()}
    names = _Names(found, [axis for row in rows.values() for axis in row or ()])
    return {
        name: kind if (row := rows[name]) is None else replace(kind, dims=tuple(map(names.truth, row)))
        for name, kind in outputs.items()
    }


def _axes(name: str, mine: ValueType, claim: ValueType, runs: Sequence[Run]) -> list[_Axis] | None:
    """The axes of an output; None where its rank is unknown, or was seen to be another than is declared."""
    mine_in = [run for run in runs if name in run.values]
    seen, sizes = [run.values[name].dims or () for run in mine_in], tuple(run.sizes for run in mine_in)
    said, derived = claim.dims, mine.dims
    if derived is None and said is not None and all(len(dims) == len(said) for dims in seen):
        derived = (None,) * len(said)
    if derived is None or mine.proto is not None:
        return None
    if said is None or len(said) != len(derived):
        said = (None,) * len(derived)
    told = seen if all(len(dims) == len(derived) for dims in seen) else []
    columns = zip(derived, said, *told, strict=True)
    return [_Axis(dim, claimed, tuple(own), sizes) for dim, claimed, *own in columns]


class _Names:
    """The names that a source's file gives to sizes, and which of them hold."""

    def __init__(self, found: Source, axes: Sequence[_Axis]) -> None:
        self.known = _input_symbols(found)
        self.free = symbols.free([tuple(self.known)])
        self.false = {
            name
            for name in {axis.claimed for axis in axes}
            if isinstance(name, str) and self._differs(name, axes)
        }

    def truth(self, axis: _Axis) -> Dim:
        """The dim to declare."""
        own = axis.derived if axis.derived in self.known else self._size_of_an_input(axis)
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
        """The one dim of the inputs that had the size of this axis in all runs, and not one size alone."""
        if len(set(axis.seen)) < 2:
            return None
        like = [name for name in self.known if self._holds(str(name), axis)]
        return like[0] if len(like) == 1 else None

    def _computed(self, name: str) -> bool:
        """True for a size of the inputs, and for what is computed from these."""
        return name in self.known or bool(expressions.terms(name, self.free))

    def _holds(self, name: str, axis: _Axis) -> bool:
        """True where no run says otherwise."""
        runs = zip(axis.sizes, axis.seen, strict=False)
        return all(symbols.sizes((name,), sizes) == (size,) for sizes, size in runs)

    def _differs(self, name: str, axes: Sequence[_Axis]) -> bool:
        """True for a name of the outputs' own which stands for sizes that are not one."""
        mine = [axis for axis in axes if axis.claimed == name]
        derived = {
            axis.derived for axis in mine if axis.derived in self.known or isinstance(axis.derived, int)
        }
        seen: dict[tuple[tuple[str, int], ...], set[Dim]] = {}
        for sizes, size in (row for axis in mine for row in zip(axis.sizes, axis.seen, strict=False)):
            seen.setdefault(tuple(sorted(sizes.items())), set()).add(size)
        return not self._computed(name) and (len(derived) > 1 or any(len(some) > 1 for some in seen.values()))


def _input_symbols(source: Source) -> dict[Dim, None]:
    """The names of the sizes of the inputs, in order."""
    graph = source.graph
    dims = (dim for name in graph.inputs for dim in graph.types.get(name, ValueType()).dims or ())
    return dict.fromkeys(dim for dim in dims if isinstance(dim, str))
