"""rewrite: the passes over a matched family, in order. Each gives a family that computes the same."""

from __future__ import annotations

from collections.abc import Callable

from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.rewrite.qdq import integers
from netfuse_onnx.rewrite.sound import sound
from netfuse_onnx.types import Correspondence

Pass = Callable[[Correspondence], Correspondence]

PASSES: tuple[Pass, ...] = (fold, sound, integers)
LACKING: dict[str, frozenset[Pass]] = {"cuda": frozenset({integers})}
"""By target: the passes that make operators which ONNX Runtime lacks there."""


def rewritten(family: Correspondence, target: str = "generic") -> Correspondence:
    """The family after all passes that a target allows."""
    for rewrite in PASSES:
        if rewrite not in LACKING.get(target, ()):
            family = rewrite(family)
    return family
