"""CUDA that is the CPU: sessions that ask for CUDA run on the CPU provider, so that what is done with them, and the
values, can be tested without a GPU. CUDA graphs and options of the provider change nothing then."""

from __future__ import annotations

from typing import Any

import pytest

from netfuse_onnx.measure import sessions
from netfuse_onnx.prove import replay, values
from netfuse_onnx.run import bound, runtime

CHOSEN: list[dict[str, str]] = []
"""The options of the provider in every session since `pretend`, TF32 included."""


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on `--provider cuda` is the CPU, in this process."""
    CHOSEN.clear()

    real = runtime.providers

    def providers(name: str, *more: dict[str, str], tf32: bool) -> list[tuple[str, dict[str, str]]]:
        if name == "cuda":
            CHOSEN.append(real(name, *more, tf32=tf32)[0][1])
        return [(runtime.CPU, {})]

    for module in (runtime, sessions, replay):
        monkeypatch.setattr(module, "providers", providers)
    for module in (runtime, values):
        monkeypatch.setattr(module, "CUDA", runtime.CPU)
    monkeypatch.setattr(bound, "device", lambda _: "cpu")
    monkeypatch.setattr(runtime.cuda, "preload", lambda onnxruntime: None)
    choose = runtime.choose

    def chosen(provider: str, libraries: Any = ()) -> runtime.Runtime:
        given = tuple(libraries)
        return (
            runtime.Runtime("cuda", given, required=True) if provider == "cuda" else choose(provider, given)
        )

    monkeypatch.setattr(runtime, "choose", chosen)
