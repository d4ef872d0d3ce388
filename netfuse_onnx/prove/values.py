"""Makes proof (b): in ONNX Runtime, the merged model gives what the N sources give.

The sources run one at a time and are freed, then the merged model runs, so that memory is the larger of
the two plus the outputs. Every model gets inputs of its own. An exchange of two models shows where their
outputs differ on the same input: the proof says for every output if they do, and tries other inputs first
where they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.proofs import RANDOM, Isolation, Mixes, Selection, ValuesProof
from netfuse_onnx.prove.compare import difference
from netfuse_onnx.prove.isolation import isolate
from netfuse_onnx.prove.judge import Judge
from netfuse_onnx.prove.kept import KeptProver
from netfuse_onnx.prove.mixes import prove_mixes
from netfuse_onnx.prove.recast import Recast
from netfuse_onnx.prove.replay import Replayer
from netfuse_onnx.prove.selection import choose
from netfuse_onnx.prove.tell import Teller
from netfuse_onnx.prove.trial import Options, Progress, Trial
from netfuse_onnx.prove.views import ViewProver
from netfuse_onnx.run import bounds
from netfuse_onnx.run.runtime import CUDA, RunFailed, Session, Value
from netfuse_onnx.types import Correspondence


def prove_values(
    merged: str,
    family: Correspondence,
    options: Options,
    progress: Progress | None = None,
    *,
    trusted: bool = False,
    views: ViewProver | None = None,
    kept: KeptProver | None = None,
) -> ValuesProof:
    """Run the sources, then the merged model file, and compare every output of every model.

    `trusted` says that the graph of the file is the one that merging gives; else its memory is estimated
    before it is run. `views` are checked beside their sources, and `kept` after the merged file. Raises
    NotProven when the sources take no inputs that were tried, UsageFault on --dim or --inputs that do not fit
    the models.
    """
    tell = progress or silent
    trial = Trial(family, options)
    judge = Judge(trial, tell)
    replays = Replayer(trial, judge) if options.runtime.provider == "cuda" else None
    trial.run_sources(tell, _while_loaded(judge, replays, views))
    if any(row.reason not in ("", RANDOM) for row in Teller(trial, judge).telling()):
        trial.try_further(tell)
    provider, labels = options.runtime.provider, tuple(case.label for case in trial.cases)
    try:
        ran = _run_merged(merged, judge, replays, trusted)
    except RunFailed as error:
        problem = f"The merged model does not run in ONNX Runtime: {error}."
        problems = (problem, *(replays.problems if replays else ()))
        left_out, skipped = options.runtime.left_out, tuple(trial.skipped)
        return ValuesProof(provider, labels, skipped=skipped, problems=problems, left_out=left_out)
    rows = judge.rows(ran.results)
    if kept:
        kept.check(judge, ran.results)
    teller = Teller(trial, judge)
    return ValuesProof(
        provider=provider,
        cases=labels,
        outputs=rows,
        skipped=tuple(trial.skipped),
        placed=ran.placed,
        spread=teller.spread(),
        telling=teller.telling(),
        unreached=trial.unreached,
        isolation=ran.isolation,
        selection=ran.selection,
        mixes=ran.mixes,
        sizes=_sizes(trial),
        problems=tuple(_problems(options, ran.placed, replays)),
        shapes={case.label: trial.room.shapes(case) for case in trial.cases},
        left_out=options.runtime.left_out,
        tf32=_tf32(merged, trial, ran.results) if provider == "cuda" else None,
        replays=replays.answer() if replays else None,
    )


def _while_loaded(
    judge: Judge, replays: Replayer | None, views: ViewProver | None
) -> Callable[[Session, int], None]:
    """Return what is done with each source while it is loaded."""

    def check(session: Session, model: int) -> None:
        if replays:
            replays.source(session, model)
        if views:
            views.check(judge, model)

    return check


@dataclass(frozen=True, slots=True)
class _Ran:
    """The merged model's results of every case, the providers of its nodes, and the checks of isolation and
    of the choice of models."""

    results: Sequence[Mapping[str, Value]]
    placed: Mapping[str, int]
    isolation: Isolation | None
    selection: Selection | None
    mixes: Mixes | None


def _run_merged(merged: str, judge: Judge, replays: Replayer | None, trusted: bool) -> _Ran:
    """Run the merged file on all cases, then feed it odd values. Raises RunFailed."""
    trial, tell, results = judge.trial, judge.tell, []
    session = _session(merged, trial.family, trial.options, trusted)
    for done, case in enumerate(trial.cases):
        tell("running the merged model", done, len(trial.cases))
        results.append(session.run(trial.merged_feeds(case)))
    isolation = isolate(session, judge, results[0], thorough=trial.options.isolation, tell=tell)
    selection = choose(session, judge, tell)
    routed = edges.is_routed(trial.options.io)
    mixes = prove_mixes(session, judge, tell) if routed else None
    as_graph = replays.merged(session, results[0]) if replays else None
    placed = session.placed
    del session
    if as_graph:
        as_graph(merged)
    return _Ran(results, placed, isolation, selection, mixes)


def _problems(options: Options, placed: Mapping[str, int], replays: Replayer | None) -> Iterator[str]:
    if options.runtime.required and placed and CUDA not in placed:
        yield "CUDA was asked for, but ONNX Runtime placed every node on the CPU."
    yield from replays.problems if replays else ()


def _session(merged: str, family: Correspondence, options: Options, trusted: bool) -> Session:
    """Load the merged file. Raises RunFailed, also where it would take too much memory or never end."""
    if not trusted and (reason := bounds.of_merged(merged, family, options.max_memory)):
        raise RunFailed(reason)
    changed = options.precisions is not None
    return Recast(merged, family, options) if changed else Session(merged, options.runtime)


def _sizes(trial: Trial) -> dict[str, int]:
    """Return the bytes of every input and output in the first case, all models together."""
    sizes: dict[str, int] = {}
    for model in range(trial.family.models):
        feeds = trial.feeds(trial.cases[0], model)
        for name, value in (*feeds.items(), *trial.outputs[model][0].items()):
            if model == 0 or not (name in trial.options.share or name in trial.family.combined):
                parts = value if isinstance(value, list) else [value]
                sizes[name] = sizes.get(name, 0) + sum(np.asarray(part).nbytes for part in parts)
    return sizes


def _tf32(merged: str, trial: Trial, results: Sequence[Mapping[str, Value]]) -> float | None:
    """Return the largest relative change of the merged outputs by TF32, CUDA's default."""
    try:
        session = Session(merged, trial.options.runtime, tf32=True)
        worst = 0.0
        for case, exact in zip(trial.cases, results, strict=True):
            fast = session.run(trial.merged_feeds(case))
            for name, value in exact.items():
                gap, scale = difference(fast[name], value)
                worst = max(worst, gap / scale if scale else 0.0)
        return worst
    except RunFailed:
        return None


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""
