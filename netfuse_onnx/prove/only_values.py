"""Proves a merged file that another tool has changed since the merge, by its values alone.

Its bytes and its graph are no longer those of a merge. Values are compared within the tolerance of the least
precise type that the file computes in, or --rtol and --atol, and the check of isolation is exact as ever:
what one model is fed must not change the others' outputs by a bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from netfuse_onnx.changed import QUANTISED, Changed
from netfuse_onnx.labels import Labels
from netfuse_onnx.load.claims import unclaimed
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.loader import load
from netfuse_onnx.proofs import BytesProof, GraphProof
from netfuse_onnx.prove.level import leaving_out_fusions
from netfuse_onnx.prove.lineage import NAMES, lineages
from netfuse_onnx.prove.prover import blind_spots, warnings
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.prove.values import prove_values
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.types import Correspondence

NOTE = "Not compared (--values)."


def prove_only_values(
    path: str, family: Correspondence, options: Options, tell: Progress, changed: Changed | None
) -> VerifyReport:
    """Make proof (b) alone. `changed` is the change of the file since the merge. Raises NotProven as `prove`
    does."""
    found = precisions(path, family, options, changed)
    options = replace(leaving_out_fusions(options, path), precisions=found)
    values = prove_values(path, family, options, tell)
    blind = tuple(blind_spots(values))
    told = (*blind, *warnings(values, options))
    return VerifyReport(
        path, family.names, BytesProof(note=NOTE), values, told, GraphProof(note=NOTE), blind, changed=changed
    )


def precisions(
    path: str, family: Correspondence, options: Options, changed: Changed | None
) -> Mapping[str, str]:
    """Return the least precise type on the way to each output in the file, by the first model's names."""
    if changed and changed.how == QUANTISED:
        return dict.fromkeys(family.graph.outputs, "8-bit")
    lines = lineages(infer(unclaimed(load(path))).graph)
    labels = Labels.of(family, options.io, options.share)
    each = {name: {labels.output(m, name) for m in range(family.models)} for name in family.graph.outputs}
    return {
        name: max(
            (lines[made].precision for made in merged if made in lines), key=NAMES.index, default=NAMES[0]
        )
        for name, merged in each.items()
    }
