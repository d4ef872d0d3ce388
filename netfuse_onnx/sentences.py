"""The sentences of a verdict, one per question."""

from __future__ import annotations

from collections.abc import Mapping

from netfuse_onnx.compared import Basis, Compared, Outcome, Question
from netfuse_onnx.units import duration, size

MOSTLY = 0.75
"""The part of the nodes that differ between models from which on nearly all count as replicated."""


def _memory(models: int, one: Compared) -> str:
    how = ", by the bytes of the weights" if one.basis is Basis.COUNTED else ""
    return (
        f"Memory: {size(round(one.merged))}, {models} sessions {size(round(one.sessions))}{_more(one)}{how}."
    )


def _load(models: int, one: Compared) -> str:
    merged, sessions = duration(one.merged), duration(one.sessions)
    return f"Time to load and run once: {merged}, {models} sessions {sessions}{_more(one)}."


def _files(models: int, one: Compared) -> str:
    merged, sources = size(round(one.merged)), size(round(one.sessions))
    return f"Files: {merged}, {models} models {sources}{_more(one)}{predicted_mark(one)}."


def _all(models: int, one: Compared) -> str:
    merged, sessions = duration(one.merged), duration(one.sessions)
    others = f"the sessions {one.against}" if one.basis is Basis.PREDICTED else "the best alternative"
    named = f"{one.against}, {sessions}" if one.basis is Basis.MEASURED and one.against else sessions
    return (
        f"A call of all {models} models: {merged}, {one.ratio:.2f} times as fast as {others} "
        f"({named}{_quartiles(one)}){predicted_mark(one)}."
    )


def _one(models: int, one: Compared) -> str:
    merged, sessions = duration(one.merged), duration(one.sessions)
    times = f"{1.0 / one.ratio:.2g} times as long" if one.ratio > 0.0 else "longer"
    every = "" if one.chosen else f", as all {models} run"
    return (
        f"A call that wants one model: {merged}{every}, its session {sessions}: {times}{predicted_mark(one)}."
    )


SENTENCES = {
    Question.MEMORY: _memory,
    Question.LOAD: _load,
    Question.FILES: _files,
    Question.ALL: _all,
    Question.ONE: _one,
}


def _more(one: Compared) -> str:
    """Say how the merged figure compares: `, 2.1 times less` or `, 1.3 times as much`."""
    if one.outcome is Outcome.EQUAL or one.merged <= 0.0 or one.sessions <= 0.0:
        return ""
    if one.ratio >= 1.0:
        return f", {one.ratio:.3g} times less"
    return f", {1.0 / one.ratio:.3g} times as much"


def _quartiles(one: Compared) -> str:
    return "" if one.low is None or one.high is None else f"; quartiles {one.low:.2f} and {one.high:.2f}"


def predicted_mark(one: Compared) -> str:
    """Return what a sentence adds where its figures are predicted."""
    return ", predicted" if one.basis is Basis.PREDICTED else ""


def mostly_replicated(nodes: Mapping[str, int], before: int, after: int) -> str:
    """Return a warning where nearly all nodes that differ between the models run once per model, else ''.
    `nodes` counts nodes by what became of them; `before` and `after` are the nodes of one source and of the
    merged graph."""
    apart = nodes.get("replicated", 0)
    differing = apart + nodes.get("batched", 0) + nodes.get("grouped", 0)
    if not apart or apart < MOSTLY * differing:
        return ""
    all_but = "All" if apart == differing else f"{apart} of the {differing}"
    return (
        f"Nearly nothing is merged. {all_but} nodes that differ between the models run once per model: the "
        f"graph has {after} nodes, a source {before}. This is the sources side by side in one file."
    )
