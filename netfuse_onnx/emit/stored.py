"""Numbers that the merged graph holds, read while it is built."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.storage import weights


def stored_number(value: Tensor, emit: Emitter) -> float | None:
    """The first element of a constant, or of a weight that is one model's or the same in all; None for
    anything else."""
    recipe = emit.recipes.get(value.name)
    if recipe is not None:
        found = weights.array(recipe.parts[0]) if len(recipe.parts) == 1 else None
    else:
        found = value.values if isinstance(value, gs.Constant) else None
    return None if found is None else float(np.asarray(found).reshape(-1)[0])
