"""Tells if a merged file was changed after it was merged, and by what kind of tool, from the file alone.

The metadata, which most tools keep, hold facts of the graph as it was written (write/written.py). Files of
old versions lack them: of those, it shows in merged weights that are gone and in operators that no row lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from netfuse_onnx.changed import HALF, OPTIMISED, OTHERWISE, QUANTISED, Changed
from netfuse_onnx.ops.schemas import MICROSOFT
from netfuse_onnx.prove.lineage import quantises as computes_quantised
from netfuse_onnx.storage import wire
from netfuse_onnx.write.metadata import Metadata
from netfuse_onnx.write.written import Written

HALVES = ("10", "16")
"""float16 and bfloat16, by their numbers in ONNX."""
SELF = "netfuse-onnx"


def quantises(op: str) -> bool:
    """True for an operator that a quantised file has: those of weights alone, too."""
    return computes_quantised(op) or op.endswith("DequantizeLinear")


def since_merge(path: str, about: Metadata) -> Changed | None:
    """Return the change of a merged file since the merge; None where there is none that shows."""
    model = wire.scan(path).model
    now, then = Written.of(model), about.written
    if then is not None and now.sha256 == then.sha256:
        return None
    rows = Counter(row.op for row in about.lowered.nodes)
    before = Counter(then.operators) if then else rows
    added, removed = Counter(now.operators) - before, before - Counter(now.operators)
    missing = len(about.weights.keys() - {tensor.name for tensor in model.graph.initializer})
    if then is None:  # the rows list a model's nodes: only what they never have says something
        added = Counter({op: count for op, count in added.items() if quantises(op) and op not in rows})
        removed = Counter()
        if not added and not missing:
            return None
    how = _how(
        added, _halves(now.types) > _halves(then.types if then else now.types), bool(missing or removed)
    )
    by = model.producer_name if model.producer_name != SELF else ""
    return Changed(path, how, by, _told(how, added), {} if how == QUANTISED else dict(removed), missing)


def _how(added: Mapping[str, int], halved: bool, fewer: bool) -> str:
    if any(quantises(op) for op in added):
        return QUANTISED
    if halved:
        return HALF
    return OPTIMISED if fewer or any(op.startswith(f"{MICROSOFT}.") for op in added) else OTHERWISE


def _told(how: str, added: Mapping[str, int]) -> dict[str, int]:
    """Return the nodes that are worth telling: of a quantised file those that quantise."""
    return {op: count for op, count in added.items() if how != QUANTISED or quantises(op)}


def _halves(types: Mapping[str, int]) -> int:
    return sum(types.get(kind, 0) for kind in HALVES)
