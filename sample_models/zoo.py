"""Many architectures, each at a size of a few hundred kB: what the compiler is measured on for breadth.

`bench/architectures.py` exports, merges and proves them all and prints the table.
"""

from __future__ import annotations

from sample_models import (
    zoo_decoders,
    zoo_dense,
    zoo_detection,
    zoo_encoders,
    zoo_series,
    zoo_speech,
    zoo_tables,
    zoo_vision,
)
from sample_models.zoo_build import Architecture

PARTS = (
    zoo_vision,
    zoo_detection,
    zoo_dense,
    zoo_encoders,
    zoo_decoders,
    zoo_speech,
    zoo_series,
    zoo_tables,
)

ZOO: dict[str, Architecture] = {item.name: item for part in PARTS for item in part.ARCHITECTURES}

NOT_EXPORTED = {
    "longformer": "torch.export guards on a size that depends on the data",
    "maskformer": "transformers builds it only where scipy is installed",
    "mixtral (grouped products)": "the exporter lacks the grouped product of transformers",
    "moe (TorchScript)": "torch's tracer writes the batch of its example into nn.MultiheadAttention",
}
"""What torch itself does not export in the pinned versions, and why. Others stand in for these."""
