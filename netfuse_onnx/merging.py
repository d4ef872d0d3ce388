"""merge: the stages in their order, from the arguments of one merge to its report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from netfuse_onnx import (
    arguments,
    best_plan,
    checked,
    expected,
    hints,
    opened,
    refusals,
    routes,
    sharing,
    sources,
    wording,
)
from netfuse_onnx.dims import Sizes
from netfuse_onnx.labels import Labels
from netfuse_onnx.options import Proof
from netfuse_onnx.options import checked as checked_options
from netfuse_onnx.plan import targets
from netfuse_onnx.plans import Plan, Request
from netfuse_onnx.prove.graph import prove_graph
from netfuse_onnx.prove.prover import prove
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.prove.values import silent
from netfuse_onnx.report import MergeReport, VerifyReport
from netfuse_onnx.run import runtime, symbols
from netfuse_onnx.storage import weights
from netfuse_onnx.tuning import Tuning
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.write import metadata, staging, writer
from netfuse_onnx.write.digests import Digests


@dataclass(frozen=True)
class Merging:
    """The arguments of one merge, as `api.merge` has them."""

    paths: Sequence[str]
    out: str
    names: Sequence[str] | None
    io: str
    routing: str
    share: tuple[str, ...]
    target: str
    partial: bool
    strict: bool
    verify: bool
    data: str
    tune: float | None
    progress: Progress | None
    proof: Proof

    def report(self) -> MergeReport:
        """Merge, prove, put the file in place, and say what was done. Raises the errors of `api.merge`."""
        labels = self._checked()
        libraries = runtime.libraries(self.proof.get("libraries", ()))
        options = self._options(libraries)
        provider = options.runtime.provider if options else ""
        asked = hints.Asked(arguments.target(self.target), provider, self.dims)
        at_hand = targets.at_hand(self.target, self.proof.get("provider", "auto"))
        made = replace(self, target=arguments.tuned_for(at_hand, self.tune, provider))
        staging.check_target(self.out, self.paths, external=self.data == "external")
        models = sources.read(self.paths)
        with Digests(models) as digests:  # on a thread of its own, while the graphs are worked on
            family = made._family(models, labels)
            answer, plan = made._merged(family, models, digests, options)
        told = hints.of_merge(answer, plan.family, plan.merged, asked)
        return replace(answer, verdict=expected.of_merge(answer, plan.family), hints=told)

    # ------------------------------------------------------------------ arguments

    @property
    def dims(self) -> Sizes:
        """The sizes of symbolic dims that were given."""
        return self.proof.get("dims", {})

    def _checked(self) -> tuple[str, ...]:
        """Return the names of the models. Raises UsageFault for arguments that make no sense."""
        labels = arguments.model_names(self.paths, self.names)
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

    # ------------------------------------------------------------------ stages

    def _matching(self) -> Callable[..., Correspondence]:
        libraries = runtime.libraries(self.proof.get("libraries", ()))
        return functools.partial(opened.matched, partial=self.partial, libraries=libraries)

    def _family(self, models: Sequence[Source], labels: Sequence[str]) -> Correspondence:
        """Match and rewrite, for the provider of the target. Raises NotEquivalent."""
        matching = self._matching()
        with checked.Comparison(matching, exact=not self.partial).explained(models, labels):
            return matching(models, labels, made_for=targets.provider(self.target))

    def _merged(
        self, family: Correspondence, models: Sequence[Source], digests: Digests, options: Options | None
    ) -> tuple[MergeReport, Plan]:
        """Plan, lower, write and prove, and put the files in place."""
        once = routes.shared(family, self.io, arguments.shared_inputs(self.share, family))
        plan = routes.plan(family, self.io, self.routing, share=once, target=self.target, dims=self.dims)
        io, tuning = plan.io, None
        options = replace(options, io=io, share=once) if options else None
        if options and self.tune is not None:
            ask = self._request(plan, models, once, options, digests, self.tune)
            plan, tuning = best_plan.choose(ask)
        answer = self._before_proofs(plan, tuning, io, once)
        if self.strict:
            refusals.replicated(answer)
            refusals.slower(answer)
        about = plan.metadata(io=io, share=once, partial=self.partial, dims=self.dims)
        mode = cast(writer.Mode, self.data)
        with writer.stage(
            plan.merged, self.out, models, mode=mode, metadata=about, progress=self.progress, digests=digests
        ) as staged:
            if options and self.verify:
                options = replace(options, made_for=plan.made_for)
                answer = self._proven(answer, self._prove_staged(staged, plan, options))
            staged.commit()
        return replace(answer, files=tuple(staged.files), size=staged.size), plan

    def _request(
        self,
        plan: Plan,
        models: Sequence[Source],
        share: frozenset[str],
        options: Options,
        digests: Digests,
        seconds: float,
    ) -> Request:
        """Return what is asked of the choice among plans by measuring."""
        matching = self._matching()
        return Request(
            plan, lambda provider: matching(models, plan.family.names, made_for=provider), models, self.out,
            plan.io, share, self.dims, options, seconds, cast(writer.Mode, self.data), digests,
            self.progress or silent,
        )  # fmt: skip

    # ------------------------------------------------------------------ proofs and report

    def _prove_staged(self, staged: writer.Staged, plan: Plan, options: Options) -> VerifyReport:
        """Prove the staged files, which are written but not yet in their place. Messages call them `out`."""
        path, names = staged.model_path, staged.names(self.out)
        with wording.renaming(names):
            recipes = metadata.recipes(metadata.read(path), plan.family, path)
            graph = prove_graph(path, plan.merged, recipes)
            proved = prove(path, recipes, plan.family, options, self.progress, graph=graph)
            return wording.renamed(proved, names)

    def _proven(self, answer: MergeReport, proof: VerifyReport) -> MergeReport:
        """Return the report with its proof. Raises ValuesDiffer or NotProven where that does not hold."""
        warnings = (*answer.warnings, *proof.warnings)
        answer = replace(answer, proof=replace(proof, strict=self.strict), warnings=warnings)
        refusals.unproven(answer)
        return answer

    def _before_proofs(
        self, plan: Plan, tuning: Tuning | None, io: str, share: frozenset[str]
    ) -> MergeReport:
        """Return the report as it is before the proofs and the files."""
        family, merged, target = plan.family, plan.merged, plan.target
        sizes = self.dims.items()
        return MergeReport(
            out=self.out,
            sources=tuple(source.path for source in family.sources),
            models=family.names,
            io=io,
            share=tuple(sorted(share)),
            target=target,
            lowered=merged.report,
            distinct_bytes=weights.stored(merged.model),
            sharing=sharing.of(family, merged, self.dims),
            names=tuple(Labels.of(family, io, share).rows()),
            symbols=symbols.free(
                symbols.named(name, family.graph.types[name].dims) for name in family.graph.inputs
            ),
            warnings=(*family.warnings, *(() if tuning else targets.unmeasured(target))),
            dims={name: (size,) if isinstance(size, int) else tuple(size) for name, size in sizes},
            tuning=tuning,
        )
