"""Sessions as a server uses them: with all optimisations, and with settings to choose from.

Every way to run the models takes and returns numpy arrays. On CUDA the copies to the device and back are part
of a call; inputs and outputs have fixed places there (run/bound.py) and symbolic dims are fixed, for all ways
alike. A run without the copies can be measured, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.run.bound import CUDA_GRAPH, Bound, fix, fixed_dims
from netfuse_onnx.run.runtime import (
    RunFailed,
    Runtime,
    Value,
    first_line,
    onnxruntime,
    open_session,
    providers,
    session_options,
)
from netfuse_onnx.storage import wire


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that a user can choose. `threads` share one operator, 0 where there is no choice;
    `branches` > 1 operators of one graph run at once; with `spin` idle threads wait busily, with `rest` they
    stop that when a call has ended. On CUDA, `graph` turns on CUDA graphs, `nhwc` lets the provider change
    the layout of convolutions and fuse them with their bias, `exact` turns TF32 off."""

    threads: int = 1
    branches: int = 1
    spin: bool = True
    rest: bool = False
    graph: bool = False
    nhwc: bool = False
    exact: bool = False

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of SessionOptions that differ from ONNX Runtime's own, as text."""
        own = {"intra_op_num_threads": str(self.threads)} if self.threads else {}
        several = {MODE: "ORT_PARALLEL", "inter_op_num_threads": str(self.branches)}
        return own | (several if self.branches > 1 else {})

    @property
    def entries(self) -> dict[str, str]:
        """The configuration entries of a session."""
        quiet = {f"session.{pool}_op.allow_spinning": "0" for pool in ("intra", "inter")}
        return ({} if self.spin else quiet) | ({"session.force_spinning_stop": "1"} if self.rest else {})

    def __str__(self) -> str:
        words = [f"{self.threads} thread{'s' if self.threads > 1 else ''}"] if self.threads else []
        words += [f"{self.branches} branches"] if self.branches > 1 else []
        words += ["no spinning"] if not self.spin else []
        words += ["no spinning between calls"] if self.rest else []
        words += ["CUDA graph"] if self.graph else []
        words += ["NHWC"] if self.nhwc else []
        words += ["no TF32"] if self.exact else []
        return ", ".join(words)


MODE, MODES = "execution_mode", "ExecutionMode"
"""The attribute of SessionOptions whose values are names in a class of ONNX Runtime, and that class."""

NHWC = {"prefer_nhwc": "1", "fuse_conv_bias": "1"}
"""Never `fuse_conv_bias` alone: from the second run on it reads values of the first (1.31)."""


def session(
    path: str,
    runtime: Runtime,
    settings: Settings,
    *,
    tf32: bool = True,
    dims: Mapping[str, int] | None = None,
    profile: str = "",
) -> Any:
    """Return an InferenceSession. `dims` fixes symbolic dims on CUDA; `profile` is the prefix of the file of
    a profile. Raises RunFailed."""
    options = session_options()
    for name, value in settings.attributes.items():
        setattr(options, name, getattr(onnxruntime().ExecutionMode, value) if name == MODE else int(value))
    for key, value in settings.entries.items():
        options.add_session_config_entry(key, value)
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    fix(options, dims or {})
    return open_session(path, options, runtime, _where(settings, runtime.provider, tf32))


def snippet(settings: Settings, path: str, provider: str, *, tf32: bool = True) -> str:
    """Return Python that opens a file under these settings, to copy."""
    lines = ["import onnxruntime", "", "options = onnxruntime.SessionOptions()"]
    for name, value in settings.attributes.items():
        lines.append(f"options.{name} = {f'onnxruntime.{MODES}.{value}' if name == MODE else value}")
    lines += [f"options.add_session_config_entry({k!r}, {v!r})" for k, v in settings.entries.items()]
    where = _where(settings, provider, tf32)
    lines.append(f"session = onnxruntime.InferenceSession({path!r}, options, providers={where!r})")
    return "\n".join(lines)


def _where(settings: Settings, provider: str, tf32: bool) -> list[Any]:
    more = [*([CUDA_GRAPH] if settings.graph else []), *([NHWC] if settings.nhwc else [])]
    return providers(provider, *more, tf32=tf32 and not settings.exact)


class Runner:
    """A session with its feeds. `wanted` has outputs of the right shapes, for their places on the device. The
    constructor raises RunFailed."""

    def __init__(
        self,
        path: str,
        feeds: Mapping[str, Value],
        wanted: Mapping[str, Value],
        runtime: Runtime,
        settings: Settings,
        tf32: bool = True,
    ) -> None:
        dims = fixed_dims(_shapes(path), feeds) if runtime.provider == "cuda" else {}
        self._session = session(path, runtime, settings, tf32=tf32, dims=dims)
        self.outputs = [port.name for port in self._session.get_outputs()]
        self._names = {port.name for port in self._session.get_inputs()}
        self.feed(feeds)
        self.bound = self._bind(wanted, runtime, settings) if runtime.provider == "cuda" else None

    def _bind(self, wanted: Mapping[str, Value], runtime: Runtime, settings: Settings) -> Bound | None:
        """Give inputs and outputs their places. None where some can't have one; CUDA graphs need them."""
        try:
            return Bound(self._session, self._feeds, wanted, runtime)
        except RunFailed:
            if settings.graph:
                raise
            return None

    def feed(self, feeds: Mapping[str, Value]) -> None:
        """Set the inputs of further calls."""
        self._feeds = {n: value for n, value in feeds.items() if n in self._names and value is not None}

    def put(self) -> None:
        """Copy the inputs to their places on the device."""
        if self.bound is None:
            raise RunFailed("it has inputs or outputs without a fixed place on the device")
        self.bound.put(self._feeds)

    def run(self, feeds: Mapping[str, Value] | None = None) -> Sequence[Value]:
        """Run once, on `feeds` or those that were set, and return the outputs, in order. Raises RunFailed."""
        if self.bound is not None:
            return [*self.bound.call(self._feeds).values()]
        try:
            outputs: Sequence[Value] = self._session.run(self.outputs, feeds or self._feeds)
            return outputs
        except MemoryError:
            raise
        except Exception as error:
            raise RunFailed(first_line(error)) from error

    def named(self) -> dict[str, Value]:
        """Run once and return the outputs by name. Raises RunFailed."""
        return dict(zip(self.outputs, self.run(), strict=True))


def _shapes(path: str) -> dict[str, list[int | str]]:
    """Return the shapes that a file declares for its inputs, in sizes and names."""
    ports = wire.scan(path).model.graph.input
    return {
        port.name: [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim] for port in ports
    }
