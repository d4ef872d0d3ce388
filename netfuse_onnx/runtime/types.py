"""The values that travel through a serving session: a request, the call that it joins, and its outputs.

A model is its place in the order of the merge, from 0, everywhere behind the public interface.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from netfuse_onnx.runtime.queue import Answer
    from netfuse_onnx.runtime.signature import Signature

Array = NDArray[Any]
Feeds = Mapping[str, Any]
"""Inputs by the names that the model's own file gives them."""
Outputs = dict[str, Array]
"""Outputs by the names that the model's own file gives them."""
Kind = Literal["alone", "merged"]
Io = Literal["separate", "stacked", "selected", "slots", "index"]
"""The interface of a merged file: `slots` and `index` are the two lowerings of routed rows."""


@dataclass(slots=True, eq=False)
class Request:
    """One request for one model, whose inputs are checked: it can't fail for a reason that checks can see."""

    model: int
    inputs: tuple[Array, ...]
    """The inputs in the order of the contract, as arrays of the right types, not padded yet."""
    rows: int
    """The size of the batch axis; 1 where the inputs have none."""
    form: Hashable
    """The sizes of the other axes, padded to their buckets, and the bytes of inputs that are fed once per
    call: only requests of one form share a call."""
    arrived: float = 0.0
    """Seconds of time.monotonic()."""
    deadline: float = float("inf")
    """The request starts before this moment of time.monotonic(), or never."""
    answer: Answer | None = None
    """The answer that somebody waits for; None where the caller's own thread runs the request."""


@dataclass(frozen=True, slots=True)
class Call:
    """One run of ONNX Runtime: which of the waiting requests it takes.

    `taken` has, for each model, how many of its oldest requests of that form; an alone call has one model.
    """

    kind: Kind
    form: Hashable
    taken: tuple[tuple[int, int], ...]
    wide: bool = False
    """The call runs on all cores, and no other beside it. Merged calls never do."""


class FormCosts(Protocol):
    """The times of calls of one form, in seconds."""

    runs_all: bool
    """A merged call runs all models, so its time depends on the most rows of a model alone."""

    def alone(self, rows: int) -> float:
        """Return the time of a call of one model's own session with so many rows."""

    def wide(self, rows: int) -> float:
        """Return the time of such a call on all cores; that of `alone` where there is no quicker one."""

    def served(self, rows: int, most: int) -> tuple[float, float]:
        """Return the time of calls that serve so many rows of a model on its own session, with the number of
        rows below `most` that costs least by the row, and the time of one of them."""

    def merged(self, models: int, most: int, total: int) -> float:
        """Return the time of a merged call with rows of so many models, `most` of one, `total` in all."""


class Costs(Protocol):
    """The times of calls, in seconds: measured at the start, and kept right by every call that runs."""

    io: Io

    def forms(self) -> list[Hashable]:
        """Return the sizes of the forms whose times are known, at least one."""

    def of(self, form: Hashable) -> FormCosts:
        """Return the costs of one form, known or not. The scheduler asks once per choice."""

    def alone(self, form: Hashable, rows: int) -> float:
        """Return the time of a call of one model's own session with so many rows."""

    def merged(self, form: Hashable, rows: Mapping[int, int]) -> float:
        """Return the time of a merged call with so many rows of each model in it."""

    def saw(
        self, form: Hashable, kind: Kind, rows: Mapping[int, int], seconds: float, *, wide: bool = False
    ) -> None:
        """Take a call that ran into the running mean of its kind."""


class Together(NamedTuple):
    """Requests of different models that ran in one merged call: outputs and models in their order."""

    outputs: list[Outputs]
    form: Hashable
    models: Sequence[int]
    rows: int
    """The rows of each."""


Pays = Callable[[Hashable, int, int], bool]
"""Tells if a merged call pays for requests of a form, for so many models, each of so many rows."""


class Engine(Protocol):
    """The sessions of one generation of files: what runs calls. Its methods may be called by many threads."""

    models: tuple[str, ...]
    costs: Costs
    own_sessions: bool
    """True where each model has a session of its own. Without, `alone` is the merged call with only that
    model's rows in it."""
    rows_apart: bool
    """True where each row's outputs depend on that row alone: rows of several requests may share a batch."""
    slots: int
    """Calls that pay to run at the same time."""
    wide: bool
    """True where a model's own call can also run on all cores, by itself."""
    clock: Callable[[], float]
    """The clock by which calls are timed, in seconds: of the processor where a call has one thread, so that
    neither other processes nor Python's lock seem to make calls longer. Wide calls have that of the wall."""

    def check(self, model: str, feeds: Feeds, *, copy: bool = False) -> Request:
        """Return the request of a model. With `copy`, its inputs are arrays of their own, which no caller can
        change while they wait. Raises UnknownModel, BadInput or TooLarge."""

    def signature(self, model: str) -> Signature:
        """Return the inputs and outputs of a model. Raises UnknownModel."""

    def everyone(self, feeds: Feeds) -> list[tuple[str, Feeds]]:
        """Return a request for each model, of inputs by the names of the first one."""

    def prepare(self, requests: Sequence[Request], *, must: bool = False) -> bool:
        """Open the session of the requests' model, so that the time of a call is not that of opening. False:
        it is not open, and a merged call is to answer, because opening takes longer than is lost so. With
        `must` it is opened in any case."""

    def is_open(self, model: int) -> bool:
        """Return True where the session of a model is open, so that an own call takes its time and no
        more."""

    def warm_up(self, models: Sequence[str] | None, ends: Callable[[], bool]) -> int:
        """Open the own sessions of models, by default of as many as are kept open together, until `ends`
        says that nobody wants them any more. Return how many are open. Raises UnknownModel, FileFault."""

    def alone(self, requests: Sequence[Request], *, wide: bool = False) -> list[Outputs]:
        """Run requests of one model and one form in one call of the model's own session."""

    def merged(self, requests: Sequence[Request]) -> list[Outputs]:
        """Run requests of one form, in one merged call: several of a model where rows are apart."""

    def alike(self, pairs: Sequence[tuple[str, Feeds]], pays: Pays) -> Together | None:
        """Check requests for different models and run them in one merged call, where they are all alike and
        `pays` says so. None where they are not, where one of them is wrong, or the call failed: then they
        go the usual way, which tells."""

    def computed_rows(self, rows: Mapping[int, int]) -> int:
        """Return how many rows a merged call computes that has so many rows of each model: slots of models
        without a request included."""

    def told(self) -> dict[str, Any]:
        """Return how the sessions were opened, for `stats()`."""

    def close(self) -> None:
        """Release the sessions once no call runs."""
