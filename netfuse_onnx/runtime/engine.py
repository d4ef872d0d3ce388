"""One generation of files: the sessions of a merged file and of its models, and the way to call them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.errors import BadInput, CallFailed, UnknownModel
from netfuse_onnx.runtime.ort import Setup, first_line, names_of, open_session
from netfuse_onnx.runtime.types import Array, Costs, Feeds, Io, Outputs, Request


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one model's inputs and outputs, in the order of the contract: its own, and those of the
    merged file."""

    own_inputs: tuple[str, ...]
    own_outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class NoFormCosts:
    """The costs of one form, of which nothing is known."""

    def alone(self, rows: int) -> float:
        """Return the time of a call of one model."""
        return 1.0

    def merged(self, models: int, most: int, total: int) -> float:
        """Return the time of a merged call."""
        return 1.0


class NoCosts:
    """Costs that know nothing: every call takes as long as any other."""

    io: Io = "separate"

    def of(self, form: Any) -> NoFormCosts:
        """Return the costs of one form."""
        return NoFormCosts()

    def alone(self, form: Any, rows: int) -> float:
        """Return the time of a call of one model."""
        return 1.0

    def merged(self, form: Any, rows: Mapping[int, int]) -> float:
        """Return the time of a merged call."""
        return 1.0

    def saw(self, form: Any, kind: str, rows: Mapping[int, int], seconds: float) -> None:
        """Take nothing from a call that ran."""


class ServedFiles:
    """The Engine of a merged file. `sources` are the models' own files, in the order of the merge; without
    them every call is a merged one. One request of a model stands in a merged call."""

    rows_apart = False
    slots = 1

    def __init__(
        self, path: str, setup: Setup | None = None, *, sources: Sequence[str] = (), own_sessions: int = 64
    ) -> None:
        self.setup = setup or Setup()
        self.costs: Costs = NoCosts()
        self._merged = open_session(path, self.setup)
        facts = _facts(self._merged, path)
        self.io: str = facts["io"]
        self.models = tuple(facts["models"])
        self._names = [_names(self._merged, facts, model) for model in range(len(self.models))]
        self._shared = frozenset(facts["share"])
        self._place = {model: place for place, model in enumerate(self.models)}
        self._sources = tuple(sources)
        self.own_sessions = bool(sources)
        self._own = OrderedDict[int, Any]()
        self._own_sessions = own_sessions
        self._lock = threading.Lock()
        self._calls = threading.Lock()

    def check(self, model: str, feeds: Feeds) -> Request:
        """Return the request of a model, with its inputs as arrays."""
        place = self._place.get(model)
        if place is None:
            raise UnknownModel(
                f"There is no model {model!r}.", f"There are {', '.join(self.models)}.", model=model
            )
        names = self._names[place].own_inputs
        for name in {*names} ^ feeds.keys():
            raise BadInput(f"Model {model!r} takes {', '.join(names)}.", model=model, input=name)
        arrays = tuple(np.asarray(feeds[name]) for name in names)
        rows = len(arrays[0]) if arrays[0].ndim else 1
        return Request(place, arrays, rows, tuple((a.shape, a.dtype.str) for a in arrays))

    def alone(self, requests: Sequence[Request]) -> list[Outputs]:
        """Run requests of one model, each in a call of its own session."""
        return [self._alone(request) if self._sources else self.merged([request])[0] for request in requests]

    def merged(self, requests: Sequence[Request]) -> list[Outputs]:
        """Run requests of different models and equal sizes in one merged call."""
        by_model = {request.model: request for request in requests}
        if len(by_model) < len(requests):
            raise ValueError("a merged call takes one request of a model")
        first = requests[0]
        everyone = [by_model.get(model, first) for model in range(len(self.models))]
        feeds: dict[str, Array] = {}
        for k, name in enumerate(self._names[0].inputs):
            if edges.is_stacked(self.io) and name not in self._shared:
                feeds[name] = np.stack([request.inputs[k] for request in everyone])
            else:
                for model, request in enumerate(everyone):
                    feeds[self._names[model].inputs[k]] = request.inputs[k]
        wanted = [name for r in requests for name in self._names[r.model].outputs]
        wanted = list(dict.fromkeys(wanted))
        got = dict(zip(wanted, _run(self._merged, wanted, feeds), strict=True))
        return [self._outputs_of(request.model, got) for request in requests]

    def computed_rows(self, rows: Mapping[int, int]) -> int:
        """Return how many rows a merged call computes: each model has as many as any."""
        return len(self.models) * max(rows.values())

    def close(self) -> None:
        """Release the sessions."""
        with self._lock:
            self._merged = None
            self._own.clear()

    def _outputs_of(self, model: int, got: Mapping[str, Array]) -> Outputs:
        names = self._names[model]
        stacked = edges.is_stacked(self.io)
        pairs = zip(names.own_outputs, names.outputs, strict=True)
        return {own: np.array(got[merged][model]) if stacked else got[merged] for own, merged in pairs}

    def _alone(self, request: Request) -> Outputs:
        names = self._names[request.model]
        feeds = dict(zip(names.own_inputs, request.inputs, strict=True))
        values = _run(self._session(request.model), names.own_outputs, feeds)
        return dict(zip(names.own_outputs, values, strict=True))

    def _session(self, model: int) -> Any:
        with self._lock:
            session = self._own.pop(model, None)
            if session is None:
                session = open_session(self._sources[model], self.setup)
            self._own[model] = session
            while len(self._own) > self._own_sessions:
                self._own.popitem(last=False)
            return session


def _run(session: Any, wanted: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
    try:
        values: list[Array] = session.run(wanted, feeds)
        return values
    except MemoryError:
        raise
    except Exception as error:
        raise CallFailed(f"ONNX Runtime failed: {first_line(error)}.") from error


def _facts(session: Any, path: str) -> dict[str, Any]:
    """Return what the merge wrote into the file."""
    text = session.get_modelmeta().custom_metadata_map.get("netfuse_onnx")
    if text is None:
        raise FileFault(f"{path} was not written by netfuse-onnx.", "Give the output of netfuse-onnx merge.")
    facts: dict[str, Any] = json.loads(text)
    if not (edges.is_separate(facts["io"]) or edges.is_stacked(facts["io"])):
        raise FileFault(f"{path} has --io {facts['io']}, which can't be served yet.", "Merge it again.")
    return facts


def _names(session: Any, facts: Mapping[str, Any], model: int) -> Names:
    """Return the names of one model. A file without recorded names has those of the first model for all."""
    inputs, outputs = names_of(session.get_inputs()), names_of(session.get_outputs())
    once = {*facts["share"], *facts.get("combined", {})}
    separate, first = edges.is_separate(facts["io"]), facts["models"][0]
    if "names" in facts:
        base, own = facts["names"][0], facts["names"][model]
    else:
        base = [
            [
                n.removeprefix(f"{first}/")
                for n in side
                if not separate or n in once or n.startswith(f"{first}/")
            ]
            for side in (inputs, outputs)
        ]
        own = base
    merged = [
        tuple(
            b if b in once or not separate else f"{facts['models'][model]}/{o}"
            for b, o in zip(base[side], own[side], strict=True)
        )
        for side in (0, 1)
    ]
    return Names(tuple(own[0]), tuple(own[1]), merged[0], merged[1])
