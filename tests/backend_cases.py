"""ONNX's own backend node tests as families of three models: the yardstick of the rules.

Every case that ONNX Runtime runs alone is merged in two forms. A: each data input is a graph input of each
model. B: each data input but the first is a weight of each model. Inputs that steer shapes, axes or sizes
are initializers, equal in all models. The merged model must give what the single models give.

    python tests/backend_cases.py [--filter REGEX] [--form A|B] [--json FILE] [--jobs 2]

prints what is batched, and by operator what is replicated or fails, and why.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import onnx_graphsurgeon as gs
import onnxruntime as ort
import oracle
from backend_family import MODELS, Case, Family, Singles, collect, older
from backend_run import Session, compare
from backend_table import ABSENT, FAULTS, Row, summary, table

from netfuse_onnx import opened, sources
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.types import Became, Correspondence, Plan

FORMS = ("A", "B")

# --------------------------------------------------------------------------- one case


def examine(
    case: Case, forms: Sequence[str], folder: Path, tell: Callable[[str], None], *, forced: bool = False
) -> list[Row]:
    """The rows of one case. `tell` is called with the form before anything that may not come back."""
    tell(forms[0])
    family, fault = start(case)
    rows = [Row(case.name, case.op, form, ABSENT, fault) for form in forms]
    if family is None:
        return rows
    for i, row in enumerate(rows):
        tell(row.form)
        files, fed = family.sources(row.form)
        if i and len(files) == 1:
            rows[i] = dataclasses.replace(rows[0], form=row.form, seconds=0.0)
            continue
        row.opset, row.levels, row.same = family.case.opset, family.levels, family.same
        began = time.perf_counter()
        try:
            row.status, row.detail = judge(row, Singles(family, files, fed), folder, forced=forced), ""
        except Failed as failure:
            row.status, row.detail = failure.status, failure.detail
        row.seconds = round(time.perf_counter() - began, 3)
    return rows


def start(case: Case) -> tuple[Family | None, str]:
    """The family, at the newest opset that ONNX Runtime has kernels for, or why there is none."""
    fault = ""
    for version in older(case):
        try:
            return Family(version), ""
        except Exception as error:
            fault = fault or short(error)
            if type(error).__name__ != "NotImplemented":
                break
    return None, fault


def judge(row: Row, alone: Singles, folder: Path, *, forced: bool) -> str:
    """Merge the models, run the merged one, and compare. Raises Failed."""
    row.blind = alone.blind
    with failing("merge error"):
        corr = match(alone.files, folder)
        plans = list(oracle.plans(corr, "separate", frozenset())) if forced else [planning.plan(corr)]
    row.replicated = replicated(corr, plans[0])
    for i, plan in enumerate(plan for plan in plans if plan.cost < math.inf):
        where = f", lowered by {[lowering.rule for lowering in plan.lowerings]}" if i else ""
        with failing("merge error", where):
            merged = oracle.materialise(lower(corr, plan))
        for level in oracle.LEVELS:
            verdict(merged, alone, level, f"{level.name}{where}")
    return "replicated" if row.replicated else "batched"


def match(files: Sequence[bytes], folder: Path) -> Correspondence:
    paths = [folder / f"{model}.onnx" for model, _ in zip(MODELS, files, strict=False)]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    models = sources.read([str(path) for path in paths] * (len(MODELS) // len(files)))
    return opened.matched(models, MODELS, partial=False)


def replicated(corr: Correspondence, plan: Plan) -> list[tuple[str, str]]:
    """The operators that the plan holds once per model, with the reasons."""
    pairs = zip(corr.graph.nodes, plan.lowerings, strict=True)
    return [(node.key, lowering.reason) for node, lowering in pairs if lowering.became is Became.REPLICATED]


def verdict(merged: bytes, alone: Singles, level: Any, where: str) -> None:
    """Raises Failed where the merged model does not run or gives something else than the single ones."""
    family = alone.family
    feeds = {
        f"{model}/{name}": value
        for m, model in enumerate(MODELS)
        for name, value in family.feeds(m, alone.fed).items()
    }
    with failing("run error", where):
        got = Session(merged, level).run(feeds)
    with failing("wrong values", where):
        for m, model in enumerate(MODELS):
            want = alone.outputs[m]
            mine = {name: got[f"{model}/{name}"] for name in want}
            other = functools.partial(alone.unoptimised, m)
            compare(mine, want, other, f"of model {model}", shapes_only=family.case.random)


class Failed(Exception):
    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


class failing:
    """Turn what is raised inside into a Failed of that status."""

    def __init__(self, status: str, where: str = "") -> None:
        self.status, self.where = status, where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            raise Failed(self.status, f"{short(error)} {self.where}".strip()) from error


def short(error: BaseException) -> str:
    text = " ".join((str(error) or "no message").split())
    return f"{type(error).__name__}: {text}"[:400]


# --------------------------------------------------------------------------- command line


def serve(pipe: Connection, forms: Sequence[str], forced: bool) -> None:
    warnings.simplefilter("ignore")
    ort.set_default_logger_severity(4)
    gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL
    with tempfile.TemporaryDirectory() as folder:
        while (case := pipe.recv()) is not None:
            pipe.send(examine(case, forms, Path(folder), pipe.send, forced=forced))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--filter", default="", metavar="REGEX", help="only cases whose name it matches")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one in N cases of each operator")
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--forced", action="store_true", help="try every lowering of every node as well")
    parser.add_argument("--json", metavar="FILE", help="write one object per case and form")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    began = time.monotonic()
    forms = (args.form,) if args.form else FORMS
    service = functools.partial(serve, forms=forms, forced=args.forced)
    rows = table(collect(args.filter, args.every), forms, service, args.jobs)
    if args.json:
        Path(args.json).write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    sys.stdout.write(f"{summary(rows)}\n\n{time.monotonic() - began:.0f} s\n")
    return int(any(row.status in FAULTS for row in rows))


if __name__ == "__main__":
    sys.exit(main())
