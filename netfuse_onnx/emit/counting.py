"""The counting twin of the emitter: a rule's body that gets it emits nothing, and every node is written down.

It is the emitter, but for the places where that creates something: a node, a constant, a weight. So the two
can't differ in what a body makes them emit, and a plan is priced by what it would emit (plan/account.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Dim, ValueType, Weight

UNKNOWN = ValueType()
SIZES = "sizes"
"""The name of a shape whose sizes are read at run time."""
CHOSEN_ROWS = "chosen"
"""The name of the rows of a weight that were gathered for the models that a call chooses."""


class Counted:
    """A tensor that nobody made. `stored`: it is a constant or a weight, or computed from these alone, and a
    session computes it once, when it loads the file. `type` is that of a constant or weight, and `value` the
    elements of a constant, an array or a TensorProto."""

    __slots__ = ("name", "stored", "type", "value")

    def __init__(
        self, name: str = "", type: ValueType = UNKNOWN, *, stored: bool = False, value: Any = None
    ) -> None:
        self.name, self.type, self.stored, self.value = name, type, stored, value


@dataclass(frozen=True, slots=True)
class Step:
    """One node that was emitted. An input that is absent is None."""

    op: str
    domain: str
    attrs: Mapping[str, Any]
    inputs: tuple[Counted | None, ...]
    outputs: tuple[Counted, ...]
    runs: tuple[tuple[Counted, int], ...] = ()
    """The tensors and their axes over which the bodies around it iterate: it runs once for each index."""

    @property
    def at_load(self) -> bool:
        """True for a node that reads nothing but stored tensors."""
        return self.outputs[0].stored


class CountingEmitter(Emitter):
    """Writes down what the emitter would create."""

    _runs: tuple[tuple[Counted, int], ...] = ()
    """`Step.runs` of the nodes that it writes down."""

    def __init__(self, models: int, opset: int, provider: str = "", *, choosing: bool = False) -> None:
        """`choosing`: a call chooses the models. It is priced as if it chose each once."""
        super().__init__("", models, opset, {}, (), provider)
        self.choosing = choosing
        self.steps: list[Step] = []

    def begin(self, weights: Mapping[str, tuple[Weight, ...]]) -> None:
        """Forget all that was made; from now on these are the weights."""
        self.steps, self.values_read, self._weights = [], False, weights
        self.recipes, self._names, self._kinds = {}, set(), {}
        if self.choosing:
            self.choose(self.value(ValueType(TensorProto.INT64, (self.total,))))

    def value(self, kind: ValueType, *, stored: bool = False) -> Tensor:
        """A tensor of this type that a body reads."""
        return self._typed("", kind, stored=stored)

    def _typed(self, name: str, type: ValueType, *, stored: bool, value: Any = None) -> Any:
        made: Any = Counted(name, type, stored=stored, value=value)
        self.note(made, type)
        return made

    def node(
        self, op: str, ins: Sequence[Tensor | None], attrs: Mapping[str, Any] | None = None, *,
        outs: Sequence[bool] = (True,), domain: str = "", captured: Sequence[Tensor] = (), **_unused: Any,
    ) -> list[Any]:  # fmt: skip
        read = tuple(None if x is None else self.rows(x) for x in ins)
        inputs = cast("tuple[Counted | None, ...]", read)
        stored = len(inputs) > 0 and not captured and all(x.stored for x in inputs if x is not None)
        outputs = tuple([Counted(stored=stored) for _ in outs])
        # The nodes of a body that was emitted are written down themselves.
        own = {key: value for key, value in (attrs or {}).items() if not isinstance(value, gs.Graph)}
        self.steps.append(Step(op, domain, own, inputs, outputs, self._runs))
        if self._own is not None:
            self._own |= {id(x) for x in outputs}
        return list(outputs)

    def iterated(self, name: str, over: Tensor, axis: int) -> Emitter:
        """Its nodes are written down among those around it."""
        child = cast("CountingEmitter", super().iterated(name, over, axis))
        child._runs = (*self._runs, (cast("Counted", over), axis))
        return child

    def input(self, name: str, dtype: int | None = None, dims: Sequence[Dim] | None = None) -> Any:
        made = self.value(ValueType(dtype or 0, None if dims is None else tuple(dims)))
        self._own = {*(self._own or ()), id(made)}
        return made

    def output(self, tensor: Tensor, name: str, *, itself: bool = False) -> Any:
        outer = self._own is not None and id(tensor) not in self._own
        if outer or any(tensor is out for out in self.graph.outputs):
            tensor = self("Identity", tensor)
        self.graph.outputs.append(tensor)
        return tensor

    def const(self, values: Any, dtype: Any = np.int64) -> Any:
        return self._constant_of(np.asarray(values, dtype))

    def tensor_const(self, proto: onnx.TensorProto, what: str = "const") -> Any:
        return self._constant_of(proto)

    def unsqueeze(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Its result has a type, by which a product tells whether it repeats matrices."""
        made: Any = super().unsqueeze(x, axes)
        read: Any = x
        if made.type.dims is None and read.type.dims is not None:
            dims = list(read.type.dims)
            for axis in sorted(axes):
                dims.insert(axis, 1)
            made.type = ValueType(read.type.dtype, tuple(dims))
        return cast("Tensor", made)

    def shape(self, dims: Sequence[Dim]) -> Any:
        """One node stands for those that compute a shape: others read it, too."""
        if all(isinstance(dim, int) for dim in dims):
            return self.const(list(dims))
        type = ValueType(TensorProto.INT64, (len(dims),))
        made: Any = Counted(SIZES, type)
        self.steps.append(Step("Concat", "", {"axis": 0}, (Counted("", type),), (made,)))
        return made

    def _constant_of(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            type = ValueType(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        else:
            type = ValueType(value.data_type, tuple(value.dims))
        return self._typed("", type, stored=True, value=value)

    def _constant(self, name: str, recipe: Recipe, *, whole: bool = False) -> Any:
        type = ValueType(recipe.dtype, recipe.shape)
        made = self._typed(self._unique(name, self._names), type, stored=True)
        self.recipes[made.name] = recipe
        self._mark(made, recipe, whole)
        return made

    def rows(self, x: Tensor) -> Any:
        """What is gathered has a type, of as many rows as it is priced with."""
        read: Any = super().rows(x)
        if read is not x:
            kind = self.kind(x)
            read.name, read.type = CHOSEN_ROWS, kind
        return read


def tensors(held: Held | None) -> tuple[Counted, ...]:
    """The tensors that hold a value, one or one per model."""
    return cast("tuple[Counted, ...]", held if isinstance(held, tuple) else () if held is None else (held,))
