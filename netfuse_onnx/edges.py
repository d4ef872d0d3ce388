"""The ways in which values of N models cross the edge of the merged graph, by the word that travels, `io`.

Every question about such a word is asked here, so that a new one is added in one place.
"""

from __future__ import annotations

SEPARATE = "separate"
"""Each model has inputs and outputs of its own, `a/x`."""
ALL_MODELS = "stacked"
"""One tensor for all models, `[N, ..]`."""
SELECTED = "selected"
"""One tensor for those models whose ids the call gives, `[K, ..]`."""
SLOTS = "slots"
"""One tensor of rows, `[R, ..]`, each with the id of its model: rows are moved to `[N, most rows of a
model, ..]` and back."""
INDEX = "index"
"""The same rows and ids: each row is computed by itself, with the weights of its model gathered for it."""

ROUTED = "routed"
"""The word of the caller for SLOTS or INDEX, between which the plan chooses."""
MODES = (SEPARATE, ALL_MODELS, SELECTED, SLOTS, INDEX)

IDS = "models"
"""The input that chooses models by their places in the order of the merge."""
ROUTE = "model"
"""The input that has the model of each row, by its place in the order of the merge."""


def options(io: str) -> str:
    """The options of the command line that ask for these inputs and outputs."""
    return "--io stacked --select" if io == SELECTED else f"--io {ROUTED if is_routed(io) else io}"


def is_separate(io: str) -> bool:
    """True where each model has inputs and outputs of its own; else one tensor holds those of several."""
    return io == SEPARATE


def is_stacked(io: str) -> bool:
    """True where the inputs and outputs have a leading axis of all models, in the order of the merge."""
    return io == ALL_MODELS


def is_selected(io: str) -> bool:
    """True where the inputs and outputs have a leading axis of the models that the call names."""
    return io == SELECTED


def is_by_index(io: str) -> bool:
    """True where each row is computed by itself, with the weights of its model."""
    return io == INDEX


def chooses(io: str) -> bool:
    """True where a call says how long the axis of models is, and which weights stand there."""
    return io in (SELECTED, INDEX)


def is_routed(io: str) -> bool:
    """True where inputs and outputs hold rows, and each row names its model."""
    return io in (SLOTS, INDEX, ROUTED)
