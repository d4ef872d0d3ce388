"""Measures how much the outputs of a source change by rounding alone.

A merged graph adds up in another order than its sources. The effect of that is a property of the source, so
it is measured there: the same inputs with graph optimisations off, the same inputs several times in one batch
(which takes other matrix kernels, as a merged model does), and inputs that are moved by one step of their own
rounding. Where an adapter is folded into the weights of a source, or the merged model holds weights as
W_0 + L R, x W becomes x W_0 + (x L) R: other sums, whose rounding is in proportion to |x| |W|, not to the
result. It is that of a weight whose elements are moved by one step, and so these weights are moved, too. The
same holds of a weight into which the scale of a BatchNormalization is folded: its product is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from netfuse_onnx.prove.compare import difference
from netfuse_onnx.prove.loaded import movable, session_of
from netfuse_onnx.prove.trial import Trial
from netfuse_onnx.run import symbols
from netfuse_onnx.run.runtime import Array, RunFailed, Session, Value

COPIES = 4
"""Copies of the inputs that are fed in one batch."""
NUDGES = 3
"""Runs with inputs that are moved by one rounding step, and sessions with weights that are moved. Inputs are
moved in each of these, too: the largest change of a channel over few runs may be small by chance."""
ROWS_APART = 1e-3
"""Rows of a batch depend on each other if copies differ by more, relative to the largest element."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Two results by case and output: the largest change of every element (0 where it can't be measured), and
    what the source gives with optimisations off."""

    changes: dict[int, dict[str, Array]]
    unoptimised: dict[int, dict[str, Value]] = field(default_factory=dict)


def measure(trial: Trial, model: int, cases: set[int]) -> Noise:
    """Measure the noise of one source in some cases."""
    noise = Noise({case: dict.fromkeys(trial.outputs[model][case], np.zeros(())) for case in cases})
    source, moving = trial.family.sources[model], movable(trial.family, model)
    settings: list[tuple[bool, int, tuple[Probe, ...]]] = [
        (False, 0, (_unoptimised,)),
        (True, 0, (_repeated, _nudged)),
        *((True, seed + 1, (_same, _nudged)) for seed in range(NUDGES if moving else 0)),
    ]
    for optimise, moved, probes in settings:
        try:
            session = session_of(
                (moved and moving) or source, trial.options.runtime, optimise=optimise, moved=moved
            )
        except RunFailed:
            continue  # then these probes tell nothing
        for case in cases:
            for probe in probes:
                _add_probe(noise, case, probe, trial, session, model)
        del session  # before the next is made
    return noise


Probe = Callable[[Trial, Session, int, int], Iterator[dict[str, Value]]]
"""A function that yields results which differ from those of the source by rounding only."""


def _add_probe(noise: Noise, case: int, probe: Probe, trial: Trial, session: Session, model: int) -> None:
    with suppress(RunFailed):
        for results in probe(trial, session, model, case):
            if probe is _unoptimised:
                noise.unoptimised[case] = results
            for name, value in results.items():
                change = _change(value, trial.outputs[model][case][name])
                noise.changes[case][name] = np.maximum(noise.changes[case][name], change)


def _change(value: Value, want: Value) -> Array:
    """Return the absolute change of each element; 0 where it can't be measured."""
    if not isinstance(value, np.ndarray) or not isinstance(want, np.ndarray):
        whole = difference(value, want)[0]
        return np.asarray(whole if np.isfinite(whole) else 0.0)
    if value.shape != want.shape or want.dtype.kind not in "fVciu":
        return np.zeros(())
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        change = np.abs(value.astype(wide) - want.astype(wide))
    return np.where(np.isfinite(change), change, 0.0)


def _unoptimised(trial: Trial, session: Session, model: int, case: int) -> Iterator[dict[str, Value]]:
    """Run the same inputs on a session without optimisations."""
    yield trial.run(session, model, trial.feeds(trial.cases[case], model))


def _same(trial: Trial, session: Session, model: int, case: int) -> Iterator[dict[str, Value]]:
    """Run the same inputs on a session whose weights are moved by rounding."""
    yield trial.run(session, model, trial.feeds(trial.cases[case], model))


def _nudged(trial: Trial, session: Session, model: int, case: int) -> Iterator[dict[str, Value]]:
    """Run inputs whose floats are each moved by one rounding step up, down or not at all."""
    feeds = trial.feeds(trial.cases[case], model)
    floats = {
        name: value
        for name, value in feeds.items()
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size
    }
    for turn in range(NUDGES if floats else 0):
        rng = np.random.default_rng(turn)
        moved = {name: _nudge(value, rng) for name, value in floats.items()}
        yield trial.run(session, model, {**feeds, **moved})


def _nudge(value: Array, rng: np.random.Generator) -> Array:
    step = np.finfo(value.dtype).eps * rng.integers(-1, 2, value.shape)
    moved: Array = value * (1 + step).astype(value.dtype)
    return moved


def _repeated(trial: Trial, session: Session, model: int, case: int) -> Iterator[dict[str, Value]]:
    """Run COPIES of every input in one batch, where memory allows, and split the outputs."""
    if not trial.room.fits(trial.cases[case], COPIES):
        return
    batches = set(symbols.batches([spec.dims for spec in trial.specs]))
    feeds = trial.feeds(trial.cases[case], model)
    for spec in trial.specs:
        for axis in [i for i, dim in enumerate(spec.dims or ()) if dim in batches]:
            feeds[spec.name] = np.concatenate([np.asarray(feeds[spec.name])] * COPIES, axis)
    wide = trial.run(session, model, feeds)
    wants = trial.outputs[model][case]
    parts = {name: _split_copies(value, wants[name]) for name, value in wide.items()}
    for copy in range(COPIES):
        mine = {name: copies[copy] for name, copies in parts.items() if copies}
        yield {name: value for name, value in mine.items() if _close(value, wants[name])}


def _close(copy: Value, want: Value) -> bool:
    change, scale = difference(copy, want)
    return change <= ROWS_APART * scale


def _split_copies(wide: Value, want: Value) -> list[Value]:
    """Split an output into its copies; return none where its batch axis can't be told."""
    if not isinstance(wide, np.ndarray) or not isinstance(want, np.ndarray) or wide.ndim != want.ndim:
        return []
    axes = [i for i in range(want.ndim) if wide.shape[i] != want.shape[i]]
    if len(axes) != 1 or wide.shape[axes[0]] != COPIES * want.shape[axes[0]]:
        return []
    return list(np.split(wide, COPIES, axes[0]))
