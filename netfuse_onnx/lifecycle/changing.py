"""update, add and remove: the stages of a merge, with the models that stay read out of the merged file.

What is planned and written is what a merge of all sources would plan and write, so the bytes are the same.
The options are those that the merged file records. The proofs are those of a merge, and one more: the file as
it was and the new one give the same for the models that stay.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.lifecycle import before, origins
from netfuse_onnx.lifecycle.places import Places
from netfuse_onnx.merge_rows import RoutingRow
from netfuse_onnx.merging import Merging
from netfuse_onnx.options import Proof
from netfuse_onnx.plan.recorded import NotOnOffer
from netfuse_onnx.plans import TUNED, Plan
from netfuse_onnx.prove import remake
from netfuse_onnx.prove.kept import KeptProver
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.report import MergeReport
from netfuse_onnx.sources import read, refuse_target
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.write import metadata, staging


@dataclass(frozen=True)
class Changing(Merging):
    """The arguments of one change of a merged file: those of the merge that gives the new one."""

    places: Places
    about: metadata.Metadata
    stay: Sequence[Source]
    """All models of the merged file, as it was."""
    notes: list[str]

    def models(self) -> Sequence[Source]:
        """Return the models after the change. Raises FileFault where a new file can't be read."""
        fresh = iter(read(self.places.new) if self.places.new else ())
        return [self.stay[place.before] if place.stays else next(fresh) for place in self.places.after]

    def check_target(self) -> None:
        """Raise FileFault unless `out` can be written. It may be the merged file itself."""
        refuse_target(self.out, self.places.new)
        staging.check_target(self.out, self.places.new, external=self.data == "external")

    def planned(self, family: Correspondence, once: frozenset[str]) -> tuple[Plan, tuple[RoutingRow, ...]]:
        """Plan and lower the family. A plan that was chosen by measuring stays, where it is on offer."""
        if not self.about.recorded:
            return super().planned(family, once)
        rows = self.about.lowered.nodes
        try:
            merged = remake.merge(
                family, io=self.io, share=once, target=self.target, dims=self.dims, rows=rows
            )
        except NotOnOffer as error:
            self.notes.append(
                f"The plan that measuring chose does not fit these models ({error}), so that of the target "
                f"{self.target} was made; merge again with --tune to measure."
            )
            return super().planned(family, once)
        count = len(self.about.models)
        if family.models != count:
            self.notes.append(
                f"The plan was chosen by measuring {count} models, and stays for {family.models}; merge "
                "again with --tune to measure."
            )
        else:
            self.notes.append("The plan is the one that measuring chose; a new merge would measure again.")
        choices = tuple(remake.choices(rows))
        plan = Plan(
            TUNED, family, merged, self.target, choices, measured=tuple(self.about.measured), io=self.io
        )
        return plan, ()

    def kept(self) -> KeptProver | None:
        """Return what compares the file as it was with the new one."""
        return KeptProver(self.places.merged, self.about, self.places.kept)


def change(
    places: Places,
    about: metadata.Metadata,
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
    merged = places.merged
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="netfuse-update-"))
        stay = origins.sources(merged, folder)
        options = before.options(places, about, stay)
        merging = Changing(
            paths=places.paths,
            out=merged if out is None else out,
            names=[place.name for place in places.after],
            **options,
            strict=False,
            verify=verify,
            tune=None,
            views=False,
            low_rank=None,
            base=None,
            progress=progress,
            proof={**proof, "dims": about.dims},
            places=places,
            about=about,
            stay=stay,
            notes=[],
        )
        answer = merging.report()
    return replace(answer, changes=places.changes(merging.notes))
