"""The facts of a family that a repository of Triton states: endpoints, tensors, what may share a batch.

Triton gathers requests whose first axes it can count, so a family `batches` where all inputs of a request
have the same first size. An endpoint is `batched` where a request may have any number of rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netfuse_onnx import edges
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime import bundle as bundles
from netfuse_onnx.runtime.opening import Opening, open_engine
from netfuse_onnx.runtime.ports import File
from netfuse_onnx.runtime.signature import FREE, Signature, Tensor, signature

OUTSIDE = re.compile(r"[^A-Za-z0-9_.@+=-]")
"""A character that no name of a model has in a repository: each name is a folder, and a part of a URL."""
MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of an endpoint: its name, the protocol's type, and the whole shape, in which FREE
    stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One source: its model, the endpoint's name in the repository, its inputs and outputs in the family's
    order."""

    model: str
    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """All that the configurations say.

    `index` is the family's input that names the model of each row. `chunk` is the number of rows of a
    request where that is fixed, and 0 where it is free; `apart` says that rows of a batch don't mix. `once`
    are inputs that a merged call takes once.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    index: str
    batched: bool
    batches: bool
    chunk: int
    apart: bool
    io: str
    once: tuple[str, ...]

    def own_outputs(self) -> list[list[str]]:
        """Return for each endpoint the names by which the family gives its outputs. A request that asks for
        them says by that which model it wants."""
        named = [[f"{one.model}/{port.name}" for port in one.outputs] for one in self.endpoints]
        every = [*(port.name for port in self.outputs), *(name for names in named for name in names)]
        if len(set(every)) == len(every):
            return named
        return [
            [f"netfuse/{place}/{port.name}" for port in one.outputs]
            for place, one in enumerate(self.endpoints)
        ]


def read(path: str, name: str, renamed: Mapping[str, str]) -> Family:
    """Read the family of a bundle or a merged file. `name` is its own in the repository, and `renamed` has
    the endpoints' names by model. Raises FileFault for files that are none, and UsageFault for names and
    types that Triton can't have."""
    engine = open_engine(path, Opening(threads=1, workers=1, calibrate=0.0))
    try:
        file, apart = engine.contract.file, engine.contract.apart
    finally:
        engine.close()
    scalars = _scalars(path)
    found = [signature(file, place, apart=apart) for place in range(len(file.models))]
    names = endpoint_names(name, file.models, renamed)
    endpoints = tuple(
        Endpoint(one.model, called, _ports(one, one.inputs, scalars), _ports(one, one.outputs, scalars))
        for one, called in zip(found, names, strict=True)
    )
    return _family(name, endpoints, file, found)


