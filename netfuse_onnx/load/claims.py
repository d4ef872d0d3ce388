"""A file's claims about values that are not its inputs, and what can be believed of them.

ONNX Runtime refuses inputs that are not as declared. Of outputs and inner values it only warns: their
sizes, ranks and names may be anything, and there are files that keep none of them. So what inference derives
from the inputs and the weights counts, and nothing else decides how models are merged. Ranks that inference
can't tell are looked up in runs of the model. So are declared sizes of outputs that inference can't tell: the
merged file declares no more than was found to be so. Only where no run is possible does it repeat the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import TypeProto

from netfuse_onnx.load.infer import infer, unknown, varying
from netfuse_onnx.run import expressions, symbols
from netfuse_onnx.types import Dim, Source, ValueType


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a source: the sizes of the symbols of its inputs, and the types of the tensors that were
    asked for, all of them static."""

    sizes: Mapping[str, int]
    values: Mapping[str, ValueType]


Complete = Callable[[Source, tuple[str, ...]], Sequence[Run]]
"""Runs a source, if it can, with other sizes each time, and gives the types of the named values."""


def settle(source: Source, complete: Complete | None = None) -> tuple[Source, dict[str, ValueType]]:
    """A source as loaded, with types that are no mere claims, and the types that its outputs may declare."""
    graph = source.graph
    claims = {name: kind for name, kind in graph.types.items() if name not in graph.inputs}
    bare = {**graph.types, **{name: _shapeless(kind) for name, kind in claims.items()}}
    found = infer(replace(source, graph=replace(graph, types=bare)))
    asked = tuple(dict.fromkeys((*_steady(found), *_doubtful(found, claims))))
    runs = complete(found, asked) if complete is not None and asked else ()
    if facts := _facts(found, claims, runs):
        found = infer(replace(found, graph=replace(found.graph, types={**found.graph.types, **facts})))
    return found, _declared(found, claims, runs)


def _shapeless(kind: ValueType) -> ValueType:
    """What ONNX Runtime checks of a declared type: all but shapes."""
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


# --------------------------------------------------------------------------- what runs tell


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
    """What runs tell of the values: ranks that were unknown; and sizes that the file declares and inference
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
    """One axis of an output: what inference derives, what the file declares, its sizes in runs."""

    derived: Dim
    claimed: Dim
    seen: tuple[Dim, ...]


def _declared(found: Source, claims: Mapping[str, ValueType], runs: Sequence[Run]) -> dict[str, ValueType]:
    """The true part of what the outputs declare. What inference derives counts where the file says less or is
    wrong; a rank that nothing can tell is the file's."""
    outputs = {name: found.graph.types[name] for name in found.graph.outputs if name in claims}
    rows = {name: _axes(name, kind, claims[name], runs) for name, kind in outputs.items()}
    names = _Names(found, runs, [axis for row in rows.values() for axis in row or ()])
    return {
        name: kind if (row := rows[name]) is None else replace(kind, dims=tuple(map(names.truth, row)))
        for name, kind in outputs.items()
    }


def _axes(name: str, mine: ValueType, claim: ValueType, runs: Sequence[Run]) -> list[_Axis] | None:
    """The axes of an output; None where its rank is unknown, or was seen to be another than is declared."""
    seen = [run.values[name].dims or () for run in runs if name in run.values]
    said = claim.dims
    derived = mine.dims
    if derived is None and said is not None and all(len(dims) == len(said) for dims in seen):
        derived = (None,) * len(said)
    if derived is None or mine.proto is not None:
        return None
    if said is None or len(said) != len(derived):
        said = (None,) * len(derived)
    told = seen if all(len(dims) == len(derived) for dims in seen) else []
    columns = zip(derived, said, *told, strict=True)
    return [_Axis(dim, claimed, tuple(sizes)) for dim, claimed, *sizes in columns]


class _Names:
    """The names that a source's file gives to sizes, and which of them hold."""

    def __init__(self, found: Source, runs: Sequence[Run], axes: Sequence[_Axis]) -> None:
        self.known = _input_symbols(found)
        self.free = symbols.free([tuple(self.known)])
        self.runs = runs
        self.false = {
            name
            for name in {axis.claimed for axis in axes}
            if isinstance(name, str) and self._differs(name, axes)
        }

    def truth(self, axis: _Axis) -> Dim:
        """The dim to declare."""
        own = axis.derived if axis.derived in self.known else None
        if isinstance(axis.derived, int):
            return axis.derived
        if isinstance(axis.claimed, int):
            return axis.claimed if own is None and all(size == axis.claimed for size in axis.seen) else own
        if axis.claimed is None or axis.claimed in self.false:
            return own
        if not self._computed(axis.claimed):
            return axis.claimed
        return own or (axis.claimed if self._holds(axis.claimed, axis) else None)

    def _computed(self, name: str) -> bool:
        """True for a size of the inputs, and for what is computed from these."""
        return name in self.known or bool(expressions.terms(name, self.free))

    def _holds(self, name: str, axis: _Axis) -> bool:
        """True where no run says otherwise."""
        seen = zip(self.runs, axis.seen, strict=False)
        return all(symbols.sizes((name,), run.sizes) == (size,) for run, size in seen)

    def _differs(self, name: str, axes: Sequence[_Axis]) -> bool:
        """True for a name of the outputs' own which stands for sizes that are not one."""
        mine = [axis for axis in axes if axis.claimed == name]
        derived = {
            axis.derived for axis in mine if axis.derived in self.known or isinstance(axis.derived, int)
        }
        seen = {axis.seen for axis in mine if axis.seen}
        return not self._computed(name) and (len(derived) > 1 or len(seen) > 1)


def _input_symbols(source: Source) -> dict[Dim, None]:
    """The names of the sizes of the inputs, in order."""
    graph = source.graph
    dims = (dim for name in graph.inputs for dim in graph.types.get(name, ValueType()).dims or ())
    return dict.fromkeys(dim for dim in dims if isinstance(dim, str))
