"""The plan that an earlier run chose by measuring, for the same family on the same machine."""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import replace

from netfuse_onnx.dims import points
from netfuse_onnx.plan import recorded
from netfuse_onnx.plans import GENERIC, Plan, Plans, Request
from netfuse_onnx.prove import remake
from netfuse_onnx.run import hardware
from netfuse_onnx.tune import cache, plans
from netfuse_onnx.tuning import Tuning, tuned_from
from netfuse_onnx.write.digests import of_files


class Memory:
    """The answer to the same question of an earlier run."""

    def __init__(self, ask: Request) -> None:
        self.ask = ask
        about = cache.about(ask.options.runtime, hardware.cores()) | {
            "family": plans.fingerprint(ask.plan.family),
            "io": ask.io,
            "share": sorted(ask.share),
            "combined": sorted(ask.plan.family.combined.items()),
            "dims": [sorted(point.items()) for point in points(ask.dims)],
            "target": ask.target,
            "constants": remake.constants(ask.target),
            "inputs": _content(ask.options.file),
        }
        self.stored = plans.Remembered(about)

    def read(self) -> tuple[Plan, Tuning] | None:
        """The plan, made again, and what was said of it; None where there is none, or less time was allowed
        for it than now."""
        answer = self.stored.read()
        try:
            if answer is None or answer["tuning"]["budget"] < self.ask.seconds:
                return None
            tuning = tuned_from(answer["tuning"], answer["out"], self.ask.out)
            sizes = tuple({str(n): int(d) for n, d in row.items()} for row in answer["measured"])
            plan = replace(self._plan(tuning.chosen, answer["rows"]), measured=sizes)
            return plan, replace(tuning, cached=str(answer["day"]))
        except (KeyError, TypeError, ValueError, AttributeError, recorded.NotOnOffer):
            return None

    def _plan(self, name: str, rows: object) -> Plan:
        ask = self.ask
        if rows is not None:
            return Plans(ask).recorded(name, plans.rows(rows))
        if name != GENERIC:
            return ask.plan
        plain = ask.families("") if ask.provider == "cuda" else ask.plan.family
        return Plan.of(plain, io=ask.io, share=ask.share, target=GENERIC, dims=ask.dims)

    def write(self, plan: Plan, tuning: Tuning) -> None:
        if tuning.measured is None:
            return
        self.stored.write(
            {
                "day": datetime.date.today().isoformat(),
                "out": self.ask.out,
                "measured": plan.measured,
                "rows": None if plan.rows is None else plans.written(plan.rows),
                "tuning": dataclasses.asdict(tuning),
            }
        )


def _content(path: str) -> str:
    """The SHA-256 of a file of inputs, '' where none is given."""
    return of_files([path]) if path else ""
