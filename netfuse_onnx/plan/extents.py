"""The sizes of all tensors of an account, those between its nodes included."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from netfuse_onnx.emit.counting import Counted, Step
from netfuse_onnx.ops import kinds, traits
from netfuse_onnx.ops.corrected import FRAGILE
from netfuse_onnx.plan.account import Account
from netfuse_onnx.rules import Site
from netfuse_onnx.storage.tensors import BITS
from netfuse_onnx.types import Dim, ValueType

Shape = tuple[int, ...]


def types_of(
    account: Account, site: Site, bind: Callable[[Sequence[Dim]], Sequence[Dim]]
) -> dict[Counted, ValueType]:
    """The types of the tensors of one account, for a node with the types of `site`, as far as they are known.
    `bind` gives sizes to dims that are open."""
    types: dict[Counted, ValueType] = {}
    for (held, layout), kind in zip(account.ports, (*site.inputs, *site.outputs), strict=True):
        dims = layout.merged_dims(bind(kind.dims), site.total) if kind.dims is not None else None
        types |= dict.fromkeys(held, ValueType(kind.dtype, dims))
    if any(x not in types for step in account.steps for x in step.outputs):
        types |= _inferred(account, types, site.opset)
    return types


class Shapes:
    """The sizes of the tensors of one account, for a node with the types of `site`. `sizes` binds dims that
    are open."""

    def __init__(self, account: Account, site: Site, sizes: Callable[[Sequence[Dim]], Shape]) -> None:
        self.site, self._sizes = site, sizes
        self._types = types_of(account, site, sizes)
        self._guess(account)

    def of(self, tensor: Counted | None) -> Shape:
        """The sizes of a tensor; () where it is absent, or nothing is known of it."""
        if tensor is None:
            return ()
        return self._sizes(self._types.get(tensor, tensor.type).dims or ())

    def size(self, tensor: Counted, axis: int) -> int:
        """The size of one axis of a tensor."""
        return self.of(tensor)[axis]

    def dtype(self, tensor: Counted | None) -> int:
        """The element type of a tensor; 0 where it is absent or unknown."""
        return 0 if tensor is None else self._types.get(tensor, tensor.type).dtype

    def nbytes(self, tensor: Counted | None) -> int:
        """The bytes of a tensor; elements of an unknown type have 4 bytes, as those of strings do."""
        return 0 if tensor is None else math.prod(self.of(tensor)) * BITS.get(self.dtype(tensor), 32) // 8

    def _guess(self, account: Account) -> None:
        """Takes what inference could not tell for as large as the largest input of its node."""
        for step in account.steps:
            if step.op in ("Expand", "Reshape"):
                self._computed(step)
            largest = max(map(self.of, step.inputs), key=math.prod, default=())
            for x in step.outputs:
                if self._types.get(x, x.type).dims is None:
                    self._types[x] = ValueType(0, largest)

    def _computed(self, step: Step) -> None:
        """The sizes of a Reshape or Expand whose target is computed at run time: a Reshape has as many
        elements as its input, and an Expand is taken to be as large as its input."""
        (x,), given = step.outputs, self.of(step.inputs[0])
        kind = self._types.get(x, x.type)
        dims = list(kind.dims or ())
        unknown = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
        for axis in unknown:
            behind = len(given) - len(dims) + axis  # Expand aligns from the back
            dims[axis] = given[behind] if step.op == "Expand" and behind >= 0 else 1
        if unknown and step.op == "Reshape":
            dims[unknown[0]] = math.prod(given) // max(math.prod(self._sizes(dims)), 1)
        if unknown:
            self._types[x] = ValueType(kind.dtype, tuple(dims))


def _inferred(
    account: Account, known: Mapping[Counted, ValueType], opset: int
) -> Mapping[Counted, ValueType]:
    """The types that onnx infers for the nodes of an account, given those of its inputs."""
    names: dict[Counted, str] = {}
    model = ModelProto(ir_version=10)
    model.opset_import.append(helper.make_opsetid("", opset))
    made = {x for step in account.steps for x in step.outputs}
    for step in account.steps:
        if step.op in FRAGILE:
            return {}
        if traits.of(step.op).bodies:  # its body's nodes are among the others, and read inputs with types
            continue
        for x in (*step.inputs, *step.outputs):
            if x is not None and x not in names:
                names[x] = f"t{len(names)}"
                if x not in made:
                    _declare(model, names[x], x, known.get(x, x.type))
        inputs = [names[x] if x is not None else "" for x in step.inputs]
        outputs = [names[x] for x in step.outputs]
        model.graph.node.append(helper.make_node(step.op, inputs, outputs, domain=step.domain, **step.attrs))
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # onnx raises many kinds; what it can't infer is unknown, that is all
        return {}
    types = {info.name: kinds.of_proto(info.type) for info in graph.value_info}
    return {x: types[name] for x, name in names.items() if name in types and x in made and x not in known}


def _declare(model: ModelProto, name: str, tensor: Counted, kind: ValueType) -> None:
    if isinstance(tensor.value, np.ndarray):
        model.graph.initializer.append(onnx.numpy_helper.from_array(tensor.value, name))
    elif isinstance(tensor.value, TensorProto):
        model.graph.initializer.append(TensorProto.FromString(tensor.value.SerializeToString()))
        model.graph.initializer[-1].name = name
    else:
        model.graph.input.append(kinds.declared(name, kind))
