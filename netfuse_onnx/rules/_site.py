"""A Site: one node as a rule sees it, with inputs and attributes by the names of its schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from netfuse_onnx.emit.chosen import NEEDS_COUNT
from netfuse_onnx.layouts import SHARED, STACKED, Layout
from netfuse_onnx.ops import schemas
from netfuse_onnx.types import Dim, Node, ValueType

if TYPE_CHECKING:
    import numpy as np

    from netfuse_onnx.types import Weight

Key: TypeAlias = int | str
"""An input: its position, or the name that the schema of the node's opset gives it, in capitals or not. ONNX
Runtime writes both `X_scale` and `x_zero_point`."""


class Refuse(Exception):
    """A rule does not apply here; the text says why."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a Site. An absent one is not mapped, not stored, and has no value and no dims."""

    site: Site
    position: int

    @property
    def present(self) -> bool:
        return 0 <= self.position < len(self.site.node.inputs) and self.name != ""

    @property
    def name(self) -> str:
        """The name of the value that the node reads."""
        return self.site.node.inputs[self.position]

    @property
    def mapped(self) -> bool:
        """True where it differs between the models. Else it is SHARED and may be used as it is."""
        return self.present and self.site.mapped[self.position]

    @property
    def stored(self) -> bool:
        """True for a weight."""
        return self.present and self.site.weight[self.position]

    @property
    def gathered(self) -> bool:
        """True for a weight that differs between the models, where a call chooses them."""
        return self.mapped and self.site.chosen and len(self.site.parts[self.position]) > 1

    @property
    def value(self) -> np.ndarray[Any, Any] | None:
        """The array of a small constant that is the same for all models."""
        return self.site.values[self.position] if self.present else None

    @property
    def dtype(self) -> int:
        """The ONNX element type, 0 where it is unknown."""
        return self.site.inputs[self.position].dtype

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Dims per model. Refuses where the rank is unknown, and an operator of ONNX Runtime that lacks the
        input: onnx does not know how many it takes."""
        if not 0 <= self.position < len(self.site.inputs):
            raise Refuse(f"it has no input {self.position}")
        dims = self.site.inputs[self.position].dims
        if dims is None:
            raise Refuse(f"the rank of its input {self.name!r} is unknown")
        return dims

    @property
    def rank(self) -> int:
        return len(self.dims)


@dataclass(frozen=True)
class Site:
    """One node as a rule sees it. All ranks, dims and axes are per model.

    `site["bias"]` and `site[2]` are inputs. `opsets` are the versions of all domains.
    """

    node: Node
    total: int
    """The number of models of the family, whatever a call chooses of them."""
    opsets: Mapping[str, int]
    inputs: tuple[ValueType, ...]
    outputs: tuple[ValueType, ...]
    mapped: tuple[bool, ...]
    weight: tuple[bool, ...]
    values: tuple[np.ndarray[Any, Any] | None, ...]
    attrs: tuple[Mapping[str, Any], ...] = ()
    """The attributes of each model where they differ; else empty."""
    parts: tuple[tuple[Weight, ...], ...] = ()
    """The source weights of each input: one where all models share it, one per model, or none."""

    chosen: bool = False
    """True where a call chooses the models. Their number is no constant then, and a weight that differs
    between them is not stored in any layout, but gathered."""

    emits: Callable[[Sequence[Any], Mapping[str, Any]], list[Any]] | None = None
    """Emits the operator for which this node stands, where the rule of a fused operator asks those of the
    operators that it is made of (`seen_as`)."""

    @property
    def models(self) -> int:
        """The number of models N. Refuses where only a call tells how many there are."""
        if self.chosen:
            raise Refuse(NEEDS_COUNT)
        return self.total

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def opset(self) -> int:
        """The version of the default domain."""
        return self.opsets.get("", 1)

    @property
    def _version(self) -> int:
        return self.opsets.get(self.node.domain, 1)

    # ------------------------------------------------------------------ inputs and outputs

    def position(self, key: Key) -> int:
        """The position of an input; -1 for one that the operator does not have at this opset."""
        if isinstance(key, int):
            return key
        return _positions(self.op, self.node.domain, self._version).get(key.lower(), -1)

    def __getitem__(self, key: Key) -> Input:
        return Input(self, self.position(key))

    @property
    def names(self) -> list[str]:
        """The names of the inputs that are present, in small letters."""
        positions = _positions(self.op, self.node.domain, self._version)
        return [name for name, i in positions.items() if self.has(i)]

    def has(self, key: Key) -> bool:
        """True where an input is present."""
        return self[key].present

    def is_mapped(self, *keys: Key) -> bool:
        """True where one of these inputs differs between the models."""
        return any(self[key].mapped for key in keys)

    def dims(self, key: Key) -> tuple[Dim, ...]:
        """Dims per model of an input. Refuses where its rank is unknown."""
        return self[key].dims

    def rank(self, key: Key) -> int:
        return self[key].rank

    def has_output(self, k: int) -> bool:
        """True where output k is present."""
        return k < len(self.node.outputs) and self.node.outputs[k] != ""

    def out_dims(self) -> tuple[Dim, ...]:
        """Per-model dims of output 0. Refuses where the rank is unknown."""
        dims = self.outputs[0].dims
        if dims is None:
            raise Refuse(f"the rank of its output {self.node.outputs[0]!r} is unknown")
        return dims

    def out_rank(self) -> int:
        return len(self.out_dims())

    # ------------------------------------------------------------------ layouts

    def own_layout(self, *keys: Key) -> Layout:
        """STACKED(0) where one of these inputs differs between the models, else SHARED."""
        return STACKED(0) if self.is_mapped(*keys) else SHARED

    @property
    def own_layouts(self) -> tuple[Layout, ...]:
        """The own layout of each input, by position."""
        return tuple(map(self.own_layout, range(len(self.node.inputs))))

    def takes(self, layouts: Mapping[Any, Layout | None]) -> tuple[Layout | None, ...]:
        """The layouts of all inputs. One that `layouts` does not name, or calls SHARED, must be equal in all
        models, or this refuses."""
        taken: list[Layout | None] = [SHARED] * len(self.node.inputs)
        for key, layout in layouts.items():
            if self.has(key):
                taken[self.position(key)] = layout
        self.only_mapped(*(i for i, layout in enumerate(taken) if layout != SHARED))
        return tuple(taken)

    def gives(self, *layouts: Layout) -> tuple[Layout, ...]:
        """The layouts of all outputs; the last one stands for all further outputs."""
        return tuple(layouts[min(k, len(layouts) - 1)] for k in range(len(self.node.outputs)))

    def only_mapped(self, *allowed: int) -> None:
        """Refuse where an input that must be equal in all models is not."""
        for i, mapped in enumerate(self.mapped):
            if mapped and i not in allowed:
                raise Refuse(f"its input {self.node.inputs[i]!r} differs between the models")

    # ------------------------------------------------------------------ attributes

    def attr(self, name: str) -> Any:
        """An attribute; where it is absent, the default of the schema of the node's opset; None where that
        has none."""
        return self._attr(name, self.node.attrs)

    def attr_of_each(self, name: str) -> list[Any]:
        """The value of an attribute in each model, where attributes differ between them."""
        return [self._attr(name, attrs) for attrs in self.attrs]

    def _attr(self, name: str, attrs: Mapping[str, Any]) -> Any:
        if name in attrs:
            return attrs[name]
        return schemas.defaults(self.op, self.node.domain, self._version).get(name)

    def ints(self, key: Key, attr: str = "") -> list[int] | None:
        """A list of integers that is an input, or attribute `attr` in older opsets; None where absent.
        Refuses where it is computed at run time or differs between the models."""
        given = self[key]
        if given.present:
            if given.value is None:
                why = "differs between the models" if given.mapped else "is computed at run time"
                raise Refuse(f"its input {given.name!r} {why}")
            return [int(v) for v in given.value.reshape(-1)]
        listed = self.attr(attr) if attr else None
        return None if listed is None else [int(v) for v in listed]

    def axis(self, value: int, rank: int) -> int:
        """`value` counted from the front."""
        return value + rank if value < 0 else value

    def own_axis(self, value: int, rank: int) -> int:
        """An axis counted from the front. Refuses one that is not there, as every runtime does."""
        if not -rank <= value < max(rank, 1):
            raise Refuse(f"it names axis {value} of a value that has {rank}")
        return self.axis(value, rank)

    @property
    def named_axis(self) -> int:
        """The attribute `axis`, an axis of input 0 counted from the front."""
        return self.own_axis(int(self.attr("axis")), self.rank(0))


@cache
def _positions(op: str, domain: str, version: int) -> Mapping[str, int]:
    return {name.lower(): i for i, name in enumerate(schemas.input_names(op, domain, version))}


class Operands(tuple[Any, ...]):
    """The tensors that a body reads, by position or by the schema's name; None for an absent input."""

    site: Site

    def __new__(cls, site: Site, tensors: Iterable[Any]) -> Operands:
        self = super().__new__(cls, tensors)
        self.site = site
        return self

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        i = self.site.position(key)
        return self[i] if 0 <= i < len(self) else None

    def __or__(self, changes: Mapping[Any, Any]) -> Operands:
        """A copy with other tensors for some inputs; None takes an input away."""
        tensors = list(self)
        for key, tensor in changes.items():
            i = self.site.position(key)
            if i < 0:
                raise KeyError(key)
            tensors += [None] * (i + 1 - len(tensors))
            tensors[i] = tensor
        return Operands(self.site, tensors)
