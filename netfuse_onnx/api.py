"""The verbs: merge, check, verify, inspect, rules, bench, bundle, split, update, add, remove. They connect
the stages; the command line calls them.

Paths are strings. All verbs raise FileFault for files that can't be read or written and UsageFault for
arguments that make no sense; each says what else it raises.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from netfuse_onnx import (
    arguments,
    bundle_check,
    checked,
    edges,
    factoring,
    opened,
    pages,
    refusals,
    sources,
    spelling_rows,
    verifying,
)
from netfuse_onnx.bundle_report import BundleReport
from netfuse_onnx.errors import NotStackable
from netfuse_onnx.lifecycle.split import Splitting
from netfuse_onnx.lifecycle.split_report import SplitReport
from netfuse_onnx.lifecycle.verbs import add as add
from netfuse_onnx.lifecycle.verbs import remove as remove
from netfuse_onnx.lifecycle.verbs import update as update
from netfuse_onnx.load import simplified
from netfuse_onnx.measure.clock import Clock
from netfuse_onnx.measure.contest import contest
from netfuse_onnx.measure.entries import MergedFile
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.measure.rounds import Effort
from netfuse_onnx.measure.workload import Workload
from netfuse_onnx.merging import Merging
from netfuse_onnx.options import Proof
from netfuse_onnx.page_report import PageReport
from netfuse_onnx.prove import factors, remake
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.prove.values import silent
from netfuse_onnx.report import CheckReport, InspectReport, MergeReport, VerifyReport
from netfuse_onnx.rules_report import RulesReport
from netfuse_onnx.runtime.bundle import MANIFEST
from netfuse_onnx.storage import wire
from netfuse_onnx.storage.steady import steady
from netfuse_onnx.write import fingerprint, metadata


def merge(
    paths: Sequence[str],
    out: str,
    *,
    names: Sequence[str] | None = None,
    io: str = "separate",
    routing: str = "auto",
    share: Sequence[str] = (),
    combine: str | Mapping[str, str] = "",
    target: str = "generic",
    partial: bool = False,
    strict: bool = False,
    verify: bool = True,
    data: str = "auto",
    tune: float | None = None,
    views: bool = False,
    low_rank: float | factoring.Factoring | None = None,
    base: str | None = None,
    portable: bool = False,
    report: str | None = None,
    simplify: bool = False,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> MergeReport:
    """Merge models of one architecture into the file `out`, which is replaced once its proofs hold.

    The arguments are the options of the command line; `routing` says how rows find their models with
    io="routed": auto, slots or index; `combine` is mean, sum or vote for all outputs, or one of these by
    name; `data` says which file gets the weights: auto, external or single; `tune` is the seconds for
    choosing the plan by measuring on this machine, None for not at all; with `views`, `out` is the folder of
    a bundle: the merged file, and a graph of each model that reads its weights from there; `low_rank` is the
    tolerance of low-rank differences from `base`, 0 for the rounding of the type; `portable` keeps to the
    opset and operators of the sources, and to forms that other runtimes than ONNX Runtime run, too; `report`
    is a page to write, as `write_report` does; `simplify` runs onnxslim on a copy of each source first.
    Raises NotEquivalent, StrictViolated, NotStackable and its kinds, NotProven, and ValuesDiffer with the
    MergeReport in its `report`; in these cases `out` is as it was.
    """
    if simplify:
        refusals.not_simplified(views=views, low_rank=low_rank is not None)
        paths = simplified.paths(paths)
    if report is not None:
        pages.check(report, (out, *paths))
    merged = Merging(
        paths, out, names, io, routing, tuple(share), combine, target, partial, strict, verify, data, tune,
        views, low_rank, base, progress, proof, portable,
    ).report()  # fmt: skip
    if report is not None:
        pages.of_merge(merged, report)
    return merged


def check(
    paths: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    partial: bool = False,
    simplify: bool = False,
) -> CheckReport:
    """Answer if the models are one architecture, with `simplify` as onnxslim simplifies them. A no is a
    report that is not ok: it has the families of the models, and what differs. A FileFault names all files
    that can't be read; its `report` has the families of the others."""
    labels = arguments.model_names(paths, names)
    paths = simplified.paths(paths) if simplify else paths
    match = functools.partial(opened.matched, partial=partial)
    partly = None if partial else functools.partial(opened.matched, partial=True)
    comparison = checked.Comparison(match, exact=not partial, partial=partly)
    return steady(sources.files(paths), lambda: comparison.answer(paths, labels, remake.merge))


