"""rewrite: the passes over a matched family, in order. Each gives a family that computes the same."""

from __future__ import annotations

from collections.abc import Callable

from netfuse_onnx.rewrite.attention import fuse_attention
from netfuse_onnx.rewrite.believed import believe_types
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.rewrite.qdq import fuse_quantised
from netfuse_onnx.types import Correspondence

Pass = Callable[[Correspondence], Correspondence]

PASSES: tuple[Pass, ...] = (fold, believe_types, fuse_quantised, fuse_attention)
LACKING: dict[str, frozenset[Pass]] = {"cuda": frozenset({fuse_quantised})}
"""By target: the passes that make operators which ONNX Runtime lacks there."""
ONLY: dict[Pass, frozenset[str]] = {fuse_attention: frozenset({"cuda"})}
"""The passes that pay on some targets alone."""


def rewritten(family: Correspondence, target: str = "generic") -> Correspondence:
    """The family after all passes that a target allows."""
    for rewrite in PASSES:
        if rewrite not in LACKING.get(target, ()) and target in ONLY.get(rewrite, (target,)):
            family = rewrite(family)
    return family
