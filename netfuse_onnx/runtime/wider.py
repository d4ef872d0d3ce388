"""The sizes that a model's own file takes, where the merged file takes fewer.

A family whose models differ in this is merged to the sizes that all of them take: a detector for images of
960 x 960 beside one for images of any size gives a merged file for 960 x 960. Requests of other sizes then
run on the model's own session, each by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.runtime.ports import Port, own_dims


class Wider:
    """Finds the inputs of models in their own files. `session` opens the own session of a model, which is
    done once for each, when a request first does not fit the merged file."""

    def __init__(self, ports: tuple[Port, ...], session: Callable[[int], Any]) -> None:
        self._ports, self._session = ports, session
        self._known: dict[int, tuple[Port, ...] | None] = {}

    def ports(self, model: int) -> tuple[Port, ...] | None:
        """Return the inputs with the sizes of the model's own file; None where these are those of the merged
        file, or the own file does not open."""
        if model not in self._known:
            self._known[model] = self._read(model)
        return self._known[model]

    def _read(self, model: int) -> tuple[Port, ...] | None:
        try:
            given = {arg.name: arg.shape for arg in self._session(model).get_inputs()}
        except NetfuseError:
            return None
        found = []
        for port in self._ports:
            name = port.own[model]
            dims = [*port.dims]
            if port.element is not None and name in given:
                dims[model] = own_dims(given[name], name)
            found.append(replace(port, dims=tuple(dims)))
        return tuple(found) if tuple(found) != self._ports else None
