"""The emitter: creates nodes, weights and constants for the rules, so that a rule never names anything.

It owns names (each node keeps its source's name, so that profiles stay readable), the differences
between opsets, rank padding, and the forms in which a weight is wanted. Nodes go into an
onnx-graphsurgeon graph; bytes never pass through here, a weight is a data-less tensor and a Recipe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from netfuse_onnx.dims import CHOSEN
from netfuse_onnx.emit.chosen import Chosen, NeedsCount, stored_as
from netfuse_onnx.emit.shaping import Shaping
from netfuse_onnx.emit.sizes import Sizes
from netfuse_onnx.layouts import PER_MODEL, SHARED, Layout
from netfuse_onnx.ops.schemas import facts
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.transforms import AS_IS
from netfuse_onnx.storage.weights import array
from netfuse_onnx.types import Dim, ValueType, Weight

Tensor: TypeAlias = gs.Tensor
Held: TypeAlias = Tensor | tuple[Tensor, ...]
"""The holder of a value: one tensor, or one per model where its layout is PER_MODEL."""


class Emitter(Shaping):
    """Builds the merged graph for `models` models. `opset` is the default domain's version, `provider`
    that of the target."""

    def __init__(
        self,
        name: str,
        models: int,
        opset: int,
        weights: Mapping[str, tuple[Weight, ...]],
        reserved: Iterable[str],
        provider: str = "",
    ) -> None:
        self.total = models
        """The number of models of the family, whatever a call chooses of them."""
        self.chosen: Chosen | None = None
        """The models that a call chooses; None where it runs them all."""
        self.opset = opset
        self.provider = provider
        self.graph = gs.Graph(name=name, opset=opset)
        self.recipes: dict[str, Recipe] = {}
        self.bodies: dict[str, tuple[int, tuple[str, ...]]] = {}
        self.empty: dict[str, list[str]] = {}
        """Attributes that are empty lists, by node: onnx-graphsurgeon has no type for them."""
        self.scope = ""
        self.values_read = False
        """True once a body has looked at the elements of a weight, not only at its type."""
        self._weights = weights
        self._forms: dict[tuple[Any, ...], gs.Constant] = {}
        self._names = set(reserved)
        self._node_names: set[str] = set()
        self._claimed: set[int] = set()
        self.captured: dict[int, Tensor] = {}
        self._own: set[int] | None = None
        self._kinds: dict[int, tuple[Tensor, ValueType]] = {}
        self.sizes = Sizes()

    def child(self, name: str, weights: Mapping[str, tuple[Weight, ...]]) -> Emitter:
        """An emitter for the body of a node: names, constants and recipes are the whole model's, nodes its
        own. It notes every outer tensor that its nodes read in `captured`."""
        child = copy(self)
        child.graph = gs.Graph(name=name, opset=self.opset)
        child.scope = ""
        child.captured, child._own = {}, set()
        child.sizes = Sizes()  # a body has symbols of its own
        if self.chosen is not None:
            child.chosen = Chosen(self.chosen.ids, self.chosen)
            child.sizes.tell(CHOSEN, self.chosen.ids)
        child._weights = weights
        return child

    def iterated(self, name: str, over: Tensor, axis: int) -> Emitter:
        """The emitter of a body that runs once for each index of an axis."""
        child = self.child(name, self._weights)
        child.scope = self.scope
        return child

    # ------------------------------------------------------------------ nodes

    def __call__(self, op: str, /, *ins: Tensor | None, **attrs: Any) -> Tensor:
        """Emit one node of the default domain with one output."""
        return self.node(op, ins, attrs)[0]

    def node(
        self,
        op: str,
        ins: Sequence[Tensor | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        outs: Sequence[bool] = (True,),
        domain: str = "",
        captured: Sequence[Tensor] = (),
        captured_names: tuple[str, ...] = (),
    ) -> list[Tensor]:
        """Emit one node. `outs` says which outputs are present; an absent one comes back as an empty
        variable. `captured` are the tensors that its bodies read under `captured_names`."""
        given = [gs.Variable.empty() if x is None else self.rows(x) for x in ins]
        captured = [self.rows(x) for x in captured]
        known = facts(op, domain, self.opset)
        least = known.inputs[0] if known else 0  # an empty name counts: Loop wants two inputs
        while len(given) > least and given[-1].is_empty():
            given.pop()
        given += [gs.Variable.empty() for _ in range(least - len(given))]
        name = self._unique(self.scope or op, self._node_names)
        outputs = [self._variable(f"{name}/{op}") if present else gs.Variable.empty() for present in outs]
        kept = {k: v for k, v in (attrs or {}).items() if v or not isinstance(v, list | tuple)}
        if attrs and len(kept) < len(attrs):
            self.empty[name] = [key for key in attrs if key not in kept]
        node = gs.Node(op, name, kept, [*given, *captured], outputs, domain or None)
        if captured:
            self.bodies[name] = (len(given), captured_names)
        self.graph.nodes.append(node)
        if self._own is not None:
            read = [x for x in (*given, *captured) if not x.is_empty() and id(x) not in self._own]
            self.captured |= {id(x): x for x in read}
            self._own |= {id(x) for x in outputs}
        return outputs

    def claim(self, tensor: Tensor, name: str) -> None:
        """Let a value that was just made carry `name`, or the nearest free one."""
        fresh = isinstance(tensor, gs.Variable) and tensor.inputs and id(tensor) not in self._claimed
        if fresh:
            self._claimed.add(id(tensor))
            self._names.discard(tensor.name)
            tensor.name = self._unique(name, self._names)

    def note(self, tensor: Tensor, kind: ValueType) -> None:
        """Remember the type of a tensor that holds a value. It is not written to the file."""
        self._kinds[id(tensor)] = (tensor, kind)

    def kind(self, tensor: Tensor) -> ValueType:
        """The type of a constant or weight, or what was noted; unknown for what a rule made on its way."""
        if isinstance(tensor, gs.Constant):
            proto = tensor._values.tensor
            return ValueType(proto.data_type, tuple(proto.dims))
        return self._kinds[id(tensor)][1] if id(tensor) in self._kinds else ValueType()

    def output(self, tensor: Tensor, name: str, *, itself: bool = False) -> gs.Variable:
        """`tensor` as the graph output `name`, through an Identity where it cannot carry that name. `itself`:
        it is a graph input, which has that name already."""
        if itself:
            self.graph.outputs.append(tensor)
            return tensor
        tensor = self.rows(tensor)
        outer = self._own is not None and id(tensor) not in self._own
        taken = outer or not isinstance(tensor, gs.Variable) or not tensor.inputs
        if taken or any(tensor is out for out in self.graph.outputs):
            self.scope = f"{name}/output"
            tensor = self("Identity", tensor)
        self._names.discard(tensor.name)
        self._claimed.add(id(tensor))
        tensor.name = name
        self.graph.outputs.append(tensor)
        return tensor

    def input(self, name: str, dtype: int | None = None, dims: Sequence[Dim] | None = None) -> gs.Variable:
        """A graph input. Those of the main graph get their whole type at export."""
        tensor = gs.Variable(name if self._own is None else self.fresh(name), dtype, dims)
        self.graph.inputs.append(tensor)
        if self._own is not None:
            self._own.add(id(tensor))
        return tensor

    def fresh(self, name: str) -> str:
        """`name`, or the nearest that nothing carries yet."""
        return self._unique(name, self._names)

    def _variable(self, name: str) -> gs.Variable:
        return gs.Variable(self._unique(name, self._names))

    @staticmethod
    def _unique(name: str, taken: set[str]) -> str:
        unique, count = name, 2
        while unique in taken:
            unique, count = f"{name}-{count}", count + 1
        taken.add(unique)
        return unique

    # ------------------------------------------------------------------ constants and weights

    def const(self, values: Any, dtype: Any = np.int64) -> gs.Constant:
        """A small constant; equal ones are one initializer."""
        return self.tensor_const(onnx.numpy_helper.from_array(np.asarray(values, dtype)))

    def tensor_const(self, proto: onnx.TensorProto, what: str = "const") -> gs.Constant:
        """A constant. Equal ones of one kind, `what`, are one initializer."""
        proto.ClearField("name")
        key = (what, proto.SerializeToString(deterministic=True))
        if key not in self._forms:
            name = self._unique(f"const/{'x'.join(map(str, proto.dims)) or 'scalar'}", self._names)
            self._forms[key] = gs.Constant(name, LazyValues(proto))
        return self._forms[key]

    def filled(self, value: float, dtype: int, shape: Sequence[int]) -> gs.Constant:
        """A constant of an ONNX element type with one value everywhere."""
        kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
        return self.const(np.full(tuple(shape), value, kind), kind)

    def filled_each(self, value: float, dtype: int) -> Tensor:
        """A constant with one value for each model, [N]."""
        kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
        return self.of_each(np.full(self.total, value, kind), kind)

    def of_all(self, x: Tensor) -> gs.Constant:
        """A weight that differs between the models as one table of all of them, [N*d0, ..], whichever a call
        chooses."""
        recipe = self.recipes[x.name]
        models, rows, *others = recipe.shape
        return self._constant(x.name, dataclasses.replace(recipe, shape=(models * rows, *others)), whole=True)

    def of_each(self, values: Any, dtype: Any = np.int64) -> Tensor:
        """A small constant whose first axis has a row for each model."""
        if self.chosen is None:
            return self.const(values, dtype)
        stored = self.tensor_const(onnx.numpy_helper.from_array(np.asarray(values, dtype)), "of each")
        self.chosen.mark(stored)
        return stored

    def weight(self, value: str, layout: Layout) -> Held:
        """Source weight `value` in a layout that `writes` allows. The writer lays out the bytes for it."""
        parts = self._weights[value]
        if self.chosen is not None and not self.writes(parts, layout):
            raise NeedsCount
        if layout == PER_MODEL:
            if len(parts) == 1:
                return (self._form(value, parts),) * self.total
            return tuple(self._form(f"{value}/{m}", (part,), value) for m, part in enumerate(parts))
        if layout == SHARED:
            return self._form(value, parts)
        every = parts if len(parts) == self.total else parts * self.total
        shape = layout.merged_dims(parts[0].shape, self.total)
        outer = layout.runs(parts[0].shape) or 1  # 0 where there is nothing to lay out
        return self._form(value, every, value, shape=shape, outer=outer)

    def writes(self, parts: Sequence[Weight], layout: Layout) -> bool:
        """True where a weight with these parts is stored in a layout. Else nodes make it."""
        return stored_as(parts, layout, chosen=self.chosen is not None)

    def is_weight(self, tensor: Tensor) -> bool:
        """True for a tensor whose bytes are laid out by a recipe."""
        return tensor.name in self.recipes

    def elements(self, x: Tensor, most: int) -> np.ndarray[Any, Any] | None:
        """The elements of a weight in the layout that it was fetched in. None for a weight with more than
        `most` of them, and for any other tensor."""
        recipe = self.recipes.get(x.name)
        self.values_read = self.values_read or recipe is not None
        if self.chosen is not None and self.chosen.marked(x):
            return None
        if recipe is None or recipe.transform != AS_IS or math.prod(recipe.shape) > most:
            return None
        return np.stack([array(part) for part in recipe.parts]).reshape(recipe.shape)

    def weights_read(self) -> list[tuple[gs.Constant, Recipe]]:
        """The weights that nodes read, with their recipes, in the order in which they were first wanted."""
        made = (weight for weight in self._forms.values() if weight.name in self.recipes)
        return [(weight, self.recipes[weight.name]) for weight in made if weight.outputs]

    def reform(self, tensor: Tensor, **changes: Any) -> gs.Constant:
        """A weight under another shape or transform: another recipe over the same source bytes."""
        recipe = dataclasses.replace(self.recipes[tensor.name], **changes)
        return self._constant(tensor.name, recipe)

    def _form(self, name: str, parts: tuple[Weight, ...], value: str = "", **changes: Any) -> gs.Constant:
        about = {"shape": parts[0].shape, **changes}
        return self._constant(name, Recipe(value or name, parts, parts[0].dtype, **about))

    def _constant(self, name: str, recipe: Recipe, *, whole: bool = False) -> gs.Constant:
        key = ("all models" if whole else "weight", recipe)
        if key not in self._forms:
            proto = onnx.TensorProto(data_type=recipe.dtype, dims=recipe.shape)
            proto.data_location = onnx.TensorProto.EXTERNAL
            weight = gs.Constant(self._unique(name, self._names), LazyValues(proto))
            self.recipes[weight.name] = recipe
            self._forms[key] = weight
            self._mark(weight, recipe, whole)
        return self._forms[key]

    def _mark(self, weight: Tensor, recipe: Recipe, whole: bool) -> None:
        if self.chosen is not None and len(recipe.parts) > 1 and not whole:
            self.chosen.mark(weight)

    def shape(self, dims: Sequence[Dim]) -> Tensor:
        """The shape `dims`, in which symbols are sizes of values that are known by then; -1 and numbers stand
        for themselves. It is emitted once."""
        return self.sizes.shape(dims, self)

    # ------------------------------------------------------------------ models that a call chooses

    def choose(self, ids: Tensor) -> None:
        """From now on the axis of models has one index for each of `ids`, int64 [K], all from 0 to N-1."""
        self.chosen = Chosen(ids)
        self.sizes.tell(CHOSEN, ids)

    def rows(self, x: Tensor) -> Tensor:
        """What a node reads in the place of `x`: of a constant with a row for each model, those of the models
        that a call chooses."""
        return x if self.chosen is None else self.chosen.rows(x, self)
