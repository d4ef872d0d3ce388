"""The errors, one class for each kind of fault. The class has the exit code.

Each error is one sentence that says what happened and where, followed by a hint that says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


class NetfuseError(Exception):
    """The base of all expected errors. The command line returns `exit_code`; JSON shows `kind`."""

    exit_code = 4
    kind = "internal"
    report: object = None
    """The report as far as it got before the error, for --json: a dataclass of report.py, or None."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def with_report(self, report: object) -> Self:
        self.report = report
        return self

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class AnswerIsNo(NetfuseError):
    """The question was answered, and the answer is no."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first difference of two models, in parts; a part that does not apply is ''. A pair holds the side
    of the first model, then that of the second.

    `kind` is operator (another one), attribute, operands (another number), weight (another type or shape),
    size (a weight whose value decides a shape), connection, extra (a node without a counterpart), input or
    output (of the graph: another number, type, rank or size), opset, or other. `value` is the name in the
    first model of the weight, or of the input or output of the graph.
    """

    kind: str
    files: tuple[str, str]
    nodes: tuple[str, str] = ("", "")
    operators: tuple[str, str] = ("", "")
    attribute: str = ""
    value: str = ""
    left: str = ""
    right: str = ""


class NotEquivalent(AnswerIsNo):
    """The models are not one architecture. `mismatch` has the difference in parts, where two are compared."""

    kind = "not_equivalent"

    def __init__(self, message: str, hint: str = "", mismatch: Mismatch | None = None) -> None:
        super().__init__(message, hint)
        self.mismatch = mismatch


class AdapterMismatch(AnswerIsNo):
    """An adapter changes weights that its base does not have, or does not have once."""

    kind = "adapter_mismatch"


class ValuesDiffer(AnswerIsNo):
    """A proof failed: the merged model has other weights than its sources, or computes something else."""

    kind = "values_differ"


class SourcesDiffer(AnswerIsNo):
    """The files are not those that were merged, by their SHA-256."""

    kind = "sources_differ"


class NotExportable(AnswerIsNo):
    """PyTorch can't export a module."""

    kind = "not_exportable"


class NotProven(NetfuseError):
    """The proof could not tell: the models could not be run, or their outputs do not separate the models."""

    kind = "not_proven"
    exit_code = 5


class StrictViolated(AnswerIsNo):
    """A node would be replicated, which --strict forbids."""

    kind = "strict"


class NotStackable(AnswerIsNo):
    """An output has no stacked form, which --io stacked asks for."""

    kind = "not_stackable"


class NotCombinable(NotStackable):
    """The values of an output can't be combined in the way that --combine asks for."""

    kind = "not_combinable"


class NotRoutable(NotStackable):
    """The rows of a call can't be routed to their models, as --io routed asks."""

    kind = "not_routable"


class NoPlan(AnswerIsNo):
    """The machines of a fleet can't serve its models within their latency targets."""

    kind = "no_plan"


class UsageFault(NetfuseError):
    """The call makes no sense, whatever the files hold."""

    kind = "usage"
    exit_code = 2


class FileFault(NetfuseError):
    """A file cannot be read or written, is not a valid model, or is refused for safety."""

    kind = "file"
    exit_code = 3


class Stopped(NetfuseError):
    """The run was interrupted or terminated: nothing was written."""

    kind = "stopped"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class InternalError(NetfuseError):
    """The compiler has a bug. The message asks for a report."""
