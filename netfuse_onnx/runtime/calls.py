"""Calls of sessions on the CPU.

The quickest way to call a session from Python is IO binding: inputs and outputs that keep their places in
memory are looked up once, not in each call. A merged call has such inputs (packing/buffers.py); its outputs
get places when the first call has shown their shapes. Measured with a policy network, one row of each: 13 us
for `run` with 8 stacked models and 9.8 us bound; 72 and 41 us with 32 models and inputs of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from netfuse_onnx import library
from netfuse_onnx.runtime.bits import run_bits
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.errors import CallFailed
from netfuse_onnx.runtime.ort import first_line, names_of
from netfuse_onnx.runtime.own import OwnSessions
from netfuse_onnx.runtime.packing import Packed
from netfuse_onnx.runtime.types import Array, Outputs

onnxruntime = library.onnxruntime()

Results = Mapping[str, Any]


class Calls(Protocol):
    """The ways to call the sessions of one generation. A call gives the outputs of each of its requests, in
    arrays that no later call writes to. Both raise CallFailed."""

    own: OwnSessions
    wide: OwnSessions | None
    """The own sessions for calls on all cores."""

    def edges(self) -> tuple[Any, Any]:
        """Return the session of the merged file, and that of the first model or None, to read their inputs
        and outputs."""

    def use(self, contract: Contract) -> None:
        """Take the contract of these sessions, before the first call."""

    def alone(self, model: int, packed: Packed, wide: bool = False) -> list[Outputs]:
        """Call a model's own session; with `wide`, on all cores."""

    def merged(self, packed: Packed) -> list[Outputs]:
        """Call the session of the merged file."""

    def close(self) -> None:
        """Release the sessions."""


class OnCpu:
    """Calls on the CPU, each in the thread that makes it."""

    def __init__(self, merged: Any, own: OwnSessions, wide: OwnSessions | None = None) -> None:
        self._merged, self.own, self.wide = Caller(merged), own, wide
        self._bits = False

    def edges(self) -> tuple[Any, Any]:
        """Return the session of the merged file, and that of the first model or None."""
        return self._merged.session, self.own.get(0) if self.own.paths else None

    def use(self, contract: Contract) -> None:
        """Find out if arrays hold the bits of their values."""
        self._bits = self._merged.bits = contract.holds_bits

    def alone(self, model: int, packed: Packed, wide: bool = False) -> list[Outputs]:
        """Call a model's own session; with `wide`, on all cores."""
        sessions = self.wide if wide and self.wide is not None else self.own
        return packed.split(run(sessions.get(model), packed.wanted, packed.feeds, self._bits))

    def merged(self, packed: Packed) -> list[Outputs]:
        """Call the session of the merged file."""
        results, fresh = self._merged.run(packed)
        return packed.split(results, fresh=fresh)

    def close(self) -> None:
        """Release the sessions."""
        self.own.clear()
        if self.wide is not None:
            self.wide.clear()
        del self._merged


class Bound:
    """A session with inputs and outputs at fixed places in memory, for one call at a time."""

    __slots__ = ("_binding", "_kept", "_run", "results")

    def __init__(self, session: Any, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self._binding = session.io_binding()
        self._kept = []
        self.results: dict[str, Array] = {}
        for name, array in feeds.items():
            place = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            self._binding.bind_ortvalue_input(name, place)
            self._kept.append(place)
        for name, like in outputs.items():
            self.results[name] = np.empty_like(like)
            place = onnxruntime.OrtValue.ortvalue_from_numpy(self.results[name])
            self._binding.bind_ortvalue_output(name, place)
            self._kept.append(place)
        self._run = session.run_with_iobinding

    def run(self) -> None:
        """Run on what the inputs hold, and write the outputs over those of the call before."""
        self._run(self._binding)


class Caller:
    """Calls the session of a merged file. Threads may share it."""

    def __init__(self, session: Any) -> None:
        self.session, self.bits = session, False
        self._outputs = names_of(session.get_outputs())
        self._types = [port.type for port in (*session.get_inputs(), *session.get_outputs())]
        self.bindable = all(is_plain(kind) for kind in self._types) and not gives_inputs(session)
        """False where an output has no place in memory, or other sizes in other calls of the same form."""

    def run(self, packed: Packed) -> tuple[Results, bool]:
        """Return the outputs by name, and False where the next call writes over them. Raises CallFailed."""
        buffers = packed.buffers
        if not self.bindable or buffers is None:
            return self._unbound(packed.wanted, packed.feeds), True
        if isinstance(buffers.bound, Bound):
            try:
                buffers.bound.run()
                return buffers.bound.results, False
            except Exception:
                return self._after_failure(packed), True
        results = self._unbound(self._outputs, packed.feeds)
        buffers.bound = Bound(self.session, packed.feeds, results)
        return results, True

    def _after_failure(self, packed: Packed) -> Results:
        """Run without places for the outputs. Where that works, their sizes depend on data: nothing is bound
        from then on. Raises CallFailed."""
        if packed.buffers is not None:
            packed.buffers.bound = None
        results = self._unbound(packed.wanted, packed.feeds)
        self.bindable = False
        return results

    def _unbound(self, wanted: Sequence[str], feeds: Mapping[str, Any]) -> Results:
        return run(self.session, wanted, feeds, self.bits)


def run(
    session: Any, wanted: Sequence[str], feeds: Mapping[str, Any], bits: bool = False, options: Any = None
) -> dict[str, Any]:
    """Return outputs by name. `bits` is True where arrays may hold the bits of their values; `options` are
    RunOptions. Raises CallFailed, with ONNX Runtime's sentence."""
    try:
        values = run_bits(session, wanted, feeds) if bits else session.run(wanted, feeds, options)
        return dict(zip(wanted, values, strict=True))
    except MemoryError:
        raise
    except Exception as error:
        raise CallFailed(f"ONNX Runtime failed: {first_line(error)}.") from error


def gives_inputs(session: Any) -> bool:
    """Return True where an output is an input itself: ONNX Runtime 1.32 writes nothing to the place that is
    bound to such an output, and tells no error."""
    return not set(names_of(session.get_inputs())).isdisjoint(names_of(session.get_outputs()))


def is_plain(kind: str) -> bool:
    """Return True for tensors of the types that numpy has, but strings, which are no plain memory."""
    unusual = ("string", "bfloat16", "float8", "complex", "int4", "float4", "int2")
    return kind.startswith("tensor(") and not any(word in kind for word in unusual)
