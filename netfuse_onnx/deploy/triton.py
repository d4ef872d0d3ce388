"""netfuse-onnx export triton: a model repository with the family, and an endpoint for each of its models.

With Triton's python backend, a request for a model is one step: its endpoint is an ensemble that hands the
inputs to the family and asks it for that model's outputs, by which the family knows the model. With the ONNX
Runtime backend the family is a routed file, and a tiny graph in front makes the index of the rows' model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netfuse_onnx import edges
from netfuse_onnx.deploy import configs, family, repository, tags
from netfuse_onnx.deploy.family import Endpoint, Family
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.report import Report
from netfuse_onnx.runtime import bundle as bundles
from netfuse_onnx.storage import wire

PYTHON, RUNTIME = "python", "onnxruntime"
VERSION = "1"
BUNDLE, LAYOUT = "bundle", "family.json"
MODEL = '''"""All models of the family, by netfuse-onnx: written by `netfuse-onnx export triton`."""

from netfuse_onnx.deploy.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
KEEP = ".keep"
"""An empty file in the version folder of an ensemble: stores of objects have no empty folders."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
NO_BF16 = "Triton's python backend can't read bfloat16"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of an export. `name` is that of the family: by default the file's. `endpoints` has other
    names of endpoints by model; `delay` is the most microseconds that Triton waits for more requests, and
    `queue` the most requests that wait there, 0 for any number. With `link` files are linked, not copied,
    where that can be done."""

    name: str = ""
    endpoints: Mapping[str, str] = field(default_factory=dict)
    backend: str = PYTHON
    cuda: bool = False
    delay: int = 0
    queue: int = 0
    link: bool = False
    libraries: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TritonReport(Report):
    """A repository as it was written. `endpoints` has the endpoint of each model. `batches` is False where
    Triton can't bring requests together, since their first axes don't count rows."""

    out: str
    family: str
    backend: str
    endpoints: Mapping[str, str]
    batches: bool
    size: int


def export(path: str, out: str, options: Options) -> TritonReport:
    """Write the repository of a bundle or a merged file to the folder `out`, which is replaced as a whole
    where an export wrote it. Raises FileFault and UsageFault; then all is as it was."""
    configs.schema()
    name = options.name or os.path.basename(os.path.abspath(path)).removesuffix(".onnx")
    found = family.read(path, name, dict(options.endpoints))
    fill = _with_runtime if options.backend == RUNTIME else _with_python
    endpoints = {one.model: one.name for one in found.endpoints}
    facts = {"backend": options.backend, "family": name, "endpoints": endpoints}

    def filled(folder: str, old: str) -> Mapping[str, Any]:
        return {**facts, **fill(path, found, options, folder, old)}

    repository.write(out, filled)
    size = sum(os.path.getsize(os.path.join(where, f)) for where, _, files in os.walk(out) for f in files)
    return TritonReport(out, name, options.backend, endpoints, found.batches, size)


# --------------------------------------------------------------------------- with the python backend


def _with_python(path: str, found: Family, options: Options, folder: str, old: str) -> Mapping[str, Any]:
    for one in found.endpoints:
        for port in (*one.inputs, *one.outputs):
            if port.datatype == "BF16":
                raise UsageFault(f"{NO_BF16}, which {port.name!r} of model {one.model!r} is.", "Cast it.")
    home = os.path.join(folder, found.name, VERSION)
    file, kept = _files(path, home, old, options.link)
    libraries = _named(options.libraries)
    for library, named in zip(options.libraries, libraries, strict=True):
        repository.put(library, os.path.join(home, named), link=options.link)
    given = {"providers": f"{CUDA},{CPU}" if options.cuda else CPU, "max_batch": str(configs.MOST_ROWS)}
    if libraries:
        given["libraries"] = ",".join(libraries)
    config = _config(found, options, given)
    _write(folder, found.name, "config.pbtxt", configs.written(config))
    layout = {"file": file, "index": found.index, "chunk": found.chunk, "batches": found.batches}
    layout |= {"scalars": [port.name for port in found.inputs if not port.shape]}
    layout |= {"outputs": found.own_outputs()}
    _write(folder, found.name, f"{VERSION}/{LAYOUT}", json.dumps(layout) + "\n")
    _write(folder, found.name, f"{VERSION}/model.py", MODEL)
    for one, names in zip(found.endpoints, found.own_outputs(), strict=True):
        _ensemble(folder, found, one, [_last_step(found, one, names)])
    return {"kept": kept}


def _named(libraries: Sequence[str]) -> list[str]:
    """Return the names of libraries in the version folder. Raises FileFault and UsageFault."""
    named = [os.path.basename(library) for library in libraries]
    for library, name in zip(libraries, named, strict=True):
        if not os.path.isfile(library):
            raise FileFault(f"{library} is no file, so no library of custom operators.", "Check the path.")
        if named.count(name) > 1 or name in (BUNDLE, LAYOUT, "model.py"):
            raise UsageFault(
                f"Another file of the repository is called {name!r}, too.", "Rename the library."
            )
    return named


def _files(path: str, home: str, old: str, link: bool) -> tuple[str, list[str]]:
    """Put the files of a bundle or a merged file into a version folder. Return the name to open, and the
    files of the bundle before it, which stay for a server that has it open."""
    if not bundles.is_bundle(path):
        return _merged(path, home, link), []
    bundle = bundles.read(path)
    target = os.path.join(home, BUNDLE)
    for name in (*bundle.files, bundles.MANIFEST):
        repository.put(bundle.path(name), os.path.join(target, name), link=link)
    if bundles.manifest(path) != bundles.manifest(target):
        raise FileFault(f"{path} was replaced while it was copied.", "Export again.")
    kept = []
    for before in _earlier(old):
        name = os.path.basename(before)
        if not os.path.lexists(os.path.join(target, name)):
            repository.put(before, os.path.join(target, name), link=True)
            kept.append(name)
    return BUNDLE, kept


def _merged(path: str, home: str, link: bool) -> str:
    """Put a merged file and its data beside each other. Return its name."""
    for file in wire.scan(path).files:
        name = os.path.relpath(file, os.path.dirname(path) or ".")
        if name.startswith(os.pardir):
            raise FileFault(f"{path} has data in another folder: {file}.", "Move it beside the model.")
        repository.put(file, os.path.join(home, name), link=link)
    return os.path.basename(path)


def _earlier(old: str) -> list[str]:
    """Return the files of the bundle in the repository that will be replaced. A server that runs it opens
    views when they are first asked for, by the same paths."""
    if not old:
        return []
    found = repository.read(old)
    home = os.path.join(old, str(found.get("family")), VERSION, BUNDLE)
    try:
        bundle = bundles.read(home)
    except FileFault:
        return []
    return [bundle.path(name) for name in bundle.files]


# --------------------------------------------------------------------------- with ONNX Runtime's backend


def _with_runtime(path: str, found: Family, options: Options, folder: str, old: str) -> Mapping[str, Any]:
    merged = bundles.read(path).merged_path if bundles.is_bundle(path) else path
    if not edges.is_routed(found.io):
        raise UsageFault(
            f"{path} has {edges.options(found.io)}, and ONNX Runtime's backend needs rows that name their "
            "model.", "Merge with --io routed.",
        )  # fmt: skip
    if found.once or not found.batched:
        why = f"input {found.once[0]!r} is fed once" if found.once else "not all inputs and outputs have rows"
        raise UsageFault(f"Triton can't batch this file: {why}.", "Use --backend python.")
    home = os.path.join(folder, found.name, VERSION)
    name = _merged(merged, home, options.link)
    config = _config(found, options, {})
    config.default_model_filename = name
    _write(folder, found.name, "config.pbtxt", configs.written(config))
    for place, one in enumerate(found.endpoints):
        tag = tags.name(found, one)
        _write(folder, tag, "config.pbtxt", configs.written(tags.config(found, one)))
        _write(folder, tag, f"{VERSION}/model.onnx", tags.graph(found, one, place))
        _ensemble(folder, found, one, [tags.step(found, one), tags.routed_step(found, one)])
    return {}


# --------------------------------------------------------------------------- parts of both


def _config(found: Family, options: Options, parameters: Mapping[str, str]) -> Any:
    return configs.family(
        found, options.backend, delay=options.delay, queue=options.queue, cuda=options.cuda,
        options=parameters,
    )  # fmt: skip


def _last_step(found: Family, one: Endpoint, outputs: Sequence[str]) -> Any:
    inputs = {first.name: own.name for first, own in zip(found.inputs, one.inputs, strict=True)}
    named = {name: own.name for name, own in zip(outputs, one.outputs, strict=True)}
    return configs.step(found.name, inputs, named)


def _ensemble(folder: str, found: Family, one: Endpoint, steps: Sequence[Any]) -> None:
    _write(folder, one.name, "config.pbtxt", configs.written(configs.endpoint(found, one, steps)))
    _write(folder, one.name, f"{VERSION}/{KEEP}", "")


def _write(folder: str, model: str, name: str, content: str | bytes) -> None:
    path = os.path.join(folder, model, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    with open(path, "xb") as file:
        file.write(data)
