"""rewrite: the passes over a matched family, in order. Each gives a family that computes the same."""

from __future__ import annotations

from collections.abc import Callable

from netfuse_onnx.rewrite.believed import believe_types
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.rewrite.qdq import fuse_quantised
from netfuse_onnx.types import Correspondence

Pass = Callable[[Correspondence], Correspondence]

PASSES: tuple[Pass, ...] = (fold, believe_types, fuse_quantised)
LACKING: dict[str, frozenset[Pass]] = {"cuda": frozenset({fuse_quantised})}
"""By provider: the passes that make operators which ONNX Runtime lacks there."""


def rewritten(family: Correspondence, provider: str = "") -> Correspondence:
    """The family after all passes that the provider of the target allows."""
    for rewrite in PASSES:
        if rewrite not in LACKING.get(provider, ()):
            family = rewrite(family)
    return family
