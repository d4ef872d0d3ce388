"""The memory that a proof may take: which sizes fit, and from which sizes on nothing more would be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netfuse_onnx.run import inputs, symbols
from netfuse_onnx.run.footprint import Footprint, Footprints, Shapes, amount
from netfuse_onnx.run.inputs import Case, InputSpec
from netfuse_onnx.run.ladder import PLAIN_TOP, SPATIAL_TOP, Ladder, Rung, ladder
from netfuse_onnx.types import Correspondence

MAX_MEMORY = 2_000_000_000
"""Bytes that a proof may take where --max-memory says nothing."""
TO_SEE_MORE = 0.25
"""The part of this that sizes may take which only show more than smaller ones."""


class Room:
    """Estimates for one family. `limit` is in bytes."""

    def __init__(self, family: Correspondence, specs: Sequence[InputSpec], limit: int) -> None:
        self.models = family.models
        self.specs = specs
        self.limit = limit
        self._footprints = Footprints(family)

    def shapes(self, case: Case) -> Shapes:
        """The shapes of one model's inputs; sequences are left out."""
        if not case.given:
            return inputs.shapes([spec for spec in self.specs if not spec.sequence], case.sizes)
        return {
            name: max((np.asarray(feeds[name]).shape for feeds in case.given), key=np.prod)
            for name in case.given[0]
        }

    def needed(self, case: Case, copies: int = 1, cases: int = 3) -> int:
        """Bytes that the process takes at its worst moment, about, where `copies` of a source's inputs run at
        once."""
        return self._footprint(case).needed(max(self.models, copies), cases)

    def fits(self, case: Case, copies: int = 1) -> bool:
        """True where so many copies of a source's inputs may be run at once."""
        return self.needed(case, copies) <= self.limit

    def refuse(self, case: Case, cases: int = 3) -> str:
        """The reason why a case does not fit; '' where it does."""
        bound = self._footprints.bounding(self.shapes(case))
        if bound and bound.needed(self.models, cases) <= self.limit:
            return ""
        needed = self.needed(case, cases=cases)
        if needed <= self.limit:
            return ""
        return f"{case.label}: needs about {amount(needed)}, and --max-memory allows {amount(self.limit)}"

    def begin(self, dims: dict[str, int], batches: Sequence[int], wide: int) -> Rung:
        """The lowest rung of the sizes that are not in `dims` from which on nothing more is seen, as far as
        shapes tell: no axis shrinks to 1, and all taps of convolutions fall on data. It is not so high that
        the largest batch takes much memory. `wide` is the lowest rung for spatial dims."""
        shapes = [spec.dims for spec in self.specs]
        heads = symbols.batches(shapes)
        names = [n for n in symbols.free(shapes) if n not in dims and n not in heads]
        steps = ladder(shapes, names, self.models)
        sizes = dict.fromkeys(heads, batches[-1]) | dims
        plain = 0
        if wide < SPATIAL_TOP and set(names) & steps.wide:
            rungs = [(0, up) for up in range(wide, SPATIAL_TOP + 1)]
            wide = self._telling(steps, rungs, sizes)[1]
        if set(names) - steps.wide:
            rungs = [(up, wide) for up in range(PLAIN_TOP + 1)]
            plain = self._telling(steps, rungs, sizes)[0]
        self._rung(steps, (plain, wide), sizes)  # of the largest batch: where that fits, the others do
        return plain, wide

    def _telling(self, steps: Ladder, rungs: Sequence[Rung], sizes: dict[str, int]) -> Rung:
        """The first of the rungs that shows all that the last one shows, of those that are cheap."""
        best = rungs[0]
        for rung in rungs:
            found = self._rung(steps, rung, sizes)
            if rung != rungs[0] and found.needed(self.models, 3) > TO_SEE_MORE * self.limit:
                break
            best = rung
            if not found.lost or not found.hides(self._rung(steps, rungs[-1], sizes)):
                break
        return best

    def _rung(self, steps: Ladder, rung: Rung, outer: dict[str, int]) -> Footprint:
        return self._footprint(Case("", {**outer, **next(steps.rung(rung))}))

    def _footprint(self, case: Case) -> Footprint:
        return self._footprints.of(self.shapes(case), case.sizes)