def verify(
    merged: str,
    paths: Sequence[str],
    *,
    strict: bool = False,
    isolation: bool = False,
    values: bool = False,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> VerifyReport:
    """Prove a merged file against its sources. A failed proof is a report that is not ok.

    `paths` are in the order of the merge, or in any order with the name of each model in `names`. `strict`
    refuses outputs whose values could not have shown an exchange of models; `isolation` feeds odd values to
    every model, not only to two. With `values`, values alone are compared, not bytes and
    graph: for a file that another tool has changed since the merge.

    Raises NotEquivalent when the sources do not match, ValuesDiffer when they can't be those that were
    merged, NotProven when they take no inputs that were tried or give nothing that can be compared,
    FileFault when `merged` was not written by netfuse-onnx, or when files change in every attempt.
    """
    paths = sources.in_order(merged, paths, names)
    proved = steady(
        [merged, *sources.files(paths)],
        lambda: verifying.verified(merged, paths, isolation, values, progress or silent, proof),
    )
    return replace(proved, strict=strict)


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
        about, options, family, strangers = opened.read_merged(merged, paths, proof)
        options = options.remembering(about.measured[0] if about.measured else {}, family)
        refusals.unbounded(merged, family, options.max_memory)
        work = Workload(family, options, tell)
        size = sum(map(os.path.getsize, wire.scan(merged).files))
        files = [MergedFile("merged", merged, about.io, about.share, size)]
        with tempfile.TemporaryDirectory(prefix="netfuse-bench-") as folder:
            stacked = os.path.join(folder, "stacked.onnx")
            notes = [*strangers, *opened.other_sizes(options)]
            if work.runtime.provider == "cuda" and edges.is_separate(about.io):
                tell("merging with stacked inputs and outputs", 0, 1)
                try:
                    files.append(_stacked(about, merged, paths, stacked, proof))
                except NotStackable as error:
                    notes.append(f"Not measured with stacked inputs and outputs: {error.message}")
            report = contest(work, files, effort=effort, with_profile=profile, tell=tell, clock=clock)
        warnings = (*notes, *report.warnings)
        return replace(report, warnings=warnings, fingerprint=fingerprint.of(merged))

    return steady([merged, *sources.files(paths)], measured, attempts=1)


def inspect(merged: str) -> InspectReport:
    """Show the lowering of every node, from the merged file alone."""
    about, changed = steady([merged], lambda: verifying.recorded(merged))
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
        low_rank=factoring.recorded(about.low_rank, about.models),
        combined=about.combined,
        apart=about.apart,
        names=tuple(about.labels.rows()),
        changed=changed,
        spelling=spelling_rows.read(about.spelling),
    )


def bundle(
    folder: str,
    paths: Sequence[str] = (),
    *,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> BundleReport:
    """Check a bundle that merge has written with `views`: the hashes of all files, and that each view reads
    what is its own model's. With `paths`, its sources as in `verify`, each view is run against its source,
    too, and must give the same bit for bit. What is wrong is a report that is not ok.

    Raises FileFault where the folder is no bundle, and with `paths` the errors of `verify`.
    """
    manifest = os.path.join(folder, MANIFEST)
    return steady(
        [manifest, *sources.files(paths)],
        lambda: bundle_check.checked(folder, paths, names, progress or silent, proof),
    )


def split(
    merged: str,
    folder: str,
    *,
    models: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> SplitReport:
    """Write the sources of a merged file, or of a bundle, to a folder, from that file alone. `models` names
    some of them; `force` replaces files that are there already.

    Raises FileFault where the file does not hold them, or no longer as they were merged.
    """
    return Splitting(merged, folder, tuple(models), force, progress or silent).report()


def write_report(
    merged: str,
    out: str,
    paths: Sequence[str] = (),
    *,
    verify: str | VerifyReport | MergeReport | None = None,
    bench: str | BenchReport | None = None,
    names: Sequence[str] | None = None,
    force: bool = False,
    strict: bool = False,
    isolation: bool = False,
    progress: Progress | None = None,
    **proof: Unpack[Proof],
) -> PageReport:
    """Write a page about a merged file or a bundle to `out`, one HTML file that loads nothing.

    It shows the proofs in `verify` and the times in `bench`: reports, or files with the JSON of `verify`,
    `merge` and `bench`. With `paths`, the sources, it is proven now; a proof that fails is shown, and the
    answer is not ok. Where `out` is there, it is replaced if it is such a page, or with `force`.

    Raises UsageFault where a report is about another file, and the errors of `verify`.
    """
    given = [path for path in (verify, bench) if isinstance(path, str)]
    pages.check(out, (merged, *paths, *given), force=force)
    merged = pages.merged_path(merged)
    paths = sources.in_order(merged, paths, names)
    material = pages.material(merged, paths, verify, bench)
    made = _proved(merged, paths, strict, isolation, progress, proof) if paths else None
    return pages.made(material, out, made)


def _proved(
    merged: str,
    paths: Sequence[str],
    strict: bool,
    isolation: bool,
    progress: Progress | None,
    proof: Proof,
) -> VerifyReport:
    """Prove a merged file. It is a function because an argument called `verify` hides the verb."""
    return verify(merged, paths, strict=strict, isolation=isolation, progress=progress, **proof)


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
        paths, out, names=about.models, io="stacked", share=about.share, combine=about.combined,
        target=about.target, partial=about.partial, verify=False, dims=about.dims,
        libraries=proof.get("libraries", ()),
        low_rank=functools.partial(factors.restored, merged, about), portable=about.portable,
    )  # fmt: skip
    return MergedFile("merged, stacked", out, "stacked", about.share, report.size)
