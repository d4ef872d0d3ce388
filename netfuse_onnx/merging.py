"""merge: the stages in their order, from the arguments of one merge to its report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

from netfuse_onnx import (
    apart,
    arguments,
    best_plan,
    bundling,
    checked,
    edges,
    expected,
    factoring,
    hints,
    opened,
    refusals,
    routes,
    sharing,
    sources,
    spelling_rows,
    wording,
)
from netfuse_onnx.bundling import Bundling
from netfuse_onnx.dims import Sizes
from netfuse_onnx.labels import Labels
from netfuse_onnx.merge_rows import RoutingRow, Sharing
from netfuse_onnx.options import Proof, refuse_unknown
from netfuse_onnx.options import checked as checked_options
from netfuse_onnx.plan import targets
from netfuse_onnx.plans import Plan, Request
from netfuse_onnx.prove.graph import prove_graph
from netfuse_onnx.prove.kept import KeptProver
from netfuse_onnx.prove.prover import prove
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.prove.values import silent
from netfuse_onnx.report import MergeReport, VerifyReport
from netfuse_onnx.routing import without_rows
from netfuse_onnx.run import inputs, runtime, symbols
from netfuse_onnx.storage import weights
from netfuse_onnx.tailed import refuse_stacked
from netfuse_onnx.tuning import Tuning
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.write import bundle, fingerprint, metadata, staging, writer
from netfuse_onnx.write.digests import Digests
from netfuse_onnx.write.early import Early

Families = Callable[[str], Correspondence]
"""Gives the family as it is rewritten for a provider, or for none: ''."""


@dataclass(frozen=True)
class Merging:
    """The arguments of one merge, as `api.merge` has them."""

    paths: Sequence[str]
    out: str
    names: Sequence[str] | None
    io: str
    routing: str
    share: tuple[str, ...]
    combine: str | Mapping[str, str]
    target: str
    partial: bool
    strict: bool
    verify: bool
    data: str
    tune: float | None
    views: bool
    low_rank: float | factoring.Factoring | None
    base: str | None
    progress: Progress | None
    proof: Proof
    portable: bool
    accept: Callable[[str, Correspondence, Labels], None] | None = None
    """A further check of the merged file, at a path that is not yet its place. It raises what is wrong."""

    def report(self) -> MergeReport:
        """Merge, prove, put the file in place, and say what was done. Raises the errors of `api.merge`."""
        labels = self._checked()
        libraries = runtime.libraries(self.proof.get("libraries", ()))
        options = self._options(libraries)
        provider = options.runtime.provider if options else ""
        asked = hints.Asked(arguments.target(self.target), provider, self.dims)
        at_hand = targets.at_hand(self.target, self.proof.get("provider", "auto"))
        made = replace(self, target=arguments.tuned_for(at_hand, self.tune, provider))
        self.check_target()
        models = self.models()
        with self._folder(), self.digests(models) as digests:  # on a thread, while graphs are worked on
            match = functools.partial(
                opened.matched, partial=self.partial, libraries=libraries, portable=self.portable
            )
            with checked.Comparison(match, exact=not self.partial).explained(models, labels):
                families = made._families(match, models, labels)
                family = families(targets.provider(made.target))
            work = _Work(made, models, digests, families, options)
            answer, plan = work.merged(family)
        return self.advised(answer, plan, asked)

    # ------------------------------------------------------------------ arguments

    @property
    def path(self) -> str:
        """The merged file: `out`, or a file in that folder."""
        return bundle.model_path(self.out) if self.views else self.out

    @property
    def mode(self) -> writer.Mode:
        """The files that get the weights."""
        return "external" if self.views else cast(writer.Mode, self.data)

    def models(self) -> Sequence[Source]:
        """Return the models to merge, in order."""
        return sources.read(self.paths)

    def digests(self, models: Sequence[Source]) -> Digests:
        """Return the digests of the models, which are being computed."""
        return Digests(models)

    def planned(self, family: Correspondence, once: frozenset[str]) -> tuple[Plan, tuple[RoutingRow, ...]]:
        """Plan and lower the family, whose inputs `once` are fed once: routes.plan."""
        return routes.plan(family, self.io, self.routing, share=once, target=self.target, dims=self.dims)

    def advised(self, answer: MergeReport, plan: Plan, asked: hints.Asked) -> MergeReport:
        """Return the report with the verdict and the hints, which nothing else depends on."""
        told = hints.of_merge(answer, plan.family, plan.merged, asked)
        return replace(answer, verdict=expected.of_merge(answer, plan.family), hints=told)

    def shared(self, plan: Plan) -> Sharing | None:
        """Return what the models share, which nothing else depends on."""
        return sharing.of(plan.family, plan.merged, self.dims, io=plan.io)

    def early(self) -> Early | None:
        """Return a copy of the data file that the merged file replaces; None for a merge."""
        return None

    def kept(self) -> KeptProver | None:
        """Return what proves that models of an earlier file are as they were; None for a merge."""
        return None

    def check_target(self) -> None:
        """Raise FileFault unless `out` can be written."""
        read = [*sources.files(self.paths), *filter(None, [self.base])]
        if self.views:
            bundling.check(self.out, read, self.data)
        else:
            staging.check_target(self.out, read, external=self.data == "external")

    def _folder(self) -> AbstractContextManager[None]:
        """Give the folder of a bundle for the time of the merge; of a merged file alone, it is there."""
        return bundle.folder(self.out) if self.views else nullcontext()

    @property
    def dims(self) -> Sizes:
        """The sizes of symbolic dims that were given."""
        return self.proof.get("dims", {})

    def _checked(self) -> tuple[str, ...]:
        """Return the names of the models. Raises UsageFault for arguments that make no sense."""
        refuse_unknown(self.proof)
        labels = arguments.model_names(self.paths, self.names)
        factoring.check(self.low_rank, self.base, partial=self.partial)
        sources.refuse_target(self.out, self.paths)
        arguments.edge(self.io, self.routing)
        arguments.choice("data", self.data)
        arguments.sizes(self.dims)
        return labels

    def _options(self, libraries: tuple[str, ...]) -> Options | None:
        """Return the options of the proofs and of measuring; None where nothing is run."""
        if not self.verify and self.tune is None:
            return None
        return checked_options(self.io, self.share, self.proof, libraries)

    def _families(
        self, match: Callable[..., Correspondence], models: Sequence[Source], labels: Sequence[str]
    ) -> Families:
        """Return the function that matches the models and rewrites them for a provider."""
        tell = self.progress or silent
        factored = factoring.asked(models, self.low_rank, self.base, self.target, self.dims, tell)

        def families(provider: str) -> Correspondence:
            family = match(models, labels, made_for=provider, factored=factored, combine=self.combine)
            return replace(family, unmoved=self.views)

        return families


@dataclass(frozen=True)
class _Work:
    """The stages of one merge, from a matched family on."""

    ask: Merging
    models: Sequence[Source]
    digests: Digests
    families: Families
    options: Options | None

    def merged(self, family: Correspondence) -> tuple[MergeReport, Plan]:
        """Plan, lower, write and prove, and put the files in place."""
        ask, options = self.ask, self.options
        refuse_stacked(family, ask.io)
        if sizes := without_rows(ask.dims) if edges.is_routed(ask.io) else ask.dims:
            inputs.require_symbols(inputs.describe(family), sizes)
        once = routes.shared(family, ask.io, arguments.shared_inputs(ask.share, family))
        plan, rows = ask.planned(family, once)
        io, tuning = plan.io, None
        options = replace(options, io=io, share=once) if options else None
        if options and ask.tune is not None:
            refusals.unmeasured(io)
            plan, tuning = best_plan.choose(self._request(plan, once, options, ask.tune))
        answer = self._before_proofs(plan, tuning, io, once)
        if ask.strict:
            refusals.replicated(answer)
            refusals.slower(answer)
        about = plan.metadata(io=io, share=once, partial=ask.partial, dims=ask.dims, data=ask.data)
        with writer.stage(
            plan.merged, ask.path, self.models, mode=ask.mode, metadata=about, progress=ask.progress,
            digests=self.digests, early=ask.early(),
        ) as staged:  # fmt: skip
            tell = ask.progress or silent
            views = Bundling(staged, plan, family, self.models, once, tell) if ask.views else None
            answer = replace(answer, fingerprint=fingerprint.of(staged.model_path))
            if options and ask.verify:
                options = replace(options, made_for=plan.made_for)
                proof = self._prove_staged(staged, plan, options, views)
                proof = replace(proof, fingerprint=answer.fingerprint)
                answer = refusals.proven(answer, proof, ask.strict)
            if ask.accept:
                with wording.renaming(staged.names(ask.out)):
                    ask.accept(staged.model_path, family, Labels.of(family, io, once))
            if views:
                viewed, files = views.commit()
                answer, size = replace(answer, views=viewed), sum(viewed.files.values())
            else:
                staged.commit()
                files, size = tuple(staged.files), staged.size
        return replace(answer, files=files, size=size, routing=rows), plan

    def _request(self, plan: Plan, share: frozenset[str], options: Options, seconds: float) -> Request:
        """Return what is asked of the choice among plans by measuring."""
        ask = self.ask

        def families(provider: str) -> Correspondence:
            return routes.matched(self.families(provider), plan.io, provider)

        return Request(
            plan, families, self.models, ask.path, plan.io, share, without_rows(ask.dims), options, seconds,
            cast(writer.Mode, ask.data), self.digests, ask.progress or silent,
        )  # fmt: skip

    # ------------------------------------------------------------------ proofs and report

    def _prove_staged(
        self, staged: writer.Staged, plan: Plan, options: Options, views: Bundling | None
    ) -> VerifyReport:
        """Prove the staged files, which are written but not yet in their place. Messages call them `out`."""
        ask = self.ask
        path, names = staged.model_path, staged.names(ask.out)
        with wording.renaming(names):
            recipes = metadata.recipes(metadata.read(path), plan.family, path)
            graph = prove_graph(path, plan.merged, recipes)
            prover = views.prover() if views else None
            proved = prove(
                path, recipes, plan.family, options, ask.progress, graph=graph, views=prover, kept=ask.kept()
            )
            return wording.renamed(proved, names)

    def _before_proofs(
        self, plan: Plan, tuning: Tuning | None, io: str, share: frozenset[str]
    ) -> MergeReport:
        """Return the report as it is before the proofs and the files."""
        ask = self.ask
        family, merged, target = plan.family, plan.merged, plan.target
        sizes = ask.dims.items()
        return MergeReport(
            out=ask.out,
            sources=tuple(source.path for source in family.sources),
            models=family.names,
            io=io,
            share=tuple(sorted(share)),
            target=target,
            lowered=merged.report,
            distinct_bytes=weights.stored(merged.model),
            sharing=ask.shared(plan),
            low_rank=factoring.report(family),
            adapters=sources.changes(family),
            names=tuple(Labels.of(family, io, share).rows()),
            symbols=symbols.free(
                symbols.named(name, family.graph.types[name].dims) for name in family.graph.inputs
            ),
            warnings=(*family.warnings, *(() if tuning else targets.unmeasured(target))),
            dims={name: (size,) if isinstance(size, int) else tuple(size) for name, size in sizes},
            tuning=tuning,
            combined=family.combined,
            spelling=spelling_rows.of(family),
            portable=family.portable,
            source_opset=max(source.opsets.get("", 0) for source in family.loaded or family.sources),
            opset=family.opsets.get("", 0),
            apart=apart.of(family, merged, ask.dims),
        )
