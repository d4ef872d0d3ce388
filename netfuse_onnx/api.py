"""The verbs: merge, check, verify, inspect, rules, bench. They connect the stages; the command line calls
them.

Paths are strings. All verbs raise FileFault for files that can't be read or written and UsageFault for
arguments that make no sense; each says what else it raises.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Unpack, cast

from netfuse_onnx import arguments, best_plan, checked, expected, factoring, hints, refusals, sources, wording
from netfuse_onnx.dims import Sizes
from netfuse_onnx.errors import FileFault, NotStackable, UsageFault, ValuesDiffer
from netfuse_onnx.labels import Labels
from netfuse_onnx.load.claims import Run
from netfuse_onnx.match.matcher import match
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.measure.rounds import Effort
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.options import Proof
from netfuse_onnx.options import checked as checked_options
from netfuse_onnx.plan import targets
from netfuse_onnx.plans import Plan, Request
from netfuse_onnx.prove import factors, remake
from netfuse_onnx.prove.graph import prove_graph
from netfuse_onnx.prove.prover import prove
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.prove.values import silent
from netfuse_onnx.report import CheckReport, InspectReport, MergeReport, RulesReport, VerifyReport
from netfuse_onnx.rewrite.passes import rewritten
from netfuse_onnx.run import bounds, runtime, symbols
from netfuse_onnx.run.observe import observed
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.tuning import Tuning
from netfuse_onnx.types import Correspondence, Edge, Ran, Source
from netfuse_onnx.write import metadata, staging, writer
from netfuse_onnx.write.digests import Digests


def merge(
    paths: Sequence[str],
    out: str,
    *,
    names: Sequence[str] | None = None,
    io: str = "separate",
    share: Sequence[str] = (),
    target: str = "generic",
    partial: bool = False,
    strict: bool = False,
    verify: bool = True,
    data: str = "auto",
    tune: float | None = None,
    low_rank: float | factoring.Factoring | None = None,
    base: str | None = None,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> MergeReport:
    """Merge models of one architecture into the file `out`, which is replaced once its proofs hold.

    The arguments are the options of the command line; `data` says which file gets the weights: auto, external
    or single; `tune` is the seconds for choosing the plan by measuring on this machine, None for not at all;
    `low_rank` is the tolerance of low-rank differences from `base`, 0 for the rounding of the type. Raises
    NotEquivalent, StrictViolated, NotStackable, NotProven, and ValuesDiffer with the MergeReport in its
    `report`; in these cases `out` is as it was.
    """
    labels = arguments.model_names(paths, names)
    factoring.check(low_rank, base, partial=partial)
    sources.refuse_target(out, paths)
    arguments.choice("io", io)
    arguments.choice("data", data)
    libraries = runtime.libraries(proof.get("libraries", ()))
    dims, mode = proof.get("dims", {}), cast(writer.Mode, data)
    arguments.sizes(dims)
    options = checked_options(io, share, proof, libraries) if verify or tune is not None else None
    provider = options.runtime.provider if options else ""
    asked = hints.Asked(arguments.target(target), provider, dims)
    target = arguments.tuned_for(targets.at_hand(target, proof.get("provider", "auto")), tune, provider)
    made_for = targets.provider(target)
    staging.check_target(out, [*paths, *filter(None, [base])], external=data == "external")
    models = sources.read(paths)
    with Digests(models) as digests:  # on a thread of its own, while the graphs are worked on
        factored = factoring.asked(models, low_rank, base, target, dims, progress or silent)
        matching = functools.partial(_matched, partial=partial, libraries=libraries)
        with checked.Comparison(matching, exact=not partial).explained(models, labels):
            again = functools.partial(matching, models, labels, factored=factored)
            family = again(made_for=made_for)
        once = arguments.shared_inputs(share, family)
        plan, tuning = Plan.of(family, io=io, share=once, target=target, dims=dims), None
        if options and tune is not None:
            plan, tuning = best_plan.choose(Request(
                plan, lambda provider: again(made_for=provider), models, out, io, once,
                dims, replace(options, share=once), tune, mode, digests, progress or silent,
            ))  # fmt: skip
        answer = _merge_report(out, plan, tuning, io=io, share=once, dims=dims)
        if strict:
            refusals.replicated(answer)
            refusals.slower(answer)
        about = plan.metadata(io=io, share=once, partial=partial, dims=dims)
        with writer.stage(
            plan.merged, out, models, mode=mode, metadata=about, progress=progress, digests=digests
        ) as staged:
            if options and verify:
                options = replace(options, share=once, made_for=plan.made_for)
                answer = refusals.proven(answer, _prove_staged(staged, out, plan, options, progress), strict)
            staged.commit()
    answer = replace(answer, files=tuple(staged.files), size=staged.size)
    told = hints.of_merge(answer, plan.family, plan.merged, asked)
    return replace(answer, verdict=expected.of_merge(answer, plan.family), hints=told)


def check(paths: Sequence[str], *, names: Sequence[str] | None = None, partial: bool = False) -> CheckReport:
    """Answer if the models are one architecture. A no is a report that is not ok: it has the families of the
    models, and what differs. A FileFault names all files that can't be read; its `report` has the families of
    the others."""
    labels = arguments.model_names(paths, names)
    match = functools.partial(_matched, partial=partial)
    comparison = checked.Comparison(match, exact=not partial)
    return steady(paths, lambda: comparison.answer(paths, labels, remake.merge))


def verify(
    merged: str,
    paths: Sequence[str],
    *,
    strict: bool = False,
    isolation: bool = False,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> VerifyReport:
    """Prove a merged file against its sources. A failed proof is a report that is not ok.

    `paths` are in the order of the merge, or in any order with the name of each model in `names`. `strict`
    refuses outputs whose values could not have shown an exchange of models; `isolation` feeds odd values to
    every model, not only to two.

    Raises NotEquivalent when the sources do not match, ValuesDiffer when they can't be those that were
    merged, NotProven when they take no inputs that were tried or give nothing that can be compared,
    FileFault when `merged` was not written by netfuse-onnx, or when files change in every attempt.
    """
    paths = sources.in_order(merged, paths, names)
    proved = steady([merged, *paths], lambda: _verified(merged, paths, isolation, progress or silent, proof))
    return replace(proved, strict=strict)


def _verified(
    merged: str, paths: Sequence[str], isolation: bool, progress: Progress, proof: Proof
) -> VerifyReport:
    about, options, family, strangers = _read_merged(merged, paths, proof)
    try:
        recipes = metadata.recipes(about, family, merged)
    except FileFault as error:
        if strangers:
            raise ValuesDiffer(strangers[0], "Give the models that were merged.") from error
        raise
    progress("planning again", 0, 1)
    graph = remake.prove_remade(merged, about, family, recipes)
    options = replace(options, isolation=isolation, made_for=about.made_for)
    proved = prove(merged, recipes, family, options, progress, graph=graph)
    return replace(proved, warnings=(*strangers, *proved.warnings))


def bench(
    merged: str,
    paths: Sequence[str],
    *,
    rounds: int = 25,
    seconds: float = 60.0,
    profile: bool = False,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> BenchReport:
    """Measure a merged file against every other way to run its sources: up to `rounds` rounds, and all in
    `seconds`, or in what the first call of each way takes. `profile` divides the time between operators.
    Outputs that differ are a report that is not ok.

    Raises the errors of `verify`, and FileFault when a file changes meanwhile.
    """
    effort = Effort(rounds=arguments.positive("rounds", rounds), seconds=seconds)
    arguments.one_size("bench", proof.get("dims", {}))
    paths = sources.in_order(merged, paths, names)

    def measured() -> BenchReport:
        clock, tell = Clock(seconds), progress or silent
        about, options, family, strangers = _read_merged(merged, paths, proof)
        options = options.remembering(about.measured[0] if about.measured else {}, family)
        refusals.unbounded(merged, family, options.max_memory)
        work = Workload(family, options, tell)
        size = sum(map(os.path.getsize, wire.scan(merged).files))
        files = [MergedFile("merged", merged, about.io, about.share, size)]
        with tempfile.TemporaryDirectory(prefix="netfuse-bench-") as folder:
            stacked = os.path.join(folder, "stacked.onnx")
            notes = [*strangers, *_other_sizes(options)]
            if work.runtime.provider == "cuda" and about.io != "stacked":
                tell("merging with stacked inputs and outputs", 0, 1)
                try:
                    files.append(_stacked(about, merged, paths, stacked, proof))
                except NotStackable as error:
                    notes.append(f"Not measured with stacked inputs and outputs: {error.message}")
            report = contest(work, files, effort=effort, with_profile=profile, tell=tell, clock=clock)
        return replace(report, warnings=(*notes, *report.warnings))

    return steady([merged, *paths], measured, attempts=1)


def inspect(merged: str) -> InspectReport:
    """Show the lowering of every node, from the merged file alone."""
    about = steady([merged], lambda: metadata.read(merged))
    return InspectReport(
        merged=merged,
        version=about.version,
        models=about.models,
        sha256=dict(zip(about.models, about.sha256, strict=False)),
        io=about.io,
        share=about.share,
        target=about.target,
        lowered=about.lowered,
        weights=len(about.weights),
        recorded=about.recorded,
        names=tuple(Labels(about.models, about.names or (), about.io, frozenset(about.share)).rows()),
        low_rank=factoring.recorded(about.low_rank, about.models),
    )


def rules() -> RulesReport:
    """List the rules of each operator, or the reason why it is replicated. All others are replicated."""
    from netfuse_onnx.operators import rows

    return RulesReport(rows())


# --------------------------------------------------------------------------- helpers


def _stacked(
    about: metadata.Metadata, merged: str, paths: Sequence[str], out: str, proof: Proof
) -> MergedFile:
    """Merge the models once more, with stacked inputs and outputs: on CUDA each input and output of its own
    costs a copy of its own. Raises NotStackable."""
    report = merge(
        paths, out, names=about.models, io="stacked", share=about.share, target=about.target,
        partial=about.partial, verify=False, dims=about.dims, libraries=proof.get("libraries", ()),
        low_rank=functools.partial(factors.restored, merged, about),
    )  # fmt: skip
    return MergedFile("merged, stacked", out, "stacked", about.share, report.size)


def _other_sizes(options: Options) -> Iterator[str]:
    if options.further:
        sizes = [", ".join(f"{n}={d}" for n, d in one.items()) for one in (options.dims, *options.further)]
        yield (
            f"The file was planned for {'; '.join(sizes)}. Measured with {sizes[0]}; --dim NAME=VALUE "
            "chooses another."
        )


def _read_merged(
    merged: str, paths: Sequence[str], proof: Proof
) -> tuple[metadata.Metadata, Options, Correspondence, list[str]]:
    """Return the metadata of a merged file, the options to run it with, the family of its sources, and a
    warning for each source that is not the file that was merged."""
    about = metadata.read(merged)
    libraries = runtime.libraries(proof.get("libraries", ()))
    options = checked_options(about.io, about.share, proof, libraries)
    if len(paths) != len(about.models):
        raise UsageFault(
            f"{merged} holds {len(about.models)} models, {len(paths)} were given.",
            f"Give the models that were merged, in their order: {', '.join(about.models)}.",
        )
    models = sources.read(paths)
    with Digests(models) as digests:
        family = _matched(
            models, about.models, about.partial, libraries, about.made_for, about.names,
            functools.partial(factors.restored, merged, about),
        )  # fmt: skip
        family = replace(family, own_names=about.names is not None)
        metadata.fitting(about, family, merged)
        options = options.remembering(about.dims, family)
        return about, options, family, metadata.strangers(about, paths, digests.result())


def _matched(
    models: Sequence[Source],
    names: Sequence[str],
    partial: bool,
    libraries: tuple[str, ...] = (),
    made_for: str = "",
    named: Sequence[Edge] | None = None,
    factored: factoring.Factoring = lambda family: family,
) -> Correspondence:
    """Match, find low-rank differences and rewrite. Where only a run can tell the rank of a value, the first
    source is run."""
    ran = Ran.NOTHING

    def complete(source: Source, values: tuple[str, ...]) -> Sequence[Run]:
        nonlocal ran
        runs = observed(source, values, libraries)
        ran = Ran.TOLD if runs else Ran.FAILED
        return runs

    family = factored(match(models, names, partial=partial, complete=complete, named=named))
    return replace(bounds.affordable(rewritten(family, made_for)), ran=ran)


def _prove_staged(
    staged: writer.Staged, out: str, plan: Plan, options: Options, progress: Progress | None
) -> VerifyReport:
    """Prove the staged files, which are written but not yet in their place. Messages call them `out`."""
    path, names = staged.model_path, staged.names(out)
    with wording.renaming(names):
        recipes = metadata.recipes(metadata.read(path), plan.family, path)
        graph = prove_graph(path, plan.merged, recipes)
        proved = prove(path, recipes, plan.family, options, progress, graph=graph)
        return wording.renamed(proved, names)


def _merge_report(
    out: str, plan: Plan, tuning: Tuning | None, *, io: str, share: frozenset[str], dims: Sizes
) -> MergeReport:
    """Return the report as it is before the proofs and the files."""
    family, merged, target = plan.family, plan.merged, plan.target
    return MergeReport(
        out=out,
        sources=tuple(source.path for source in family.sources),
        models=family.names,
        io=io,
        share=tuple(sorted(share)),
        target=target,
        lowered=merged.report,
        distinct_bytes=weights.stored(merged.model),
        names=tuple(Labels.of(family, io, share).rows()),
        symbols=symbols.free(
            symbols.named(name, family.graph.types[name].dims) for name in family.graph.inputs
        ),
        warnings=(*family.warnings, *(() if tuning else targets.unmeasured(target))),
        dims={name: (size,) if isinstance(size, int) else tuple(size) for name, size in dims.items()},
        tuning=tuning,
        low_rank=factoring.report(family),
    )
