"""Sources that onnxslim has simplified, with --simplify: the graph and the weights that it computed are its
own, everything else is the file's.

onnxslim works in a process of its own, since it holds the whole model in memory, prints, and changes the
state of the libraries it uses. What it writes goes to a temporary folder. Weights that it left as they are
stay references to the file as given; what it computed goes to the temporary file of this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata, util

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.load.adapters import AdapterPath
from netfuse_onnx.load.loader import load
from netfuse_onnx.respelling import Simplified
from netfuse_onnx.storage import spill, weights
from netfuse_onnx.types import Extent, Graph, Source, Weight

LIBRARY = "onnxslim"
LARGE = 1 << 30
"""Sources of more bytes are written with their weights in a second file: one protobuf holds 2 GiB."""
SCRIPT = "import sys, onnxslim as o; o.slim(*sys.argv[1:3], save_as_external_data=sys.argv[3] == 'y')"


class SimplifiedPath(str):
    """The path of a model that is simplified when it is read."""

    __slots__ = ()


def paths(given: Iterable[str]) -> tuple[SimplifiedPath, ...]:
    """Return paths of models to simplify. Raises UsageFault where onnxslim is not installed, or for
    adapters, whose base has to stay as it is."""
    given = tuple(given)
    if any(isinstance(path, AdapterPath) for path in given):
        raise UsageFault("--simplify can't be combined with --adapter.", "Simplify the base first.")
    version()
    return tuple(map(SimplifiedPath, given))


def version() -> str:
    """Return the version of onnxslim. Raises UsageFault where it is not installed."""
    if util.find_spec(LIBRARY) is None:
        raise UsageFault(
            "--simplify needs onnxslim, which is not installed.",
            "Install it with: pip install 'netfuse-onnx[simplify]'",
        )
    return metadata.version(LIBRARY)


def simplified(path: str) -> Source:
    """Return a source as onnxslim simplifies it. Raises FileFault where the file can't be read, or onnxslim
    fails or changes its inputs or outputs."""
    source = load(path)
    with tempfile.TemporaryDirectory(prefix="netfuse-simplify-") as folder:
        out = os.path.join(folder, "simplified.onnx")
        _run(source, out)
        slim = load(out)
        graph = _with_own_weights(slim.graph, source.graph)
    if not {*graph.inputs} <= {*source.graph.inputs} or graph.outputs != source.graph.outputs:
        raise _fault(path, "it changes the inputs or outputs")
    given = {*source.graph.weights.values()}
    made = frozenset(weight for weight in graph.weights.values() if weight not in given)
    ends = (*source.graph.inputs, *source.graph.outputs)  # an input that nothing reads is dropped
    declared = {name: source.graph.types[name] for name in ends if name in source.graph.types}
    types = {**graph.types, **declared}
    graph = replace(graph, inputs=source.graph.inputs, types=types, name=source.graph.name)
    about = Simplified(version(), len(source.graph.nodes), len(graph.nodes), made)
    return replace(source, graph=graph, opsets=slim.opsets, simplified=about)


def _run(source: Source, out: str) -> None:
    size = sum(map(os.path.getsize, source.files))
    command = [sys.executable, "-c", SCRIPT, os.path.abspath(source.path), out, "y" if size > LARGE else "n"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=os.path.dirname(out))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"it ended with status {error.returncode}"]
        raise _fault(source.path, lines[-1][:200]) from error
    if not os.path.exists(out):
        raise _fault(source.path, "it wrote no file")


def _fault(path: str, reason: str) -> FileFault:
    return FileFault(f"onnxslim can't simplify {path}: {reason}.", "Merge without --simplify.")


def _with_own_weights(graph: Graph, given: Graph) -> Graph:
    """Return the graph with references to the weights of the file as given, and copies of all others."""
    kept: dict[str, Weight] = {}
    for name, weight in graph.weights.items():
        own = given.weights.get(name)
        same = own is not None and (own.dtype, own.shape) == (weight.dtype, weight.shape)
        if own is not None and same and weights.same(own, weight):
            kept[name] = own
        elif isinstance(weight.data, Extent):
            kept[name] = replace(weight, data=spill.store_blocks(weights.blocks(weight)))
        else:
            kept[name] = weight
    return replace(graph, weights=kept)
