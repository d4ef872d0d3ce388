"""update, add and remove: the stages of a merge, with the models that stay read out of the merged file.

What is planned and written is what a merge of all sources would plan and write, so the bytes are the same.
The options are those that the merged file records. The proofs are those of a merge, and one more: the file as
it was and the new one give the same for the models that stay.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from netfuse_onnx import edges, sources, wording
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.hints import Asked
from netfuse_onnx.lifecycle import before
from netfuse_onnx.lifecycle.held import Held, held
from netfuse_onnx.lifecycle.places import Choose, Places
from netfuse_onnx.merge_rows import RoutingRow, Sharing
from netfuse_onnx.merging import Merging
from netfuse_onnx.options import Proof
from netfuse_onnx.plan.recorded import NotOnOffer
from netfuse_onnx.plans import TUNED, Plan
from netfuse_onnx.prove import remake
from netfuse_onnx.prove.kept import KeptProver
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.report import MergeReport
from netfuse_onnx.runtime.bundle import is_bundle
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.write import metadata, staging
from netfuse_onnx.write.digests import Digests
from netfuse_onnx.write.early import Early

MEASURE = "merge again with --tune to measure"


@dataclass(frozen=True, kw_only=True)
class Changing(Merging):
    """The arguments of one change of a merged file: those of the merge that gives the new one."""

    places: Places
    was: Held
    notes: list[str] = field(default_factory=list)

    def models(self) -> Sequence[Source]:
        """Return the models after the change. Raises FileFault where a new file can't be read."""
        fresh = iter(sources.read(self.places.new) if self.places.new else ())
        return [self.was.models[place.before] if place.stays else next(fresh) for place in self.places.after]

    def digests(self, models: Sequence[Source]) -> Digests:
        """Return the digests of the models. A merged file that changes meanwhile is refused, and with the
        proofs one that holds other models than were merged."""
        read = {os.path.abspath(self.was.path): self.was.stamp}
        return Digests(models, read, checked=self.verify)

    def check_target(self) -> None:
        """Raise FileFault unless `out` can be written. It may be the merged file itself."""
        check_target(self.out, self.places, external=self.data == "external")

    def advised(self, answer: MergeReport, plan: Plan, asked: Asked) -> MergeReport:
        """Return the report as it is: the advice of the merge still holds."""
        return answer

    def shared(self, plan: Plan) -> Sharing | None:
        """Return nothing, as for the advice."""
        return None

    def early(self) -> Early | None:
        """Return the copy of the data file that has been begun, if one has."""
        return self.was.early

    def kept(self) -> KeptProver | None:
        """Return what compares the file as it was with the new one."""
        return KeptProver(self.was.path, self.was.about, self.places.kept)

    def planned(self, family: Correspondence, once: frozenset[str]) -> tuple[Plan, tuple[RoutingRow, ...]]:
        """Plan and lower the family. A plan that was chosen by measuring stays, where it is on offer."""
        about = self.was.about
        if edges.is_routed(self.io) and family.models != len(about.models):
            self.notes.append(
                f"Rows find their models by {self.io}, as before; a merge with --routing auto chooses for as "
                "many models as there are."
            )
        if not about.recorded:
            return super().planned(family, once)
        rows, choices = about.lowered.nodes, tuple(remake.choices(about.lowered.nodes))
        try:
            merged = remake.merge(
                family, io=self.io, share=once, target=self.target, dims=self.dims, rows=rows
            )
        except NotOnOffer as error:
            self.notes.append(
                f"The plan that measuring chose is none of these models ({error}), so the plan is that of "
                f"the target {self.target}; {MEASURE}."
            )
            return super().planned(family, once)
        count = len(about.models)
        said = "is the one that measuring chose, and a new merge might choose another"
        if family.models != count:
            said = f"was chosen by measuring {count} models, and stays for {family.models}"
        self.notes.append(f"The plan {said}; {MEASURE}.")
        measured = tuple(about.measured)
        return Plan(TUNED, family, merged, self.target, choices, measured=measured, io=self.io), ()


def check_target(out: str, places: Places, *, external: bool = False) -> None:
    """Raise FileFault or UsageFault unless `out` can be written and is no new model."""
    sources.refuse_target(out, places.new)
    staging.check_target(out, places.new, external=external)


def change(
    merged: str,
    choose: Choose,
    *,
    out: str | None,
    verify: bool,
    progress: Progress | None,
    proof: Proof,
) -> MergeReport:
    """Make a change of a merged file, and put the result in its place, or at `out`. Raises the errors of
    `api.merge`, and FileFault where the merged file does not hold its models."""
    if proof.get("dims"):
        raise UsageFault("The sizes of dimensions are those of the merge.", "Leave out --dim.")
    if is_bundle(merged):
        raise UsageFault(
            f"{merged} is a bundle, and only a merged file can be changed.",
            "Merge again with --views from all models; netfuse-onnx split gets those that it holds.",
        )
    target = merged if out is None else out
    places = choose(metadata.read(merged).models)
    check_target(target, places)
    with held(merged, target, choose, copied=places.stay_put) as was:
        places = choose(was.about.models)
        with wording.renaming(was.shown):
            merging = Changing(
                paths=was.paths(places), out=target, names=[place.name for place in places.after],
                **before.options(places, was.about), strict=False, verify=verify, tune=None, views=False,
                low_rank=None, base=None, progress=progress, proof={**proof, "dims": was.about.dims},
                places=places, was=was,
            )  # fmt: skip
            answer = merging.report()
        answer = wording.renamed(answer, was.shown)
    return replace(answer, changes=places.changes(merging.notes))
