"""Inputs and outputs of the models of a merged file: own names, merged names, types, sizes and batch axis.

It reads an open InferenceSession, whose metadata the merge wrote. The merged names are those of labels.py,
which the compiler writes with: `a/x`, or the first model's name where models share a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netfuse_onnx import edges
from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.bundle import Bundle
from netfuse_onnx.runtime.elements import Element, element

KEY = "netfuse_onnx"
"""The key of the metadata of a merged file."""
FORMAT = 1
AGAIN = "Give the output of netfuse-onnx merge."
Dims = tuple[int | str, ...] | None
"""A shape of one model's value, the batch axis included; unnamed sizes are called `INPUT.POSITION`. None
where the rank is not known."""


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of all models. Tuples have an entry for each model. An output that a model lacks
    has the name '' there.

    `once` is True for an input that a merged call takes once, and for an output that is a combination of all
    models. `rows` is True where the first axis is the batch. `repeated` is True for an input whose one row in
    the merged file stands for all rows of a call.
    """

    own: tuple[str, ...]
    merged: tuple[str, ...]
    type: str
    element: Element | None
    dims: tuple[Dims, ...]
    once: bool = False
    rows: bool = False
    repeated: bool = False

    @property
    def is_open(self) -> bool:
        """True for a first size without a name."""
        dims = self.dims[self.first]
        return dims is not None and dims[0] == f"{self.name}.0"

    @property
    def first(self) -> int:
        """The first model that has it."""
        return next(place for place, name in enumerate(self.own) if name)

    @property
    def name(self) -> str:
        """The own name of the first model that has it."""
        return self.own[self.first]

    @property
    def given(self) -> list[Dims]:
        """The shapes of the models that have it."""
        return [dims for dims, name in zip(self.dims, self.own, strict=True) if name]

    @property
    def unknown(self) -> str:
        """The name of the whole shape, the batch left out, where the rank is not known."""
        return f"{self.own[0]}.*"


@dataclass(frozen=True, slots=True)
class File:
    """The facts of a merged file. `batch` has the symbols of the batch axis: none where it is fixed, or not
    known. `combined` maps outputs to the word for how they are combined."""

    models: tuple[str, ...]
    io: str
    ids: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batch: frozenset[str]
    combined: Mapping[str, str]


def read(session: Any, bundle: Bundle | None = None, own: Any = None, word: bool = False) -> File:
    """Read the file of an open session. `own` is a session of the first model, where there is one: a routed
    file does not say which sizes the models themselves take. `word` is the caller's that rows are apart: an
    output whose first size has no name then has rows. Raises FileFault where no merge wrote the file, or
    not the one that the manifest describes.
    """
    facts = _facts(session)
    if bundle is not None:
        _agree(bundle, facts)
    names = _Names(facts, session, bundle)
    given = {arg.name: arg for arg in (*session.get_inputs(), *session.get_outputs())}
    inputs = [_port(names, 0, k, given, own) for k in range(len(names.own[0][0]))]
    outputs = [_port(names, 1, k, given, own) for k in range(len(names.own[0][1]))]
    routed = edges.is_routed(names.io)
    batch = frozenset(bundle.batch) if bundle and not routed else _batch(routed, inputs, outputs)
    apart = bundle is not None and bundle.rows_apart
    return File(
        names.models, names.io, names.ids,
        tuple(_with_rows(port, batch, routed and not port.once) for port in inputs),
        tuple(_with_rows(port, batch, routed or apart or (word and port.is_open)) for port in outputs),
        batch, facts.get("combined", {}),
    )  # fmt: skip


def _facts(session: Any) -> dict[str, Any]:
    try:
        facts = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
        if facts["format"] != FORMAT:
            raise FileFault(f"The file was written by netfuse-onnx {facts['version']}, in another format.")
        if facts["io"] not in edges.MODES or not (facts["models"] and isinstance(facts["share"], list)):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise FileFault("The file was not written by netfuse-onnx.", AGAIN) from error
    return dict(facts)


def _agree(bundle: Bundle, facts: Mapping[str, Any]) -> None:
    """Raise FileFault where the manifest and the merged file name other models, inputs or outputs."""
    own = [[[*view.inputs], [*view.outputs]] for view in bundle.views]
    named = [[[*sides[0]], [*filter(None, sides[1])]] for sides in facts.get("names") or own]
    for what, said, fact in (
        ("models", [*bundle.models], facts["models"]),
        ("inputs and outputs", bundle.io, facts["io"]),
        ("shared inputs", {*bundle.share}, {*facts["share"]}),
        ("names of models' own inputs and outputs", own, named),
    ):
        if said != fact:
            raise FileFault(
                f"The manifest of {bundle.folder} and {bundle.merged} name other {what}.",
                "Merge again with --views.",
            )


