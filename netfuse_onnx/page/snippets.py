"""The ways to run a merged file, with its own names, types and shapes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from netfuse_onnx import edges
from netfuse_onnx.page.graph import ids
from netfuse_onnx.page.graph import kind as element_type
from netfuse_onnx.page.material import Material

MOST_LINES = 12
"""The most inputs that a snippet feeds one by one; the rest is a comment."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """One way: a title, a sentence, and the text. `language` is python or console."""

    title: str
    said: str
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the merged graph."""

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None

    @property
    def shape(self) -> str:
        """Return the shape as people read it; `any rank` where the file does not say."""
        return "any rank" if self.dims is None else f"[{', '.join(map(str, self.dims))}]"


def ports(infos: Sequence[onnx.ValueInfoProto]) -> list[Port]:
    """Return the inputs or outputs of a graph."""
    return [_port(info) for info in infos]


def _port(info: onnx.ValueInfoProto) -> Port:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        return Port(info.name, info.type.WhichOneof("value") or "unknown", None)
    dims = None
    if kind.HasField("shape"):
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim
        )
    return Port(info.name, element_type(kind.elem_type), dims)


def snippets(material: Material) -> list[Snippet]:
    """Return all ways: a session of its models, plain ONNX Runtime, and servers."""
    name = os.path.basename(material.path)
    return [
        _runtime(material, name),
        _session(material, name),
        _serve(material),
        _triton(material),
        _ray(material),
    ]


# --------------------------------------------------------------------------- Python


def _runtime(material: Material, name: str) -> Snippet:
    graph, about = material.model.graph, material.about
    stored = {tensor.name for tensor in graph.initializer}
    route = ids(graph, about)
    inputs = [port for port in ports(graph.input) if port.name not in stored]
    symbols = _symbols(inputs)
    feeds = [
        _places(port.name, about.models) if port.name == route else _feed(port, symbols)
        for port in inputs[:MOST_LINES]
    ]
    left = len(inputs) - MOST_LINES
    lines = [
        "import numpy as np",
        "import onnxruntime as ort",
        "",
        *([f"{', '.join(symbols.values())} = {', '.join('1' for _ in symbols)}"] if symbols else []),
        f"session = ort.InferenceSession({name!r})",
        "feeds = {",
        *(f"    {line}" for line in feeds),
        *([f"    # and {left} more: [i.name for i in session.get_inputs()]"] if left > 0 else []),
        "}",
        "outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds)))",
    ]
    if graph.output:
        lines.append(f"print(outputs[{graph.output[0].name!r}].shape)")
    return Snippet("ONNX Runtime", _said(material, route), "python", "\n".join(lines))


def _said(material: Material, route: str) -> str:
    """Say which inputs a call needs."""
    about = material.about
    if edges.is_routed(about.io):
        return f"A row for each request; {route} has the number of each row's model."
    if edges.is_selected(about.io):
        return f"{route} has the numbers of the models that the call wants; it runs no others."
    if edges.is_stacked(about.io):
        return f"One tensor for all models: its first axis has {len(about.models)} rows, one for each model."
    return "Each model has inputs and outputs of its own, behind its name. A call runs all models."


def _symbols(inputs: Sequence[Port]) -> dict[str, str]:
    """Return a name of Python's for each symbolic dimension."""
    found: dict[str, str] = {}
    for port in inputs:
        for dim in port.dims or ():
            if isinstance(dim, str) and dim not in found:
                plain = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in dim)
                taken = set(found.values())
                name = f"d_{plain}" if not plain.isidentifier() or plain in _KEPT else plain
                while name in taken:
                    name += "_"
                found[dim] = name
    return found


_KEPT = frozenset(
    ("np", "ort", "session", "feeds", "outputs", "if", "in", "is", "as", "or", "and", "not", "for")
)


def _places(name: str, models: Sequence[str]) -> str:
    """Return the line that feeds the numbers of models."""
    last = len(models) - 1
    return f"{name!r}: np.array([0], np.int64),  # 0 is {models[0]!r}, {last} is {models[last]!r}"


