"""The table of the backend cases: rows made in processes of their own, and what they add up to."""

from __future__ import annotations

import collections
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

FINE = ("batched", "replicated")
FAULTS = ("wrong values", "merge error", "run error")
ABSENT = "not run alone"
PATIENCE = 120.0
"""Seconds after which a case that says nothing is given up."""


@dataclass
class Row:
    """The result of one case in one form.

    `status` is one of FINE, FAULTS and ABSENT; `replicated` holds operators and reasons; `opset` is set
    where the case runs at that older opset only; `levels` says how each data input was varied; `same` are
    data inputs that are equal in all models; `blind`: two models could be swapped without a difference.
    """

    case: str
    op: str
    form: str
    status: str = ""
    detail: str = ""
    replicated: list[tuple[str, str]] = field(default_factory=list)
    opset: int = 0
    levels: dict[str, str] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    blind: bool = False
    seconds: float = 0.0


# --------------------------------------------------------------------------- processes

Serve = Callable[[Any], None]
"""Runs in a process: receives cases until None, sends the form it is at (a string), then rows (a list)."""


def table(cases: Sequence[Any], forms: Sequence[str], serve: Serve, jobs: int) -> list[Row]:
    """The rows of all cases. One that kills its process takes nothing with it but itself."""
    todo = list(range(len(cases)))[::-1]
    rows: dict[int, list[Row]] = {}
    workers = [Worker(cases, forms, serve) for _ in range(max(1, min(jobs, len(cases))))]
    for worker in workers:
        worker.start(todo)
    while busy := {worker.pipe: worker for worker in workers if worker.busy}:
        wait(busy, timeout=1.0)
        for worker in busy.values():
            worker.collect(rows, todo)
    for worker in workers:
        worker.stop()
    return [row for i in sorted(rows) for row in rows[i]]


class Worker:
    """A process that examines one case after another."""

    def __init__(self, cases: Sequence[Any], forms: Sequence[str], serve: Serve) -> None:
        self.cases, self.forms, self.serve = cases, forms, serve
        self.at, self.form, self.busy, self.heard = -1, forms[0], False, 0.0

    def start(self, todo: list[int]) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self._next(todo)

    def collect(self, rows: dict[int, list[Row]], todo: list[int]) -> None:
        """Take what the process says; where it died or fell silent, say so and start another."""
        try:
            while self.busy and self.pipe.poll():
                self._hear(self.pipe.recv(), rows, todo)
        except (EOFError, ConnectionResetError):
            self.process.join(5)
            self._lost(f"the process died with exit code {self.process.exitcode}", rows, todo)
        if self.busy and time.monotonic() - self.heard > PATIENCE:
            self.process.kill()
            self._lost(f"no answer in {PATIENCE:.0f} s", rows, todo)

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join(5)

    def _next(self, todo: list[int]) -> None:
        self.busy = bool(todo)
        if todo:
            self.at = todo.pop()
            self.heard = time.monotonic()
            self.pipe.send(self.cases[self.at])

    def _hear(self, said: Any, rows: dict[int, list[Row]], todo: list[int]) -> None:
        self.heard = time.monotonic()
        if isinstance(said, str):
            self.form = said
        else:
            rows[self.at] = said
            self._next(todo)

    def _lost(self, why: str, rows: dict[int, list[Row]], todo: list[int]) -> None:
        case, detail = self.cases[self.at], f"{why} in form {self.form}"
        rows[self.at] = [Row(case.name, case.op, form, "run error", detail) for form in self.forms]
        self.start(todo)


# --------------------------------------------------------------------------- what it adds up to


def batched_share(rows: Sequence[Row]) -> float:
    """The part of the cases that is batched in every form, of those that run as they are."""
    counted = [row for row in rows if row.status != ABSENT and not row.opset]
    every, rest = {row.case for row in counted}, {row.case for row in counted if row.status != "batched"}
    return len(every - rest) / max(1, len(every))


def faults(rows: Sequence[Row]) -> list[str]:
    return [f"{row.case} {row.form}: {row.status}: {row.detail}" for row in rows if row.status in FAULTS]


def summary(rows: Sequence[Row]) -> str:
    """Counts, then the operators that are not batched throughout, with the reasons."""
    return "\n".join([*totals(rows), "", *by_operator(rows), "", *absent(rows)])


def totals(rows: Sequence[Row]) -> Iterator[str]:
    ran = [row for row in rows if row.status != ABSENT]
    plain = [row for row in ran if not row.opset]
    yield f"{cases(rows)} cases; ONNX Runtime runs {cases(plain)} of them alone"
    for form in sorted({row.form for row in rows}):
        yield f"form {form}: {counts([row for row in plain if row.form == form])}"
    yield f"batched in every form: {batched_share(rows):.2%} of the cases"
    if older := [row for row in ran if row.opset]:
        yield f"run at an older opset, not counted above: {cases(older)} cases, {counts(older)} rows"
    same, blind = [row for row in ran if row.same], [row for row in ran if row.blind]
    yield f"{len(same)} rows have an input that is equal in all models; {len(blind)} could not see a swap"


def cases(rows: Sequence[Row]) -> int:
    return len({row.case for row in rows})


def counts(rows: Sequence[Row]) -> str:
    found = collections.Counter(row.status for row in rows)
    return ", ".join(f"{found[status]} {status}" for status in (*FINE, *FAULTS) if found[status]) or "none"


def by_operator(rows: Sequence[Row]) -> Iterator[str]:
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.op, row.case, row.form)):
        if row.status != ABSENT:
            groups.setdefault(row.op, []).append(row)
    whole = [op for op, mine in groups.items() if all(row.status == "batched" for row in mine)]
    yield f"batched throughout ({len(whole)} operators): {', '.join(whole)}"
    for op, mine in groups.items():
        if op in whole:
            continue
        yield f"{op}: {counts(mine)}"
        for reason, where in sorted(reasons(mine).items(), key=lambda item: (-len(item[1]), item[0])):
            yield f"    {len(where)} x {reason}  [{where[0]}{', ...' if len(where) > 1 else ''}]"


def reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Why the rows are not batched, names left out, and the rows that say so."""
    found: dict[str, list[str]] = {}
    for row in rows:
        lines = [f"{op} replicated: {general(why)}" for op, why in row.replicated]
        if row.status in FAULTS:
            lines = [f"{row.status}: {general(row.detail)}"]
        for line in dict.fromkeys(lines):
            found.setdefault(line, []).append(f"{row.case} {row.form}")
    return found


def general(reason: str) -> str:
    """The reason without the names of values and nodes."""
    reason = re.sub(r"its input '[^']*'", "an input", reason)
    reason = re.sub(r", node name: [^)]*\)", ")", reason)
    return re.sub(r"'[^']*'", "'...'", reason)[:240]


def absent(rows: Sequence[Row]) -> Iterator[str]:
    names: dict[str, set[str]] = {}
    for row in rows:
        if row.status == ABSENT:
            names.setdefault(row.op, set()).add(row.case)
    listed = ", ".join(f"{op} {len(names[op])}" for op in sorted(names))
    yield f"not run alone by ONNX Runtime: {listed or 'none'}"
