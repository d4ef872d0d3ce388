"""The errors of serving, one class for each kind: which model, which input, and what was expected.

Each class has the status that HTTP gives it, and the code of gRPC: `http` and `grpc`. All servers use these.
"""

from __future__ import annotations

from netfuse_onnx.errors import NetfuseError


class ServingError(NetfuseError):
    """The base of all errors that a request can end in. `model`, `input` and `expected` are '' where none
    is meant."""

    kind = "serving"
    exit_code = 1
    http = 500
    grpc = "INTERNAL"

    def __init__(
        self, message: str, hint: str = "", *, model: str = "", input: str = "", expected: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.model = model
        self.input = input
        self.expected = expected


class UnknownModel(ServingError):
    """The file has no model of this name."""

    kind = "unknown_model"
    http = 404
    grpc = "NOT_FOUND"


class BadInput(ServingError, ValueError):
    """An input is missing or unknown, or has another type, rank or size than the model takes."""

    kind = "bad_input"
    http = 400
    grpc = "INVALID_ARGUMENT"


class TooLarge(ServingError, ValueError):
    """The request has more rows or bytes than the session takes in one request."""

    kind = "too_large"
    http = 413
    grpc = "INVALID_ARGUMENT"


class QueueFull(ServingError):
    """So many requests wait already, for this model or in all, that this one was refused at once."""

    kind = "queue_full"
    http = 429
    grpc = "RESOURCE_EXHAUSTED"


class Timeout(ServingError, TimeoutError):
    """The request did not start in the time that its caller gave it: it was dropped before it cost
    anything."""

    kind = "timeout"
    http = 504
    grpc = "DEADLINE_EXCEEDED"


class Closed(ServingError):
    """The session is closed, or was closed without waiting for this request."""

    kind = "closed"
    http = 503
    grpc = "UNAVAILABLE"


class CallFailed(ServingError):
    """ONNX Runtime failed on this request, run alone on the session of its own model."""

    kind = "call_failed"
