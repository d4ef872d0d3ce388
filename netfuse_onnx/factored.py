"""Weights that the models of a family hold as W_0 + L R, as the stages pass them on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from netfuse_onnx.load.branches import Form, Side
from netfuse_onnx.storage.elements import Files
from netfuse_onnx.storage.numbers import array, encoded, rows
from netfuse_onnx.storage.weights import nbytes
from netfuse_onnx.types import Weight


@dataclass(frozen=True, slots=True)
class Factored:
    """Holds a weight of all models as W_0 + L R: `base` is W_0, `a` and `b` are the factors of each model in
    the form in which nodes read them. `wholes` are the weights of the sources, and `nodes` the names of the
    nodes that read the weight.

    `model` is the model whose weight is W_0, None where it is that of a file apart. `error` is the largest
    error of an element, in units of what is allowed.
    """

    weight: str
    form: Form
    rank: int
    base: Weight
    a: tuple[Weight, ...]
    b: tuple[Weight, ...]
    wholes: tuple[Weight, ...]
    model: int | None = None
    error: float = 0.0
    nodes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The bytes of W_0 and of the factors, equal ones once."""
        return nbytes(self.base) + sum(nbytes(part) for parts in (self.a, self.b) for part in set(parts))

    @property
    def whole_bytes(self) -> int:
        """The bytes of the weights that these stand for, those of each distinct source."""
        return sum(map(nbytes, set(self.wholes)))


@dataclass(frozen=True, slots=True)
class LowRank:
    """Holds the weights of a family that became low-rank differences, and why the others that differ did not.

    `names` are those of the weights A and B in the graph, by weight; `tolerance` is relative to the largest
    absolute value of a row, 0 for the rounding of the type; `sha256` is that of the base where it is a file
    apart, '' else.
    """

    factored: tuple[Factored, ...]
    tolerance: float = 0.0
    sha256: str = ""
    whole: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LowRankRow:
    """A weight that is W_0 + L R in the merged model, and the nodes that read it. `base` is the model whose
    weight W_0 is, '' for a base apart; `bytes` are those of W_0 and the factors, `whole_bytes`
    those of the models' own weights; `error` is the largest one, in units of what is allowed."""

    weight: str
    rank: int
    base: str
    nodes: tuple[str, ...]
    bytes: int
    whole_bytes: int
    error: float


@dataclass(frozen=True, slots=True)
class LowRankReport:
    """The low-rank differences of a merged model, and the reasons why other weights that differ are stored
    for each model. `tolerance` is relative to the largest absolute value of a row, 0 for the rounding of the
    type; `sha256` is that of a base apart."""

    weights: tuple[LowRankRow, ...]
    whole: Mapping[str, str]
    tolerance: float = 0.0
    sha256: str = ""


def sums(base: Weight, a: Weight, b: Weight, side: int) -> Iterator[bytes]:
    """Yield W_0 + L R in the type of W_0, some rows at a time. `side` is the place of the form in `Side`.
    Raises ValueError, KeyError or IndexError where these do not fit."""
    form, top = Form(list(Side)[side], base.shape), 0
    left, right = form.matrices(array(a), array(b))
    with Files() as files:
        for values in rows(base, form.matrix[1], files):
            yield encoded(values + left[top : top + len(values)] @ right, base.dtype)
            top += len(values)
