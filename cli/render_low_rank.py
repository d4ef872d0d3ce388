"""Prints low-rank differences: what they store instead of the weights, and the proof of them."""

from __future__ import annotations

from collections import Counter

from netfuse_onnx.factored import LowRankReport
from netfuse_onnx.proofs import Reconstruction

from .screen import REASONS, Screen, size


def low_rank(report: LowRankReport | None, console: Screen) -> None:
    """Print one line on the weights that are low-rank differences, and one for each reason why others are
    not."""
    if report is None:
        return
    rows = report.weights
    total = len(rows) + len(report.whole)
    if rows:
        ranks = _range(sorted(row.rank for row in rows))
        error = max(row.error for row in rows)
        stored, whole = (
            size(sum(part)) for part in zip(*((r.bytes, r.whole_bytes) for r in rows), strict=True)
        )
        bases = sorted({row.base for row in rows})
        base = f"of {bases[0]}" if bases[0] else "of the base"
        console.say(
            f"Low rank: {len(rows)} of {total} weights that differ are W0 + L R, with W0 {base}: {ranks}, "
            f"{stored} instead of {whole}; largest error {error:.2g} of what is allowed."
        )
    else:
        console.say(f"Low rank: none of {total} weights that differ is W0 + L R.")
    reasons = Counter(report.whole.values()).most_common()
    for reason, count in reasons[:REASONS]:
        console.say(f"  {count} stored for each model: {reason}.")


def _range(ranks: list[int]) -> str:
    first, last = ranks[0], ranks[-1]
    return f"rank {first}" if first == last else f"ranks {first} to {last}"


def reconstruction(proof: Reconstruction | None, console: Screen) -> None:
    """Print the proof of W0 + L R."""
    if proof is None:
        return
    if proof.ok:
        worst = max(proof.weights, key=lambda row: row.error)
        console.say(
            f"Factors: W0 + L R of {len(proof.weights)} weights is the weight of every model; the largest "
            f"error is {worst.error:.2g} of what is allowed ({worst.weight}, {worst.model})."
        )
    for problem in proof.problems[:REASONS]:
        console.say(f"Factors: {problem}")
