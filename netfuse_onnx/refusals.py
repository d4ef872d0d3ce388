"""The refusals of merge and bench after their work: each is raised with the report as far as it got."""

from __future__ import annotations

from dataclasses import replace

from netfuse_onnx import edges
from netfuse_onnx.errors import NotProven, StrictViolated, UsageFault, ValuesDiffer
from netfuse_onnx.report import NOT_PROVEN, MergeReport, VerifyReport
from netfuse_onnx.rules.fallback import CHEAPER
from netfuse_onnx.run import bounds
from netfuse_onnx.types import Correspondence


def not_simplified(*, views: bool, low_rank: bool) -> None:
    """Raise UsageFault for what needs the graphs of the files as they are."""
    for option, given in (("--views", views), ("--low-rank", low_rank)):
        if given:
            raise UsageFault(f"--simplify can't be combined with {option}.", "Simplify the files first.")


def replicated(answer: MergeReport) -> None:
    """Raise StrictViolated where a node would be replicated because no rule applies."""
    rows = [row for row in answer.lowered.replicated if row.reason != CHEAPER]
    if not rows:
        return
    named = "; ".join(f"{row.op} {row.name!r}: {row.reason}" for row in rows[:3])
    more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
    total = len(answer.lowered.nodes)
    raise StrictViolated(
        f"{len(rows)} of {total} nodes would be replicated once per model ({named}{more}).",
        " ".join(answer.lowered.notes) or "Merge without --strict to accept that.",
    ).with_report(answer)


def slower(answer: MergeReport) -> None:
    """Raise StrictViolated where measuring found no plan that is faster than the best alternative."""
    if answer.tuning is not None and not answer.tuning.beats:
        raise StrictViolated(
            answer.tuning.advice.replace("No plan", "By measuring, no plan", 1),
            "Merge without --strict to accept that.",
        ).with_report(answer)


def proven(answer: MergeReport, proof: VerifyReport, strict: bool) -> MergeReport:
    """Return the report with its proof. Raises ValuesDiffer or NotProven where that does not hold."""
    warnings = (*answer.warnings, *proof.warnings)
    answer = replace(answer, proof=replace(proof, strict=strict), warnings=warnings)
    unproven(answer)
    return answer


def unproven(answer: MergeReport) -> None:
    """Raise ValuesDiffer where a proof failed, NotProven where it could not tell."""
    proved = answer.proof
    if proved is None or proved.ok:
        return
    if proved.exit_code == NOT_PROVEN:
        ways = "merge without --strict" if proved.values.ok else "a tolerance with --rtol or --atol"
        raise NotProven(
            proved.failure,
            f"{answer.out} was not written. Give real inputs with --inputs, or {ways}, or write without the "
            "proof: --no-verify.",
        ).with_report(answer)
    raise ValuesDiffer(
        f"The merged model is not equal to its sources: {proved.failure}",
        f"{answer.out} was not written. If the difference is rounding, allow it with --rtol or --atol; "
        "else please report it.",
    ).with_report(answer)


def unbounded(merged: str, family: Correspondence, limit: int) -> None:
    """Raise NotProven for a merged file that never ends, or always takes more than `limit` bytes."""
    if reason := bounds.of_merged(merged, family, limit):
        raise NotProven(f"{merged} is not run: {reason}.", "Allow more with --max-memory.")


def unmeasured(io: str) -> None:
    """Raise UsageFault where plans can't be measured: only a call tells how many models it runs."""
    if edges.chooses(io):
        raise UsageFault(
            "--tune can't measure plans whose models a call chooses.",
            "Leave out --tune, or give --routing slots." if edges.is_routed(io) else "Leave out --tune.",
        )