def _feed(port: Port, symbols: Mapping[str, str]) -> str:
    """Return the line that feeds an input: zeros of its type and shape."""
    if port.dims is None:
        return f"{port.name!r}: ...,  # {port.dtype} of any rank"
    sizes = [symbols[dim] if isinstance(dim, str) else str(dim) for dim in port.dims]
    shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
    return f"{port.name!r}: np.zeros({shape}, {_numpy(port.dtype)}),"


def _numpy(dtype: str) -> str:
    """Return the type of numpy for one of ONNX; those that numpy lacks are in ml_dtypes."""
    others = {"bool": "bool_", "string": "object_"}
    name = others.get(dtype, dtype)
    return f"np.{name}" if hasattr(np, name) else f"ml_dtypes.{name}"


def _session(material: Material, name: str) -> Snippet:
    model = material.about.models[0]
    feeds = ", ".join(f"{own!r}: {plain_name(own)}" for own in _own_inputs(material, model))
    sources = "" if material.merge is None else f", sources={list(material.merge.sources)!r}"
    text = "\n".join((
        "from netfuse_onnx import MergedSession",
        "",
        f"with MergedSession({name!r}{sources}) as session:",
        f"    outputs = session.run({model!r}, {{{feeds}}})  # what this model alone would give",
    ))  # fmt: skip
    said = "Requests name one model and come one at a time; those that wait together share a merged call."
    return Snippet("Python: MergedSession", said, "python", text)


def _own_inputs(material: Material, model: str) -> list[str]:
    """Return the names of a model's inputs in its own file."""
    about, graph = material.about, material.model.graph
    rows = [row.own for row in about.labels.rows() if row.model == model and row.what == "input"]
    if rows:
        return rows
    route, before = ids(graph, about), f"{model}/"
    names = [info.name for info in graph.input if info.name != route]
    if not edges.is_separate(about.io):
        return names
    return [name.removeprefix(before) for name in names if name.startswith(before) or name in about.share]


def plain_name(name: str) -> str:
    """Return the name of a variable for a value."""
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    return plain if plain.isidentifier() and plain not in _KEPT else f"x_{plain}"


# --------------------------------------------------------------------------- servers


def _merge(material: Material) -> str:
    """Return the command that writes a bundle of these models."""
    about = material.about
    sources = material.merge.sources if material.merge else [f"{model}.onnx" for model in about.models]
    io = edges.options(about.io)
    shared = "".join(f" --share-input {shlex.quote(name)}" for name in about.share)
    named = " ".join(shlex.quote(source) for source in sources)
    return f"netfuse-onnx merge {named} -o bundle {io} --views{shared}"


def _serve(material: Material) -> Snippet:
    model = shlex.quote(material.about.models[0])
    text = f"netfuse-onnx serve {shlex.quote(material.path)}\ncurl -s localhost:8000/v2/models/{model}"
    said = "HTTP on port 8000 and gRPC on 8001, in the Open Inference Protocol: each model is an endpoint."
    return Snippet("A server", said, "console", text)


def _triton(material: Material) -> Snippet:
    models = material.about.models
    text = "\n".join((
        _merge(material),
        "netfuse-onnx export triton bundle -o repository --name family",
        "tritonserver --model-repository=repository --disable-auto-complete-config",
    ))  # fmt: skip
    said = f"An endpoint for each model, {models[0]} to {models[-1]}, and one for rows of all: family."
    return Snippet("NVIDIA Triton", said, "console", text)


def _ray(material: Material) -> Snippet:
    model = material.about.models[0]
    text = "\n".join((
        _merge(material),
        "netfuse-onnx export ray family=bundle -o app.py",
        "serve run app:app",
        "",
        "# from Python, beside the cluster:",
        "# handle = ray.serve.get_app_handle('default')",
        f"# outputs = handle.infer.remote({model!r}, feeds).result()",
    ))  # fmt: skip
    said = "A deployment of the family, with all its models in every replica, behind a router."
    return Snippet("Ray Serve", said, "console", text)
