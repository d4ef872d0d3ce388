"""The layouts: how one tensor holds the values of N models. One file for each; `base` says what each knows.

In: per-model dims. Out: merged dims, positions of axes, and hops, which the planner prices and lower emits.
"""

from collections.abc import Sequence

from netfuse_onnx.layouts import channels, image, rows
from netfuse_onnx.layouts.base import Counts, Hop, Layout, Operand
from netfuse_onnx.layouts.channels import CHANNELS
from netfuse_onnx.layouts.folded import FOLDED
from netfuse_onnx.layouts.image import IMAGE
from netfuse_onnx.layouts.per_model import PER_MODEL
from netfuse_onnx.layouts.routes import places, route
from netfuse_onnx.layouts.rows import ROWS
from netfuse_onnx.layouts.shared import SHARED
from netfuse_onnx.layouts.stacked import STACKED
from netfuse_onnx.types import Dim

__all__ = [
    "CHANNELS",
    "FOLDED",
    "IMAGE",
    "PER_MODEL",
    "ROWS",
    "SHARED",
    "STACKED",
    "Counts",
    "Hop",
    "Layout",
    "Operand",
    "further_places",
    "places",
    "route",
]


def further_places(dims: Sequence[Dim]) -> tuple[Layout, ...]:
    """The layouts of few operators, for a value of these dims. A new one is listed here."""
    return (*channels.offered(dims), *rows.offered(dims), *image.offered(dims))
