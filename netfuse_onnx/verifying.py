"""verify: the stages in their order, from a merged file and its sources to its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from netfuse_onnx import opened
from netfuse_onnx.changed import Changed
from netfuse_onnx.errors import FileFault, ValuesDiffer
from netfuse_onnx.options import Proof
from netfuse_onnx.prove import afterwards, remake
from netfuse_onnx.prove.only_values import prove_only_values
from netfuse_onnx.prove.prover import prove
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.write import fingerprint, metadata


def recorded(merged: str) -> tuple[metadata.Metadata, Changed | None]:
    """Return the metadata of a merged file, and its change since the merge."""
    about = metadata.read(merged)
    return about, afterwards.since_merge(merged, about)


def verified(
    merged: str, paths: Sequence[str], isolation: bool, values: bool, progress: Progress, proof: Proof
) -> VerifyReport:
    """Prove a merged file against its sources, as `api.verify` does."""
    about, options, family, strangers = opened.read_merged(merged, paths, proof, weights=not values)
    changed = afterwards.since_merge(merged, about)
    options = replace(options, isolation=isolation, made_for=about.made_for)
    if values:
        proved = prove_only_values(merged, family, options, progress, changed)
        warnings = (*strangers, *proved.warnings)
        return replace(proved, warnings=warnings, fingerprint=fingerprint.of(merged))
    try:
        recipes = metadata.recipes(about, family, merged)
    except FileFault as error:
        if strangers:
            raise ValuesDiffer(strangers[0], "Give the models that were merged.") from error
        if changed:
            raise ValuesDiffer(changed.sentence, changed.hint) from error
        raise
    progress("planning again", 0, 1)
    graph = remake.prove_remade(merged, about, family, recipes)
    proved = prove(merged, recipes, family, options, progress, graph=graph)
    warnings = (*strangers, *proved.warnings)
    return replace(proved, warnings=warnings, changed=changed, fingerprint=fingerprint.of(merged))
