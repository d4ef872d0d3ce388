"""CUDA that is the CPU: sessions that ask for CUDA run on the CPU provider, so that what is done with them, and the
values, can be tested without a GPU. CUDA graphs and options of the provider change nothing then."""

from __future__ import annotations

from typing import Any

import pytest

from netfuse_onnx import api
from netfuse_onnx.measure import sessions
from netfuse_onnx.prove import replay, values
from netfuse_onnx.run import bound, runtime

CHOSEN: list[dict[str, str]] = []
"""The options of the provider in every session since `pretend`, TF32 included."""


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `--provider cuda` is the CPU, in this process."""
    CHOSEN.clear()

    def options(tf32: bool, *more: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
        CHOSEN.append(CUDA_OPTIONS(tf32, *more)[0][1])
        return [(runtime.CPU, {})]

    for module in (sessions, replay):
        monkeypatch.setattr(module, "cuda_options", options)
    for module in (runtime, values):
        monkeypatch.setattr(module, "CUDA", runtime.CPU)
    monkeypatch.setattr(bound, "device", lambda _: "cpu")
    monkeypatch.setattr(runtime.cuda, "preload", lambda: None)
    monkeypatch.setattr(runtime, "providers", lambda name, tf32: [(runtime.CPU, {})])
    choose = runtime.choose

    def chosen(provider: str, libraries: Any = ()) -> runtime.Runtime:
        given = tuple(libraries)
        return (
            runtime.Runtime("cuda", given, required=True) if provider == "cuda" else choose(provider, given)
        )

    monkeypatch.setattr(api.runtime, "choose", chosen)


CUDA_OPTIONS = bound.cuda_options
