"""The table of merged files that were served on a GPU, from the lines of bench/device/serve_results.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WAYS = {
    "run_many": "run_many", "merged": "merged call", "together": "own at once", "run": "one by one",
    "bound": "bound, one by one", "at once": "bound, at once",
}  # fmt: skip
"""The ways of serve.py that are shown, and what they are called in the table."""
WRONG, ALLOWED = 1.3, 0.3
"""A call of run_many that takes so many times as long as the faster of its two ways, and so many ms more,
chose another: to check the requests of 32 small models and to hand them over takes 0.15 ms."""


def lines(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the section about the cases, none where there are none."""
    if not cases:
        return
    yield from ("", "## Served", "")
    yield (
        "One row of each model, as MergedSession serves a bundle: medians in ms, with quartiles for "
        "run_many, which chooses among the merged call and the models' own sessions, at once or one by one. "
        "The others are the sources' sessions: `session.run` one by one, with fixed places and CUDA graphs, "
        "and these started at once. The gain is that of run_many over the fastest of them."
    )
    yield ""
    yield f"| models | {' | '.join(WAYS.values())} | gain |"
    yield f"|---|{'---:|' * (len(WAYS) + 1)}"
    yield from (_row(case) for case in cases)
    yield from ("", "One row of one model, medians in ms:", "")
    yield from ("| models | MergedSession.run | session.run | bound |", "|---|---:|---:|---:|")
    for case in cases:
        of_one = [f"{case['ms'][f'one/{way}'][1]:.2f}" for way in ("MergedSession.run", "run", "bound")]
        yield f"| {case['served']} | {' | '.join(of_one)} |"
    yield ""
    errors = max(case["error"] for case in cases if case["error"] is not None)
    checks, failed = (sum(case[what] for case in cases) for what in ("checks", "failed"))
    apart = min(case["apart"] for case in cases)
    yield (
        f"Values: {checks} comparisons with the sources' sessions, {failed} failed; TF32 as by default. The "
        f"largest error is {errors:.1e} of the largest value; two models differ by {apart:.1e} at least."
    )
    slow = [case["served"] for case in cases if chose_wrongly(case["ms"])]
    if slow:
        yield from ("", f"Of its ways, run_many did not take the fastest for {', '.join(slow)}.")


def chose_wrongly(ms: Mapping[str, Sequence[float]]) -> bool:
    """Return True where run_many took much longer than the faster of its ways."""
    fastest = min(ms["merged"][1], ms["together"][1])
    return ms["run_many"][1] > max(WRONG * fastest, fastest + ALLOWED)


def _row(case: Mapping[str, Any]) -> str:
    ms = case["ms"]
    low, own, high = ms["run_many"]
    best = min(ms[way][1] for way in ("run", "bound", "at once") if way in ms)
    others = " | ".join(f"{ms[way][1]:.2f}" if way in ms else "" for way in list(WAYS)[1:])
    return f"| {case['served']} | {own:.2f} ({low:.2f} - {high:.2f}) | {others} | {best / own:.2f} |"
