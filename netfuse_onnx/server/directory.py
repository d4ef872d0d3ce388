"""The names under which a router of several families finds their models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from netfuse_onnx.runtime import faults
from netfuse_onnx.runtime.errors import UnknownModel

Place = tuple[str, str]
"""A family, and the name of a model in it."""


class Directory:
    """Finds models by their own names where one family alone has such a model, and by FAMILY.MODEL always.

    A name that could mean two models is no name of either.
    """

    def __init__(self, families: Mapping[str, Sequence[str]]) -> None:
        self._places: dict[str, set[Place]] = defaultdict(set)
        for family, models in families.items():
            for model in models:
                self._places[model].add((family, model))
                self._places[f"{family}.{model}"].add((family, model))
        every = [(family, model) for family, models in families.items() for model in models]
        self.names = tuple(
            next((name for name in (model, f"{family}.{model}") if len(self._places[name]) == 1), "")
            for family, model in every
        )
        """The shortest name of each model, in the order of the families; '' where it has none."""

    def find(self, name: str) -> Place:
        """Return the place of a model. Raises UnknownModel."""
        places = self._places.get(name, set())
        if len(places) == 1:
            return next(iter(places))
        if not places:
            raise faults.unknown_model(name, [one for one in self.names if one])
        full = sorted(f"{family}.{model}" for family, model in places)
        raise UnknownModel(
            f"There are several models {name[:80]!r}.", f"Ask for {' or '.join(full)}.", model=name,
            expected=", ".join(full),
        )  # fmt: skip
