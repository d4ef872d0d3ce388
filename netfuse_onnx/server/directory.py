"""The names under which a router of several families finds them and their models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

Place = tuple[str, str]
"""A family, and the name of a model in it; '' stands for the family itself."""


def places(families: Mapping[str, Sequence[str]]) -> tuple[dict[str, Place], tuple[str, ...]]:
    """Return what each name means, and the shortest name of each model, in order; '' where it has none.

    A model has its own name, where nothing else has it, and FAMILY.MODEL. A name that could mean two things
    means none of them.
    """
    found: dict[str, set[Place]] = defaultdict(set)
    every = [(family, model) for family, models in families.items() for model in models]
    for family in families:
        found[family].add((family, ""))
    for family, model in every:
        found[model].add((family, model))
        found[f"{family}.{model}"].add((family, model))
    clear = {name: next(iter(meant)) for name, meant in found.items() if len(meant) == 1}
    short = (
        next((name for name in (model, f"{family}.{model}") if name in clear), "") for family, model in every
    )
    return clear, tuple(short)
