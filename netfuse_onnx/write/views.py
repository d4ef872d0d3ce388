"""Views: the graph of one source whose weights lie in the data of the merged file.

A view has the source file's own bytes but for its large weights, which refer to their regions in the data of
the merged file. Weights that have no region there go to a data file of the views, equal ones once. Of a
source without a file of its own (an adapter with its base, a low-rank difference), the view is the graph that
was merged, for that model alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

from netfuse_onnx.emit.repeat import REFERRED, SMALL
from netfuse_onnx.errors import FileFault, InternalError
from netfuse_onnx.load import rebuild
from netfuse_onnx.ops import walk
from netfuse_onnx.runtime import bundle as reader
from netfuse_onnx.storage import external, weights, wire
from netfuse_onnx.storage.tensors import tensors
from netfuse_onnx.types import Correspondence, Extent, Source, Weight
from netfuse_onnx.viewed import AgainRow
from netfuse_onnx.write.regions import UNUSED, Index

STEERING = 1 << 16
"""Lists of int64 of at most so many bytes stay in the view: they may decide a shape, which inference reads
from the graph alone."""
ALIGNED = 64
VALUES = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data")
"""The fields of a tensor that may hold its values."""
_PLACEHOLDER = "views"
"""The name of the data file of the views until its content, which is to be its name, is complete."""
_LIMIT = (1 << 31) - (1 << 20)  # bytes of a model file that every reader takes
ADAPTED = "The branches of the adapter are nodes of the graph: outputs are those of the base with the \
adapter's product added to its weights, but for rounding."
FACTORED = "Weights are low-rank differences, as in the merged file: outputs are those of the source within \
the tolerance of --low-rank."
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Made:
    """A view as it was written: its file name, its SHA-256 and its size in bytes; bytes of its weights that
    are shared, and that are stored again. `note` is '' for one that is exact."""

    file: str
    sha256: str
    size: int
    shared: int
    again: int
    note: str


@dataclass
class _Counts:
    """The bytes of one view's weights."""

    shared: int = 0
    again: int = 0


