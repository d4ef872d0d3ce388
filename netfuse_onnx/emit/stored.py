"""Reading numbers that are stored in the merged graph, while it is built."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.storage import weights


def stored_number(value: Tensor, emit: Emitter) -> float | None:
    """Returns the first element of a constant, or of a weight with one part; None for any other tensor."""
    recipe = emit.recipes.get(value.name)
    if recipe is not None:
        values = weights.array(recipe.parts[0]) if len(recipe.parts) == 1 else None
    else:
        values = value.values if isinstance(value, gs.Constant) else None
    return None if values is None else float(np.asarray(values).reshape(-1)[0])
