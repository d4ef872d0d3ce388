"""Path -> Source: what the file says, in normal form, with weights left where they are.

No tensor bytes are read here: `wire.scan` finds where they lie, everything else works on the skeleton.
"""

from __future__ import annotations

from onnx import ModelProto, inliner

from netfuse_onnx.errors import FileFault
from netfuse_onnx.load import normal, producer, validate
from netfuse_onnx.load import opset as opsets_
from netfuse_onnx.ops import schemas, walk
from netfuse_onnx.storage import wire
from netfuse_onnx.types import Source


def load(path: str, *, opset: int | None = None) -> Source:
    """One source in normal form; with `opset`, converted to that version of the default domain.

    Raises FileFault for a file that can't be read, is no valid model or can't be raised to opset 7,
    NotEquivalent where the conversion is not possible.
    """
    scanned = wire.scan(path)
    validate.check(scanned.model, path)
    model = _inlined(scanned.model, path)
    if not model.HasField("graph"):
        raise FileFault(f"{path}: the file holds no graph.", "Is it an ONNX model?")
    imports = _imports(model, path)
    source = Source(
        path=path,
        graph=normal.normalise(model.graph, path, imports),
        opsets=imports,
        ir_version=model.ir_version,
        metadata={entry.key: entry.value for entry in model.metadata_props},
        files=tuple(scanned.files),
        node_count=walk.count(model.graph),
        producer=producer.of(scanned.model),
    )
    source = opsets_.read(source)
    return source if opset is None else opsets_.convert(source, opset)


def _imports(model: ModelProto, path: str) -> dict[str, int]:
    """Domain -> version. A file of the time before opsets counts as opset 1."""
    imports: dict[str, int] = {}
    for entry in model.opset_import:
        domain = schemas.canonical(entry.domain)
        imports[domain] = max(entry.version, imports.get(domain, 0))
    if not imports and model.ir_version < 3:
        imports[""] = 1
    if not imports:
        raise FileFault(f"{path}: the file imports no opset.", "Is it an ONNX model?")
    return imports


def _inlined(model: ModelProto, path: str) -> ModelProto:
    """Calls of the file's own functions replaced by what they do."""
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except Exception as fault:
        first = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise FileFault(
            f"{path}: the model's own functions can't be inlined: {first}",
            "Export the model again without functions, or inline them with onnx.inliner.",
        ) from fault
