"""Prints the checks that a proof makes by further calls: other values, other rows, other models."""

from __future__ import annotations

from netfuse_onnx.proofs import Isolation, Replays, Selection, ValuesProof

from .render_routed import mixes
from .screen import REASONS, Screen


def calls(values: ValuesProof, models: int, console: Screen) -> None:
    """Print what the calls beside those of the cases showed."""
    _isolation(values.isolation, models, console)
    _selection(values.selection, console)
    mixes(values.mixes, console)
    if values.replays:
        _replays(values.replays, console)


def _replays(replays: Replays, console: Screen) -> None:
    for problem in replays.problems[:REASONS]:
        console.say(f"Again: {problem}")
    if replays.ok:
        console.say(
            f"Again: {replays.again} files gave the same when they ran again after other inputs, "
            f"{replays.graphs} of them as CUDA graphs too."
        )
    for what, reason in [*replays.refused.items()][:REASONS]:
        console.say(f"No CUDA graph of {what}: {reason}.")


def _isolation(isolation: Isolation | None, models: int, console: Screen) -> None:
    if isolation is None:
        return
    for problem in isolation.problems[:REASONS]:
        console.say(f"Isolation: {problem}")
    if not isolation.ok:
        return
    count = isolation.refused
    calls = "1 call with unequal sizes" if count == 1 else f"{count} calls with unequal sizes"
    sizes = f"; {calls} failed, as it should" if count else ""
    console.say(
        f"Isolation: odd values in the inputs of {isolation.models} of {models} models left all outputs of "
        f"the others as they were, bit for bit ({isolation.calls} calls){sizes}."
    )


def _selection(selection: Selection | None, console: Screen) -> None:
    if selection is None:
        return
    for problem in selection.problems[:REASONS]:
        console.say(f"Choice: {problem}")
    if selection.ok:
        console.say(
            f"Choice: {selection.calls} calls for some models, twice and out of order among them, gave what "
            f"these give; {selection.refused} calls with an id of no model, or with other rows than ids, "
            "failed, as they should."
        )
