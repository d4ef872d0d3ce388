"""The speeds that were measured on a target: the constants of the cost model, from targets/*.json.

bench/calibrate.py measures and writes them, with the machine, the versions and the date.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from netfuse_onnx.errors import FileFault, InternalError
from netfuse_onnx.plan import card
from netfuse_onnx.plan.card import Card
from netfuse_onnx.plan.constants import Constants
from netfuse_onnx.run import runtime

NAMES = ("cpu", "cuda")
AUTO = "auto"
KINDS = (
    "convolution_blocked", "convolution_depthwise", "convolution_line", "convolution_plain", "einsum",
    "pointwise_blocked", "pointwise_plain", "product", "product_stacked", "product_values", "recurrent",
)  # fmt: skip
"""The kinds of kernels on a CPU, as plan/work.py names them."""
LATER = {"convolution_line": "convolution_plain", "recurrent": "product"}
"""Kinds that files of earlier versions lack, each with the kind that it was taken for."""
HINT = "Choose cpu or cuda, or write a file with python bench/calibrate.py --out FILE.json."


@dataclass(frozen=True)
class Kernel:
    """A kind of kernel multiplies [m,k] by [k,n]: 2*m*n*k operations at `gflops`, slowed by
    (1 + half/size) for each of m, n and k, so that at size = half it runs at half the speed. `start`: the
    microseconds in which it shares itself out among the threads and waits for the last."""

    gflops: float
    half: tuple[float, float, float]
    start: float = 0.0

    def microseconds(self, count: int, m: int, n: int, k: int) -> float:
        """`count` products in one launch, the launch not counted."""
        slowed = 1.0
        for size, half in zip((m, n, k), self.half, strict=True):
            slowed *= 1.0 + half / max(size, 1)
        return self.start + 2e-3 * count * m * n * k / self.gflops * slowed


@dataclass(frozen=True)
class Target(Constants):
    """The constants of a CPU. Times in microseconds, rates in bytes per microsecond."""

    provider = "cpu"

    launch: float
    """One node that computes something."""
    view: float
    """One node that copies nothing: Reshape, Unsqueeze."""
    part: float
    """One more input of a Concat, or output of a Split."""
    copied: float
    """Concat, Split, Gather of a slice."""
    transposed: float
    streamed: float
    """An elementwise operator, reading and writing."""
    kernels: Mapping[str, Kernel]


def target(name: str) -> Target | Card:
    """The constants of `cpu` or `cuda`, or of a file that bench/calibrate.py wrote. FileFault where it is
    none."""
    if name in NAMES:
        text = resources.files("netfuse_onnx").joinpath("targets", f"{name}.json").read_text("utf-8")
        return parsed(name, json.loads(text))
    try:
        if os.path.exists(name) and not os.path.isfile(name):
            raise FileFault(f"{name} is not a regular file.", HINT)
        return parsed(name, json.loads(Path(name).read_text("utf-8")))
    except OSError as error:
        raise FileFault(f"{name} can't be read: {error.strerror}.", HINT) from error
    except (ValueError, AttributeError, RecursionError, InternalError) as error:
        reason = error.__cause__ or error
        raise FileFault(f"{name} holds no constants of a target ({reason}).", HINT) from error


def at_hand(name: str, provider: str = "auto") -> str:
    """The target that `auto` stands for: the provider that `provider` is on this machine. Any other name is
    what it is. UsageFault where ONNX Runtime is missing, or CUDA was asked for and can't be used."""
    return runtime.choose(provider).provider if name == AUTO else name


def provider(name: str) -> str:
    """The provider that a target names, `cpu` or `cuda`; '' for `generic`. Raises what `target` raises."""
    return "" if name == "generic" else target(name).provider


def unmeasured(name: str) -> tuple[str, ...]:
    """A warning where the costs of a target come from data sheets."""
    if name == "generic" or target(name).provenance.get("measured"):
        return ()
    return (f"The costs of --target {name} come from data sheets: they were not measured on a machine.",)


def _kernel(value: Mapping[str, Any]) -> Kernel:
    m, n, k = map(float, value["half"])
    return Kernel(float(value["gflops"]), (m, n, k), float(value.get("start", 0.0)))


def parsed(name: str, value: Mapping[str, Any]) -> Target | Card:
    """InternalError where a constant is missing or no number."""
    try:
        if value.get("model") == card.MODEL:
            return card.parsed(name, value)
        given = value["kernels"]
        kernels = {kind: _kernel(given[kind if kind in given else LATER.get(kind, kind)]) for kind in KINDS}
        times, rates = value["microseconds"], value["bytes_per_microsecond"]
        return Target(
            name, value["provenance"], float(times["launch"]), float(times["view"]), float(times["part"]),
            float(rates["copied"]), float(rates["transposed"]), float(rates["streamed"]), kernels,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InternalError(f"targets/{name}.json lacks or spoils {error}.", "Please report this.") from error
