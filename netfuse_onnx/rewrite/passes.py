"""rewrite: the passes over a matched family, in order. Each gives a family that computes the same."""

from __future__ import annotations

from collections.abc import Callable

from netfuse_onnx.rewrite.attention import fuse_attention
from netfuse_onnx.rewrite.believed import believe_types
from netfuse_onnx.rewrite.dynamic import fuse_dynamic
from netfuse_onnx.rewrite.features import gather_features
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.rewrite.fusible import fuse_convolutions
from netfuse_onnx.rewrite.qdq import fuse_quantised
from netfuse_onnx.types import Correspondence

Pass = Callable[[Correspondence], Correspondence]

PASSES: tuple[Pass, ...] = (fold, believe_types, gather_features)
"""The passes for all targets. They come first."""
OF_CUDA: tuple[Pass, ...] = (fuse_convolutions, fuse_attention, fuse_dynamic)
"""The passes that make operators which ONNX Runtime does not make for CUDA by itself. It has them there, or
their rules write them in kernels that it has."""
OF_OTHERS: tuple[Pass, ...] = (fuse_quantised,)
"""The passes that make operators which ONNX Runtime lacks on CUDA."""


def rewritten(family: Correspondence, provider: str = "") -> Correspondence:
    """The family after all passes for the provider of the target; after those for all targets where it is to
    run on other runtimes."""
    others = OF_CUDA if provider == "cuda" else OF_OTHERS
    for rewrite in PASSES if family.portable else (*PASSES, *others):
        family = rewrite(family)
    return family
