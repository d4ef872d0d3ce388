"""Many architectures, each at a size of a few hundred kB: what the compiler is measured on for breadth.

`bench/architectures.py` exports, merges and proves them all and prints the table.
"""

from __future__ import annotations

from sample_models import zoo_decoders, zoo_dense, zoo_encoders, zoo_sequences, zoo_tables, zoo_vision
from sample_models.zoo_build import Architecture

PARTS = (zoo_vision, zoo_dense, zoo_encoders, zoo_decoders, zoo_sequences, zoo_tables)

ZOO: dict[str, Architecture] = {item.name: item for part in PARTS for item in part.ARCHITECTURES}
