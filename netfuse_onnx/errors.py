"""Everything that can go wrong, by whose fault it is. The exit code belongs to the class.

Each error reads as one sentence, what and where, followed by a hint, what to do.
"""

from __future__ import annotations


class NetfuseError(Exception):
    """Base of all expected errors. `exit_code` is what the command line returns."""

    exit_code = 4
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


class NotEquivalent(AnswerIsNo):
    """The models are not one architecture."""


class ValuesDiffer(AnswerIsNo):
    """A proof failed: the merged model does not hold, or does not compute, what the sources do."""


class NotProven(NetfuseError):
    """The proof could not tell: the models could not be run, or what they give says too little."""

    exit_code = 5


class StrictViolated(AnswerIsNo):
    """--strict, and something would be replicated."""


class NotStackable(AnswerIsNo):
    """--io stacked, and an output has no stacked form."""


class UsageFault(NetfuseError):
    """The call makes no sense, whatever the files hold."""

    exit_code = 2


class FileFault(NetfuseError):
    """A file cannot be read or written, is not a valid model, or is refused for safety."""

    exit_code = 3


class InternalError(NetfuseError):
    """Our bug. The message asks for a report."""

    exit_code = 4
