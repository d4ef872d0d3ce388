"""The record of what was brought to one spelling before models were matched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netfuse_onnx.types import Weight


@dataclass(frozen=True, slots=True)
class Respelling:
    """A form that was applied to `count` places of one model. `form` is its name, which stays the same from
    version to version, and `says` a sentence about it. `exact`: it changes no bit of a result."""

    model: str
    form: str
    says: str
    count: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Respelled:
    """All that was respelled in a family, in the order of models and forms. `weights` are the weights that
    were computed from those in the files. `opset`: the family was raised to it, as it has what
    the files spell out; 0 where it was not."""

    rows: tuple[Respelling, ...]
    weights: frozenset[str] = frozenset()
    opset: int = 0
    models: int = 0

    @property
    def differing(self) -> tuple[Respelling, ...]:
        """The rows of forms that were applied more often to some models: in these the files differed."""
        counts: dict[str, list[int]] = {}
        for row in self.rows:
            counts.setdefault(row.form, []).append(row.count)
        equal = {form for form, some in counts.items() if len(some) == self.models and len(set(some)) == 1}
        return tuple(row for row in self.rows if row.form not in equal)

    def sentences(self) -> Iterator[str]:
        """Yield a sentence for each form: the models and places that it changed."""
        for form in dict.fromkeys(row.form for row in self.rows):
            rows = [row for row in self.rows if row.form == form]
            places = ", ".join(f"{row.count} in {row.model}" for row in rows)
            yield f"{rows[0].says} ({places})."


@dataclass(frozen=True, slots=True)
class Simplified:
    """A source that onnxslim of this version has simplified: its nodes before and after, and the weights that
    are not those of the file."""

    version: str
    before: int
    after: int
    made: frozenset[Weight]