@dataclass
class Writer:
    """Writes the views of a family into the folder `folder`, beside the merged file's data file `data`, which
    is '' where the merged file holds all its weights itself."""

    folder: str
    data: str
    index: Index
    extra: str = ""
    """The name of the data file of the views, '' as long as there is none."""
    rows: dict[tuple[str, int, str, str], AgainRow] = field(default_factory=dict)
    """The weights that are stored again, by all that tells them apart."""
    _places: dict[str, int] = field(default_factory=dict)
    """SHA-256 of the bytes of a weight -> its offset in the data file of the views."""
    _readers: dict[int, tuple[int, list[int]]] = field(default_factory=dict)
    """Offset in that file -> the bytes there, and the models that read them."""

    def regions(self) -> list[list[Any]]:
        """Return the regions of the data file of the views, as rows of a manifest."""
        return [[offset, size, models] for offset, (size, models) in sorted(self._readers.items())]

    def write(self, family: Correspondence, sources: Sequence[Source], tell: Tell) -> list[Made]:
        """Write the view of each source, in order. `family` are the models as they were merged, with their
        low-rank differences. Raises FileFault where a source can't be read; OSError for the disk."""
        path, drafts = os.path.join(self.folder, _PLACEHOLDER), list[tuple[str, _Counts, str]]()
        with open(path, "xb") as data:
            for model, source in enumerate(sources):
                tell("writing the views", model, len(sources))
                proto, note = _graph(family, source, model)
                counts = self._place(proto, model, data)
                drafts.append((self._draft(proto, model), counts, note))
            data.flush()
            os.fsync(data.fileno())
        self.extra = self._named(path)
        return [self._finished(*draft, model=model) for model, draft in enumerate(drafts)]

    # ------------------------------------------------------------------ weights

    def _place(self, proto: ModelProto, model: int, data: BinaryIO) -> _Counts:
        """Give each large weight of a view its place, in the proto itself."""
        kept = list(movable(proto))  # which keeps their ids
        outward, counts = set(map(id, kept)), _Counts()
        for tensor in tensors(proto):
            outside = tensor.data_location == TensorProto.EXTERNAL
            if tensor.data_type == TensorProto.STRING or not (outside or id(tensor) in outward):
                continue
            weight = weights.weight_of(tensor)
            size = weights.nbytes(weight)
            if id(tensor) not in outward or steers(weight):
                weights.fetch(tensor)
                if id(tensor) not in outward:
                    counts.again += size
                    self._say(tensor.name, size, "an attribute holds it", "graph", copies=1)
                continue
            region = self.index.region(weight, model) if size > REFERRED else None
            if region is not None and region.offset is not None:
                refer(tensor, Extent(self.data, region.offset, size))
                counts.shared += size
            elif size <= SMALL:  # the merged file holds it itself
                weights.fetch(tensor)
            else:
                offset = self._again(tensor.name, weight, region.why if region else UNUSED, data)
                readers = self._readers.setdefault(offset, (size, []))[1]
                readers += [model] if model not in readers else []
                refer(tensor, Extent(_PLACEHOLDER, offset, size))
                counts.again += size
        return counts

    def _again(self, name: str, weight: Weight, why: str, data: BinaryIO) -> int:
        """Return the offset of a weight in the data file of the views, where equal bytes are stored once."""
        total = hashlib.sha256()
        for block in weights.blocks(weight):
            total.update(block)
        size, key = weights.nbytes(weight), total.hexdigest()
        self._say(name, size, why, "data", copies=key not in self._places)
        if key not in self._places:
            data.write(bytes(-data.tell() % ALIGNED))
            self._places[key] = data.tell()
            data.writelines(weights.blocks(weight))
        return self._places[key]

    def _say(self, name: str, size: int, why: str, kept: str, *, copies: int) -> None:
        """Count one more view that reads a weight which is stored again."""
        key = (name, size, why, kept)
        row = self.rows.get(key, AgainRow(*key))
        self.rows[key] = replace(row, views=row.views + 1, copies=row.copies + copies)

    # ------------------------------------------------------------------ files

    def _draft(self, proto: ModelProto, model: int) -> str:
        """Write a view whose data file has no name yet, and return its path."""
        path = os.path.join(self.folder, f"draft-{model}")
        with open(path, "xb") as file:
            file.write(_bytes(proto))
        return path

    def _finished(self, path: str, counts: _Counts, note: str, *, model: int) -> Made:
        """Give the draft of a view the name of its data file, and then a name by its content."""
        with open(path, "rb") as file:
            text = file.read()
        if self.extra:
            proto = ModelProto.FromString(text)
            for tensor in tensors(proto):
                if tensor.data_location == TensorProto.EXTERNAL:
                    extent = external.extent_of(tensor)
                    if extent.path == _PLACEHOLDER:
                        external.refer(tensor, replace(extent, path=self.extra))
            text = _bytes(proto)
        digest = hashlib.sha256(text).hexdigest()
        name = f"view-{model}-{digest[:16]}.onnx"
        with open(os.path.join(self.folder, name), "xb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.unlink(path)
        return Made(name, digest, len(text), counts.shared, counts.again, note)

    def _named(self, path: str) -> str:
        """Give the data file of the views its name, by its content; '' where it holds nothing."""
        if not os.path.getsize(path):
            os.unlink(path)
            return ""
        name = f"views-{reader.digest_of(path)[:16]}.data"
        os.rename(path, os.path.join(self.folder, name))
        return name


def refer(tensor: TensorProto, extent: Extent) -> None:
    """Make a tensor refer to bytes in another file, in place of values that it may hold."""
    for name in VALUES:
        tensor.ClearField(name)
    external.refer(tensor, extent)


def movable(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield the tensors that may lie outside the file: initializers, those of bodies too, and the values of
    Constant nodes. ONNX Runtime reads no other attribute from a data file."""
    for graph in walk.graphs(proto.graph):
        yield from graph.initializer
    for scope in (proto.graph, *proto.functions):
        for node in walk.nodes(scope):
            if node.op_type == "Constant" and not node.domain:
                yield from (each.t for each in node.attribute if each.name == "value")


def steers(weight: Weight) -> bool:
    """Return True for a weight that may decide a shape, so that inference must find it in the graph."""
    is_list = weight.dtype == TensorProto.INT64 and len(weight.shape) <= 1
    return is_list and weights.nbytes(weight) <= STEERING


def _bytes(proto: ModelProto) -> bytes:
    """Return the bytes of a view. They depend on nothing but its content."""
    if proto.ByteSize() > _LIMIT:
        raise FileFault(
            "A view would take more than 2 GiB: attributes hold its weights, and can't be in another file.",
            "Merge without --views.",
        )
    return bytes(proto.SerializeToString(deterministic=True))


# --------------------------------------------------------------------------- the graph of a view


def _graph(family: Correspondence, source: Source, model: int) -> tuple[ModelProto, str]:
    """Return the skeleton of a view, whose large weights refer to the files of the sources, and how its
    outputs differ from those of the source; '' where they do not."""
    if source.adapted:
        return rebuild.model(source, places=True), ADAPTED
    if family.low_rank and family.low_rank.factored:
        return _of_family(family, model), FACTORED
    return stripped(source), ""


def stripped(source: Source) -> ModelProto:
    """Return the skeleton of a source's file without what describes nodes and values to people: exporters
    write a stack trace for each node, which takes more bytes than the rest of the graph. The metadata of the
    model stay."""
    proto = wire.scan(source.path, threshold=REFERRED).model
    for graph in walk.graphs(proto.graph):
        for each in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            _clear(each)
    for scope in (proto.graph, *proto.functions):
        _clear(scope)
        for node in walk.nodes(scope):
            for part in (node, *node.attribute):
                _clear(part)
    return proto


def _clear(message: Message) -> None:
    for name in ("doc_string", "metadata_props"):
        if name in message.DESCRIPTOR.fields_by_name:  # the oldest onnx that is supported has fewer
            message.ClearField(name)


def _of_family(family: Correspondence, model: int) -> ModelProto:
    """Return the skeleton of one model of a family, with its own names of inputs and outputs."""
    held = {name: parts[model if len(parts) > 1 else 0] for name, parts in family.weights.items()}
    graph = replace(family.graph, weights=held)
    source = replace(family.sources[model], graph=graph, opsets=family.opsets, ir_version=family.ir_version)
    proto, edge = rebuild.model(source, places=True), family.edge(model)
    own = {name: mine for side in (edge.inputs, edge.outputs) for name, mine in side.items()}
    if any(name != mine for name, mine in own.items()):
        _rename(proto, own)
    return proto


def _rename(proto: ModelProto, own: dict[str, str]) -> None:
    """Give the inputs and outputs of a graph the names `own`. What else has such a name gets another one."""
    used = set(walk.defined(proto.graph))
    final = {name: name for name in used} | own
    for name in used - own.keys():
        while final[name] in own.values() or (final[name] != name and final[name] in used):
            final[name] += "_"
    if len(set(final.values())) < len(final):
        raise InternalError("Two values of a view have one name.", "Please report this.")
    walk.rename(proto.graph, lambda name: final.get(name, name))
