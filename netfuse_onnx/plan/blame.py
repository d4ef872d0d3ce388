"""Whom to blame when a rule fails on a node: the file, where onnx itself finds the node invalid, else us.

Rules take operands to be what the operator asks for: so many axes, an order of them, one number for each. To
ask onnx about every node would take longer than to merge them, and would refuse files that run; it is asked
when a rule fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx import ModelProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.load import rebuild
from netfuse_onnx.ops import kinds, schemas
from netfuse_onnx.ops.corrected import FRAGILE
from netfuse_onnx.rules import Site
from netfuse_onnx.types import Correspondence

STUMBLES = (IndexError, KeyError, OverflowError, TypeError, ValueError, ZeroDivisionError)


@contextmanager
def blamed(corr: Correspondence, site: Site) -> Iterator[None]:
    """Turns what a rule raises over an invalid node into a FileFault that names it. Else it stays our bug."""
    try:
        yield
    except STUMBLES as error:
        said = complaint(corr, site)
        if not said:
            raise
        name = site.node.name or next(filter(None, site.node.outputs), "")
        raise FileFault(
            f"{corr.sources[0].path}: {site.node.key} '{name}' is not valid: {said}.",
            "The file is not a valid ONNX model; export it again.",
        ) from error


def complaint(corr: Correspondence, site: Site) -> str:
    """The first line of what onnx says of a node alone, on inputs of its types; '' where it takes it."""
    node = site.node
    if node.op in FRAGILE and not (site.inputs and (site.inputs[0].dtype or site.inputs[0].proto)):
        return ""  # onnx would end the process
    if said := _miscounted(site):
        return said
    model = ModelProto(ir_version=max(corr.ir_version, 4))
    for domain, version in corr.opsets.items():
        model.opset_import.add(domain=domain, version=version)
    model.graph.name = "node"
    model.graph.node.append(rebuild.node_proto(node, corr.opsets))
    for name, kind, value in zip(node.inputs, site.inputs, site.values, strict=True):
        if value is not None and name and value.dtype.kind in "biuf":
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        elif name:
            model.graph.input.append(kinds.declared(name, kind))
    outputs = zip(node.outputs, site.outputs, strict=True)
    model.graph.output.extend(kinds.declared(name, kind) for name, kind in outputs if name)
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as fault:  # onnx raises many kinds
        lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
        return (lines[-1] if lines else type(fault).__name__).rstrip(".")[:300]
    return ""


def _miscounted(site: Site) -> str:
    """The words for an operator of ONNX Runtime, which onnx does not know, with another number of inputs than
    it takes; else ''."""
    node = site.node
    bounds = schemas.input_count(node.key) if node.domain else None
    if bounds is None:
        return ""
    (least, most), count = bounds, len(node.inputs)
    fits = least <= count and (most is None or count <= most)
    return (
        ""
        if fits
        else f"it has {count} inputs, and takes {least} to {'any number' if most is None else most}"
    )
