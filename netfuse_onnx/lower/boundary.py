"""The inputs and outputs of the merged graph, by I/O mode.

separate: input x of model a is `a/x`, output y is `a/y`, with the source's types. stacked: the first source's
names, one leading axis of size N. A shared input keeps its name, shape and type and is fed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace

import onnx

from netfuse_onnx import edges
from netfuse_onnx.dims import CHOSEN
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.errors import NotStackable, UsageFault
from netfuse_onnx.labels import Labels
from netfuse_onnx.layouts import PER_MODEL, SHARED, STACKED, Layout
from netfuse_onnx.lower.guards import choose, kept_checks
from netfuse_onnx.ops import kinds
from netfuse_onnx.tailed import refuse_stacked
from netfuse_onnx.types import Correspondence, Dim, ValueType

Keep = Callable[[str, Layout, Held], None]
Fetch = Callable[[str, Layout], Held]


class Boundary:
    """The inputs and outputs of the merged graph: their names and types, and the conversions there."""

    def __init__(
        self, corr: Correspondence, io: str, share: frozenset[str], ragged: frozenset[str] = frozenset()
    ) -> None:
        """`ragged`: outputs whose shape may differ between the models."""
        self.corr = corr
        self.ragged = ragged
        self.stacked = not edges.is_separate(io)
        self.selected = edges.is_selected(io)
        self.count: Dim = CHOSEN if self.selected else corr.models
        """The size of the leading axis of stacked inputs and outputs."""
        self.share = share
        self.labels = Labels.of(corr, io, share)
        unknown = share - set(corr.graph.inputs)
        if unknown:
            raise UsageFault(
                f"--share-input {min(unknown)!r} is not an input of {corr.sources[0].path}.",
                f"Its inputs are: {', '.join(corr.graph.inputs)}.",
            )
        self._refuse_unstackable()
        self._refuse_crossed()
        self._refuse_clashes()

    def names(self) -> set[str]:
        """Every name at the edge: nothing inside may take one of these."""
        return {info.name for info in (*self.input_infos(), *self.output_infos())}

    def feed(self, emit: Emitter, keep: Keep) -> None:
        """Create the graph inputs."""
        tensors = {name: emit.input(name) for name in self.corr.graph.inputs if self.stacked}
        if self.selected:
            own = [tensor for name, tensor in tensors.items() if name not in self.share]
            choose(emit, emit.input(self.labels.ids), own)
        for name in self.corr.graph.inputs:
            if name in self.share:
                keep(name, SHARED, tensors.get(name) or emit.input(name))
            elif self.stacked:
                keep(name, STACKED(0), tensors[name])
            else:
                keep(name, PER_MODEL, tuple(map(emit.input, self._inputs(name))))

    def drain(self, emit: Emitter, fetch: Fetch, made: Mapping[str, Layout]) -> None:
        """Create the graph outputs, model by model where they are separate. An input of the sources that is
        an output too is both in the merged model as well, unless it is fed once."""
        combined, each = self._outputs()
        through = set(self.corr.graph.inputs) - self.share
        for name in combined:
            emit.output(_single(fetch(name, SHARED)), name)
        if self.stacked:
            checked = self._checked(emit, fetch, through) if self.selected else {}
            for name in each:
                tensor = checked.get(name) or _single(fetch(name, STACKED(0)))
                emit.output(tensor, name, itself=name in through)
            return
        columns = {name: fetch(name, PER_MODEL) for name in each}
        for m in range(self.corr.models):
            for name in each:
                value = columns[name]
                tensor = value[m] if isinstance(value, tuple) else value
                emit.output(tensor, self.labels.output(m, name), itself=name in through)

    def drain_tails(self, emit: Emitter, tails: Sequence[Sequence[Tensor]]) -> None:
        """Create the outputs of a family with tails, model by model."""
        inputs = {id(tensor) for tensor in emit.graph.inputs}
        for m, tensors in enumerate(tails):
            for name, tensor in zip(self._own_types(m), tensors, strict=True):
                label = self.labels.output(m, name)
                emit.output(tensor, label, itself=id(tensor) in inputs and tensor.name == label)

    def _own_types(self, model: int) -> dict[str, ValueType]:
        """The types of the outputs of a model that has a tail."""
        tail = self.corr.tails[model]
        return dict(zip(self.corr.edge(model).outputs, map(tail.type_of, tail.outputs), strict=True))

    def _checked(self, emit: Emitter, fetch: Fetch, through: Set[str]) -> dict[str, Tensor]:
        """An output that runs the checks of the ids, where nothing else does."""
        values = {name: fetch(name, STACKED(0)) for name in self.corr.graph.outputs if name not in through}
        return kept_checks(emit, {n: v for n, v in values.items() if not isinstance(v, tuple)})

    def input_infos(self) -> Iterator[onnx.ValueInfoProto]:
        """The inputs go name by name, as they are fed."""
        for name in self.corr.graph.inputs:
            if self.stacked:
                yield self._stacked_info(name, once=name in self.share)
                continue
            for label in [name] if name in self.share else self._inputs(name):
                yield value_info(label, self.corr.edge_type(name))
        if self.selected:
            yield kinds.declared(self.labels.ids, ValueType(onnx.TensorProto.INT64, (CHOSEN,)))

    def output_infos(self) -> Iterator[onnx.ValueInfoProto]:
        """The outputs go model by model, as they are drained; combined ones come first."""
        combined, each = self._outputs()
        for name in combined:
            yield value_info(name, self.corr.edge_type(name))
        if self.stacked:
            for name in each:
                yield self._stacked_info(name)
            return
        for m, model in enumerate(self.corr.names):
            if self.corr.tails:
                yield from (value_info(self.labels.output(m, n), k) for n, k in self._own_types(m).items())
                continue
            for name in each:
                yield value_info(self.labels.output(m, name), self._of_model(name, model))

    def _stacked_info(self, name: str, *, once: bool = False) -> onnx.ValueInfoProto:
        return value_info(name, self.corr.edge_type(name), None if once else self.count)

    def _outputs(self) -> tuple[list[str], list[str]]:
        """The outputs that are combined, and those that each model has."""
        names, once = self.corr.graph.outputs, self.labels.combined
        return [name for name in names if name in once], [name for name in names if name not in once]

    def _of_model(self, name: str, model: str) -> ValueType:
        """The type of an output of one model. A size that may be another one in each model has a name of its
        own in each; sizes of the inputs are alike for all."""
        kind, inferred = self.corr.edge_type(name), self.corr.graph.types[name]
        if name not in self.ragged or kind.dims is None:
            return kind
        derived = inferred.dims if inferred.rank == kind.rank else None
        pairs = zip(kind.dims, derived or (None,) * len(kind.dims), strict=True)
        own = [f"{model}/{dim}" if isinstance(dim, str) and dim != size else dim for dim, size in pairs]
        return replace(kind, dims=tuple(own))

    def _inputs(self, name: str) -> list[str]:
        """The merged names of one input, model by model."""
        return [self.labels.input(model, name) for model in range(self.corr.models)]

    def _refuse_crossed(self) -> None:
        """Raises NotStackable where the first model's name of an input or output, which stands for all
        models, is that of another one in some model."""
        graph = self.corr.graph
        for name in (*graph.inputs, *graph.outputs):
            once = name in self.share or name in self.labels.combined
            if (self.stacked or once) and (other := self.labels.crossed(name)):
                raise NotStackable(
                    f"{name!r} of {self.corr.names[0]} is not what {other} calls {name!r}, so one name can't "
                    "stand for both.",
                    "Keep them apart: --io separate, without --share-input or --combine for it.",
                )

    def _refuse_clashes(self) -> None:
        """Raises UsageFault where two inputs or outputs have one name. Only an input that is an output too
        may have its name twice."""
        graph = self.corr.graph
        both = set(graph.inputs).intersection(graph.outputs) - self.share
        if self.stacked and (once := self.share.intersection(graph.outputs)):
            raise UsageFault(
                f"Input {min(once)!r} is an output too: it can't be fed once and given once per model.",
                f"Leave out --share-input {min(once)}, or use --io separate.",
            )
        labels = {self.labels.output(model, name) for model in range(self.corr.models) for name in both}
        labels |= {self.labels.output(m, key) for m, key in self._passed_through()}
        inputs = [info.name for info in self.input_infos()]
        outputs = [info.name for info in self.output_infos() if info.name not in labels]
        seen: set[str] = set()
        for name in (*inputs, *outputs):
            if name in seen:
                raise UsageFault(
                    f"Two inputs or outputs of the merged model would be called {name!r}.",
                    "Give the models other --names.",
                )
            seen.add(name)

    def _passed_through(self) -> Iterator[tuple[int, str]]:
        """The outputs of tails that are inputs."""
        fed = set(self.corr.graph.inputs) - self.share
        for m, tail in enumerate(self.corr.tails):
            names = self.corr.edge(m)
            rows = zip(names.outputs.items(), tail.outputs, strict=True)
            yield from ((m, key) for (key, own), out in rows if out in fed and names.inputs[out] == own)

    def _refuse_unstackable(self) -> None:
        if not self.stacked:
            return
        refuse_stacked(self.corr, self.labels.io)
        for role, names in (("input", self.corr.graph.inputs), ("output", self.corr.graph.outputs)):
            for name in names:
                ragged = name in self.corr.ragged
                if name in self.labels.combined:
                    continue
                if (self.corr.graph.types[name].proto is not None and name not in self.share) or ragged:
                    raise NotStackable(
                        f"{role} {name!r} of {self.corr.sources[0].path} cannot be stacked: "
                        + ("its shape differs between the models." if ragged else "it is not a tensor."),
                        "Use --io separate.",
                    )


def _single(value: Held) -> Tensor:
    """The tensor of a value that is one for all models."""
    return value[0] if isinstance(value, tuple) else value


def value_info(name: str, kind: ValueType, models: Dim = None) -> onnx.ValueInfoProto:
    """A graph input or output; `models` adds a leading axis of that size."""
    if models is not None and kind.dims is not None:
        kind = replace(kind, dims=(models, *kind.dims))
    return kinds.declared(name, kind)
