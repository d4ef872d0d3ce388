"""Everything that can go wrong, by whose fault it is. The exit code belongs to the class.

Each error reads as one sentence, what and where, followed by a hint, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass


class NetfuseError(Exception):
    """Base of all expected errors. `exit_code` is what the command line returns, `kind` the word that
    stands for the class in JSON."""

    exit_code = 4
    kind = "internal"
    report: object = None
    """What was found out before the error, for --json: a dataclass of report.py, or None."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class AnswerIsNo(NetfuseError):
    """The question was answered, and the answer is no."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first thing in which two models differ, in parts; what does not apply is ''. Pairs hold the first
    model's side, then the second's.

    `kind`: operator (another one), attribute, operands (their number), weight (its type or shape), size (a
    weight whose value decides a shape), connection, extra (a node without a counterpart), input or output (of
    the graph: number, type, rank or size), opset, other. `value` is the weight, or the input or output of
    the graph, by its name in the first model.
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
    """The models are not one architecture. `mismatch` says the same in parts, where two are compared."""

    kind = "not_equivalent"

    def __init__(self, message: str, hint: str = "", mismatch: Mismatch | None = None) -> None:
        super().__init__(message, hint)
        self.mismatch = mismatch


class ValuesDiffer(AnswerIsNo):
    """A proof failed: the merged model does not hold, or does not compute, what the sources do."""

    kind = "values_differ"


class NotProven(NetfuseError):
    """The proof could not tell: the models could not be run, or what they give says too little."""

    kind = "not_proven"
    exit_code = 5


class StrictViolated(AnswerIsNo):
    """--strict, and something would be replicated."""

    kind = "strict"


class NotStackable(AnswerIsNo):
    """--io stacked, and an output has no stacked form."""

    kind = "not_stackable"


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
    """Our bug. The message asks for a report."""

    kind = "internal"
    exit_code = 4
