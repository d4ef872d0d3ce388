"""The two exporters of PyTorch: dynamo (torch.export) and TorchScript."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netfuse_onnx.errors import NetfuseError, NotExportable, UsageFault

if TYPE_CHECKING:
    from torch import nn

    from netfuse_onnx.pytorch.models import Call

AUTO, DYNAMO, TORCHSCRIPT = "auto", "dynamo", "torchscript"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MOST = 300
"""The characters of an exporter's message that are repeated."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """The settings of an export, as torch.onnx.export has them."""

    name: str
    opset_version: int | None = None
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    dynamic_shapes: Any = None
    dynamic_axes: Mapping[str, Any] | None = None

    def write(self, model: str, module: nn.Module, call: Call, path: str) -> None:
        """Export one module, which is in evaluation mode. Raises NotExportable, which names the model."""
        import torch

        options: dict[str, Any] = {
            "opset_version": self.opset_version,
            "input_names": _listed(self.input_names),
            "output_names": _listed(self.output_names),
            "dynamo": self.name == DYNAMO,
            "kwargs": call[1] or None,
        }
        if self.name == DYNAMO:
            options |= {"dynamic_shapes": self.dynamic_shapes, "verbose": False}
        else:
            options |= {"dynamic_axes": self.dynamic_axes}
        try:
            with _quiet():
                torch.onnx.export(
                    module, call[0], path, **{k: v for k, v in options.items() if v is not None}
                )
        except Exception as error:
            other = TORCHSCRIPT if self.name == DYNAMO else DYNAMO
            raise NotExportable(
                f"PyTorch's {self.name} exporter can't export the model {model}: {_told(error)}.",
                f"Mend the module, or try exporter={other!r}. Its whole message is the cause of this error.",
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter on its own affairs: deprecations, and libraries that are not installed. Warnings
    of the tracer stay: they are about the module."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for kind in (DeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        log.setLevel(before)


def chosen(name: str, dynamic_shapes: Any, dynamic_axes: Any) -> str:
    """Return the exporter of that name; auto is dynamo where PyTorch has it and onnxscript is installed.
    Raises UsageFault for another name, without torch, and for sizes in the words of the other exporter."""
    if importlib.util.find_spec("torch") is None:
        raise UsageFault(
            "PyTorch is not installed, and export needs it.", "Install it with pip install torch."
        )
    if name not in (AUTO, DYNAMO, TORCHSCRIPT):
        raise UsageFault(f"There is no exporter {name!r}.", f"Choose {AUTO}, {DYNAMO} or {TORCHSCRIPT}.")
    if dynamic_shapes is not None and dynamic_axes is not None:
        raise UsageFault(
            "dynamic_shapes and dynamic_axes say the same in two ways.",
            "Give dynamic_shapes to dynamo, or dynamic_axes to TorchScript.",
        )
    has = {DYNAMO: _has_dynamo(), TORCHSCRIPT: _takes("dynamic_axes")}
    found = name
    if name == AUTO:
        found = DYNAMO if has[DYNAMO] and dynamic_axes is None else TORCHSCRIPT
    if not has[found]:
        missing = "onnxscript" if found == DYNAMO else "a PyTorch that still has it"
        raise UsageFault(f"The {found} exporter needs {missing}.", "pip install 'netfuse-onnx[samples]'.")
    if found == TORCHSCRIPT and dynamic_shapes is not None:
        raise UsageFault("dynamic_shapes are for dynamo.", "Give TorchScript dynamic_axes.")
    if found == DYNAMO and dynamic_axes is not None:
        raise UsageFault("dynamic_axes are for TorchScript.", "Give dynamo dynamic_shapes.")
    return found


def _has_dynamo() -> bool:
    return importlib.util.find_spec("onnxscript") is not None and _takes("dynamic_shapes")


def _takes(parameter: str) -> bool:
    import torch

    return parameter in inspect.signature(torch.onnx.export).parameters


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def _told(error: BaseException) -> str:
    """Return the sentence in an exporter's message. That of dynamo stands in its cause."""
    if isinstance(error, NetfuseError):
        return str(error).rstrip(".")
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (_COLOUR.sub("", line).strip() for line in str(error).splitlines())
    first = next((line for line in lines if line), "")
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return text[:_MOST].rstrip(". ")
