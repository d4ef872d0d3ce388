"""The answer to the question if a tool has changed a merged file after the merge, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

QUANTISED, HALF, OPTIMISED, OTHERWISE = "quantised", "converted to float16", "optimised", "changed"
"""The words for what was done. The last one stands for all that is none of the others."""
REMEDY = {
    QUANTISED: "It has one activation scale for all models: quantise each model first, then merge.",
    HALF: "Converting each model first, then merging, keeps all proofs.",
    OPTIMISED: "ONNX Runtime optimises a file when it loads it; nothing is won by doing so before.",
    OTHERWISE: "",
}
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Changed:
    """A change of a merged file since the merge. `by` is the tool that the file names, or ''. `added` and
    `removed` count nodes by operator; `missing` counts merged weights that are gone."""

    path: str
    how: str
    by: str = ""
    added: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    missing: int = 0

    @property
    def sentence(self) -> str:
        """The change in one sentence, with its remedy in another one."""
        what = "" if self.how == OTHERWISE else f": it was {self.how}"
        by = f" by {self.by}" if self.by else ""
        return (
            f"{self.path} was changed after it was merged{what}{by}{self._facts}. {REMEDY[self.how]}".strip()
        )

    @property
    def hint(self) -> str:
        return (
            "Its bytes and graph are no longer those of a merge. verify --values compares what it gives with "
            "what its sources give, within a tolerance."
        )

    @property
    def _facts(self) -> str:
        parts = [
            f"{verb} {_counted(nodes)}"
            for verb, nodes in (("added", self.added), ("removed", self.removed))
            if nodes
        ]
        parts += [f"{self.missing} merged weights are gone"] if self.missing else []
        return f" ({'; '.join(parts)})" if parts else ""


def _counted(nodes: Mapping[str, int]) -> str:
    most = sorted(nodes.items(), key=lambda row: (-row[1], row[0]))
    more = f" and {len(most) - SHOWN} more operators" if len(most) > SHOWN else ""
    return ", ".join(f"{count} {op}" for op, count in most[:SHOWN]) + more