class _Names:
    """The names at the edge of a merged file. `own[m]` are the inputs and the outputs of model m, in the
    order of the first model's."""

    def __init__(self, facts: Mapping[str, Any], session: Any, bundle: Bundle | None) -> None:
        self.models = tuple(facts["models"])
        self.io: str = facts["io"]
        self.share = frozenset(facts["share"])
        self.combined = frozenset(facts.get("combined", ()))
        self.ids = ""
        inputs, outputs = (
            [arg.name for arg in side] for side in (session.get_inputs(), session.get_outputs())
        )
        if edges.is_selected(self.io) or edges.is_routed(self.io):
            self.ids = _ids(self.io, facts.get("names"), inputs)
        if "names" in facts:
            self.own = [tuple(map(tuple, sides)) for sides in facts["names"]]
        elif bundle is not None:
            self.own = [(view.inputs, view.outputs) for view in bundle.views]
            if len({len(view.outputs) for view in bundle.views}) > 1:
                raise FileFault(f"The manifest of {bundle.folder} has models with other outputs.", AGAIN)
        else:
            self.own = [(self._first(inputs, self.share), self._first(outputs, self.combined))] * len(
                self.models
            )

    def _first(self, names: Sequence[str], once: frozenset[str]) -> tuple[str, ...]:
        """Return the first model's own names of the inputs or outputs of the merged file."""
        if not edges.is_separate(self.io):
            return tuple(name for name in names if name != self.ids)
        prefix = f"{self.models[0]}/"
        own = [n if n in once else n.removeprefix(prefix) for n in names if n in once or n.startswith(prefix)]
        return tuple(own)

    def once(self, side: int, name: str) -> bool:
        """True where all models use one input, or give one output, of the first model's `name`."""
        return name in (self.combined if side else self.share)

    def merged(self, side: int, k: int) -> tuple[str, ...]:
        """Return the merged name of an input or output for each model: the rule of labels.py."""
        first = self.own[0][side][k]
        if self.once(side, first) or not edges.is_separate(self.io):
            return (first,) * len(self.models)
        pairs = zip(self.models, (own[side][k] for own in self.own), strict=True)
        return tuple(f"{model}/{name}" if name else "" for model, name in pairs)


def _ids(io: str, names: Any, inputs: Sequence[str]) -> str:
    """Return the input that names models: 'models' or 'model', or that behind `netfuse/` where the sources
    have one of that name themselves."""
    usual = edges.ROUTE if edges.is_routed(io) else edges.IDS
    other = f"netfuse/{usual}"
    if names:
        return other if usual in (*names[0][0], *names[0][1]) else usual
    return other if other in inputs else usual


def _port(names: _Names, side: int, k: int, given: Mapping[str, Any], own: Any) -> Port:
    merged, first = names.merged(side, k), next(filter(None, (own[side][k] for own in names.own)), "")
    try:
        args = [given[name] for name in merged if name]
        kind = args[0].type
    except (KeyError, IndexError) as error:
        raise FileFault(
            f"The file has no input or output {error}, which its metadata name.", AGAIN
        ) from error
    once = names.once(side, first)
    leading = not once and (edges.is_stacked(names.io) or edges.is_selected(names.io))
    shapes = [own_dims(given[n].shape, first, leading=leading) if n else None for n in merged]
    repeated = False
    if own is not None and edges.is_routed(names.io):
        arg = next(arg for arg in (own.get_outputs() if side else own.get_inputs()) if arg.name == first)
        shape, in_call = own_dims(arg.shape, first), shapes[0]
        repeated = once and not side and (shape or (1,))[0] != 1 == (in_call or (0,))[0]
        if not once or repeated or side:
            shapes = [_of_rows(shape, in_call)] * len(shapes)
    return Port(
        tuple(sides[side][k] for sides in names.own), merged, kind, element(kind), tuple(shapes), once,
        repeated=repeated,
    )  # fmt: skip


def own_dims(shape: Sequence[int | str | None], name: str, *, leading: bool = False) -> Dims:
    """Return one model's shape, without the leading axis of models where there is one. ONNX Runtime gives []
    both for a scalar and for an unknown rank."""
    if not shape:
        return None
    return tuple(d if d is not None else f"{name}.{i}" for i, d in enumerate(shape[leading:]))


def _of_rows(own: Dims, in_call: Dims) -> Dims:
    """Return the shape of a model's rows: the first size of its own file, and of the others those that are
    fixed in the routed file, since another model may fix them."""
    if own is None or in_call is None or len(own) != len(in_call):
        return own
    pairs = zip(own[1:], in_call[1:], strict=True)
    return (*own[:1], *(call if isinstance(call, int) else dim for dim, call in pairs))


def _batch(routed: bool, inputs: Sequence[Port], outputs: Sequence[Port]) -> frozenset[str]:
    """Return the symbol that stands first in inputs and nowhere else and, where several do, first in an
    output as well: none where that leaves a choice. In a routed file: all that stand first in rows."""
    shapes = [port.dims[0] or () for port in inputs if not (routed and port.once)]
    leading = frozenset(s[0] for s in shapes if s and isinstance(s[0], str))
    if routed:
        return leading
    leading -= {dim for shape in shapes for dim in shape[1:]}
    given = {dims[0] for port in outputs if (dims := port.dims[port.first])}
    unnamed = any(f"{port.name}.0" in given for port in outputs)  # it may be any of them
    found = leading if unnamed else (leading & given) or leading
    return found if len(found) == 1 else frozenset()


def _with_rows(port: Port, batch: frozenset[str], always: bool) -> Port:
    """Return the port with its batch axis marked: where its first size is that of the batch."""
    rows = always or all(dims and dims[0] in batch for dims in port.given)
    if port.repeated and not rows:  # an axis of its own, which another model fixes at 1
        return replace(port, rows=False, repeated=False, dims=tuple((1, *(d or ())[1:]) for d in port.dims))
    return replace(port, rows=rows)