def endpoint_names(family: str, models: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """Return the name of each model's endpoint. Raises UsageFault for a name that can't be a folder's and a
    part of a URL, and for one that is given twice."""
    if strange := [model for model in renamed if model not in models]:
        raise UsageFault(
            f"There is no model {strange[0]!r} to rename.", f"There are {', '.join(models[:8])}."
        )
    names = [renamed.get(model, model) for model in models]
    for name, model in zip([family, *names], ["", *models], strict=True):
        if not name or OUTSIDE.search(name) or name[0] in ".-" or len(name) > MOST_CHARACTERS:
            raise UsageFault(
                f"{name!r} can't be the name of a model of Triton, which is a folder and a part of a URL: "
                "letters, digits and _ . @ + = - are allowed, with a letter, digit or _ first.",
                f"Give another one: --endpoint '{model}=NAME'."
                if model
                else "Give another one: --name NAME.",
            )
    if family in names:
        raise UsageFault(
            f"The family would be called {family!r}, as one of its models is.", "Add --name NAME."
        )
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageFault(
            f"Two models would have the endpoint {twice!r}.", "Rename one: --endpoint MODEL=NAME."
        )
    return names


# --------------------------------------------------------------------------- shapes


def _family(name: str, endpoints: tuple[Endpoint, ...], file: File, found: Sequence[Signature]) -> Family:
    first = endpoints[0]
    if not all(one.alike for one in found):
        raise UsageFault(
            "Not every model has each output, and one model of Triton has the same for all.",
            "Serve the file with netfuse-onnx serve, or merge models that end alike.",
        )
    inputs = tuple(_joint([one.inputs[k] for one in endpoints]) for k in range(len(first.inputs)))
    outputs = tuple(_joint([one.outputs[k] for one in endpoints]) for k in range(len(first.outputs)))
    batches = all(_counts_rows(one, tensors) for one, tensors in zip(endpoints, found, strict=True))
    every = [tensor for one in found for tensor in (*one.inputs, *one.outputs)]
    rows = all(tensor.rows for tensor in every)
    sizes = {port.shape[0] for one in endpoints for port in one.inputs} if batches else {FREE}
    taken = {port.name for one in endpoints for port in (*one.inputs, *one.outputs)}
    return Family(
        name, endpoints, inputs, outputs,
        index=f"netfuse/{edges.ROUTE}" if edges.ROUTE in taken else edges.ROUTE,
        batched=batches and rows and found[0].batched,
        batches=batches,
        chunk=0 if len(sizes) > 1 or FREE in sizes else sizes.pop(),
        apart=found[0].apart,
        io=file.io,
        once=tuple(port.own[0] for port in file.inputs if port.once),
    )  # fmt: skip


def _counts_rows(one: Endpoint, tensors: Signature) -> bool:
    """Return True where all inputs of a request have the same first size, so that Triton can count rows."""
    if not all(port.shape for port in (*one.inputs, *one.outputs)):
        return False
    firsts = {port.shape[0] for port in one.inputs}
    return (firsts == {FREE} and all(each.rows for each in tensors.inputs)) or (
        len(firsts) == 1 and FREE not in firsts
    )


def _joint(ports: Sequence[Port]) -> Port:
    """Return what all models have in common, by the first one's name. Raises UsageFault for other ranks."""
    first = ports[0]
    if len({len(port.shape) for port in ports}) > 1:
        raise UsageFault(
            f"The models' tensors {first.name!r} have different ranks, which no model of Triton can have.",
            "Merge models whose inputs and outputs have the same ranks.",
        )
    shape = tuple(
        sizes[0] if len({*sizes}) == 1 else FREE for sizes in zip(*(p.shape for p in ports), strict=True)
    )
    return Port(first.name, first.datatype, shape)


def _ports(
    one: Signature, tensors: Sequence[Tensor], scalars: frozenset[tuple[str, str]]
) -> tuple[Port, ...]:
    return tuple(_port(one.model, tensor, (one.model, tensor.name) in scalars) for tensor in tensors)


def _port(model: str, tensor: Tensor, scalar: bool) -> Port:
    if not tensor.datatype:
        kind = tensor.element.name if tensor.element else "a sequence, map or optional"
        raise UsageFault(
            f"{tensor.name!r} of model {model!r} is {kind}, which Triton does not have.",
            "Change its type in the models, and merge again.",
        )
    if tensor.shape is None and not scalar:
        raise UsageFault(
            f"The rank of {tensor.name!r} of model {model!r} is not known, and Triton must be told.",
            "Declare its shape in the models, and merge again with --views.",
        )
    return Port(tensor.name, tensor.datatype, tensor.shape or ())


def _scalars(path: str) -> frozenset[tuple[str, str]]:
    """Return (model, tensor) for the scalars among inputs and outputs, which ONNX Runtime does not tell from
    tensors of unknown rank. Only the views of a bundle say that."""
    if not bundles.is_bundle(path):
        return frozenset()
    import onnx

    found = set()
    bundle = bundles.read(path)
    for view in bundle.views:
        graph = onnx.load(bundle.path(view.file), load_external_data=False).graph
        for value in (*graph.input, *graph.output):
            kind = value.type.tensor_type
            if kind.HasField("shape") and not kind.shape.dim:
                found.add((view.model, value.name))
    return frozenset(found)
