"""Grows a random graph one node at a time. Every node is run in ONNX Runtime as soon as it is made, for
every model: the values that come out tell what may read them, and a node that does not run is not kept.

A float is exact while nothing has rounded it: sums and products of small multiples of 1/8. Operators that
jump (ArgMax, Floor, a comparison) read exact floats only, or a last bit would decide their result.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, NodeProto, helper

from netfuse_onnx.ops import walk

Array = np.ndarray
MOST = 400
"""Elements of a value."""
LARGEST = {"f": 1e3, "i": 1e5, "u": 1e5}
GRID = {np.float16: (2.0**-4, 2.0**5)}
"""Floats that sums and products keep exact: multiples of the first, up to the second."""
MICROSOFT, ML = "com.microsoft", "ai.onnx.ml"


class Unfit(Exception):
    """This operator does not work out here; another is tried."""


@dataclass(eq=False)
class Value:
    """A tensor with its array in every model. `exact`: no rounding yet."""

    name: str
    arrays: list[Array]
    exact: bool = True
    steady: bool = True  # may be read on: finite, small

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.arrays[0].shape)

    @property
    def rank(self) -> int:
        return self.arrays[0].ndim

    @property
    def dtype(self) -> Any:
        return self.arrays[0].dtype.type

    @property
    def ragged(self) -> bool:
        return any(array.shape != self.shape for array in self.arrays)


@dataclass(eq=False)
class Leaf(Value):
    """An input or a weight: `role` as in oracle.py, `dims` as declared, `draw` its values for other sizes."""

    role: str = "input"
    dims: tuple[int | str, ...] = ()
    draw: Callable[[tuple[int, ...]], Array] | None = None


@dataclass
class Operator:
    name: str
    weight: float
    since: int
    make: Callable[[Builder, str], None]


OPERATORS: list[Operator] = []


def operators(names: str, weight: float = 1.0) -> Callable[[Any], Any]:
    """Register a maker for `names`, each `Op` or `Op:lowest opset`; `weight` is shared among them."""

    def register(make: Callable[[Builder, str], None]) -> Callable[[Builder, str], None]:
        found = names.split()
        for name in found:
            op, _, since = name.partition(":")
            OPERATORS.append(Operator(op, weight / len(found), int(since or 1), make))
        return make

    return register


@dataclass
class World:
    """What a graph and its bodies have in common."""

    rng: random.Random
    models: int
    opset: int
    float: Any
    rough: bool  # floats that are no multiples of 1/8
    zeros: bool  # sizes of 0
    odd: bool  # infinities and NaN may appear
    symbols: dict[str, int]
    leaves: dict[str, Leaf] = field(default_factory=dict)
    known: dict[str, Value] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.numpy = np.random.default_rng(self.rng.getrandbits(32))

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"


class Builder:
    """A graph, or a body that also sees the values around it."""

    def __init__(self, world: World, around: Builder | None = None) -> None:
        self.world = world
        self.rng = world.rng
        self.around = around
        self.nodes: list[NodeProto] = []
        self.pool: list[Value] = list(around.pool) if around else []

    @property
    def opset(self) -> int:
        return self.world.opset

    def grow(self, nodes: int) -> None:
        """Add up to `nodes` operators."""
        fitting = [op for op in OPERATORS if op.since <= self.opset]
        weights = [op.weight for op in fitting]
        for _ in range(6 * nodes):
            if len(self.nodes) >= nodes:
                return
            (op,) = self.rng.choices(fitting, weights)
            self.attempt(op)

    def attempt(self, op: Operator) -> None:
        before = len(self.nodes), len(self.pool)
        try:
            op.make(self, op.name)
        except Unfit:
            del self.nodes[before[0] :], self.pool[before[1] :]

    # ------------------------------------------------------------------ chance

    def maybe(self, chance: float) -> bool:
        return self.rng.random() < chance

    def dim(self) -> int:
        if self.world.zeros and self.maybe(0.12):
            return 0
        return self.rng.choice([self.world.models] * 3 + [1, 1, 2, 3, 4, 5])

    def dims(self, rank: int) -> tuple[int, ...]:
        found = [self.dim() for _ in range(rank)]
        while math.prod(found) > MOST // 4:
            found[found.index(max(found))] = 1
        return tuple(found)

    def axis(self, rank: int, *, low: int = 0) -> int:
        """An axis, counted from either side."""
        if rank <= low:
            raise Unfit("no axis")
        axis = self.rng.randrange(low, rank)
        return axis - rank if self.maybe(0.3) else axis

    def axes(self, rank: int, *, least: int = 0) -> list[int]:
        count = self.rng.randint(min(least, rank), rank)
        found = self.rng.sample(range(rank), count)
        return [a - rank if self.maybe(0.3) else a for a in found]

    # ------------------------------------------------------------------ values

    def leaf(
        self,
        shape: Sequence[int],
        dtype: Any = None,
        *,
        low: float = -2.0,
        high: float = 2.0,
        role: str | None = None,
        same: bool = False,
    ) -> Value:
        """A new input or weight; `same`: with one value for all models, whatever its role."""
        world, rng = self.world, self.rng
        dtype = dtype or world.float
        role = (
            role
            or rng.choices(("input", "weight", "shared input", "shared weight"), (0.4, 0.35, 0.1, 0.15))[0]
        )
        shape = tuple(shape)

        def draw(sizes: tuple[int, ...]) -> Array:
            return _drawn(world, sizes, dtype, low, high)

        arrays = [draw(shape) for _ in range(world.models)]
        if role.startswith("shared") or same:
            arrays = arrays[:1] * world.models
        elif self.maybe(0.1):
            arrays[-1] = arrays[0]
        return self.hold(role, arrays, draw)

    def hold(
        self, role: str, arrays: list[Array], draw: Callable[[tuple[int, ...]], Array] | None = None
    ) -> Leaf:
        name = self.world.name()
        dims: list[int | str] = list(arrays[0].shape)
        if role.endswith("input") and draw:
            for symbol, size in self.world.symbols.items():
                dims = [symbol if d == size and self.maybe(0.7) else d for d in dims]
        found = Leaf(name, arrays, role=role, dims=tuple(dims), draw=draw)
        self.world.leaves[name] = self.world.known[name] = found
        root = self
        while root.around:
            root.pool.append(found)
            root = root.around
        root.pool.append(found)
        return found

    def const(self, values: Any, dtype: Any = np.int64) -> Value:
        """The same in all models: an initializer, or a Constant node."""
        array = np.asarray(values, dtype)
        if not self.maybe(0.2):
            found = Leaf(self.world.name(), [array] * self.world.models, role="shared weight",
                         dims=tuple(array.shape))  # fmt: skip
            self.world.leaves[found.name] = self.world.known[found.name] = found
            return found
        name = self.world.name()
        self.nodes.append(helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array)))
        found = self.world.known[name] = Value(name, [array] * self.world.models)  # type: ignore[assignment]
        return found

    def steer(self, values: Any, dtype: Any = np.int64) -> Value:
        """What decides a shape: mostly constant, at times computed, fed, or fed once per model."""
        array = np.asarray(values, dtype)
        chance = self.rng.random()
        if chance < 0.75 or array.size == 0:
            return self.const(array, dtype)
        if chance < 0.87 or dtype != np.int64:
            return self.hold("shared input", [array] * self.world.models)
        if chance < 0.91:
            return self.hold("input", [array] * self.world.models)
        return self._computed(array)

    def _computed(self, array: Array) -> Value:
        """The sizes of some value, shifted by a constant."""
        sizes = self.node("Shape", [self.pick(lambda v: v.rank > 0 and not v.ragged)])
        at = self.const(self.rng.randrange(sizes.shape[0]))
        one = self.node("Gather", [sizes, at], axis=0)
        return self.node("Add", [one, self.const(array - one.arrays[0])])

    def pick(self, fits: Callable[[Value], bool]) -> Value:
        found = [v for v in self.pool if v.steady and fits(v)]
        if not found:
            raise Unfit("no such value")
        differ = [v for v in found if any(array is not v.arrays[0] for array in v.arrays)]
        found = differ if differ and self.maybe(0.7) else found
        if self.maybe(0.5):
            return found[-1 - min(len(found) - 1, int(self.rng.expovariate(0.7)))]
        return self.rng.choice(found)

    def value(
        self,
        dtype: Any = None,
        rank: tuple[int, int] = (0, 4),
        *,
        exact: bool = False,
        fits: Callable[[Value], bool] = lambda v: True,
        **leaf: Any,
    ) -> Value:
        """A value of a type and rank: one that there is, or a new leaf."""
        dtype = dtype or self.world.float

        def wanted(v: Value) -> bool:
            return (
                v.dtype == dtype and rank[0] <= v.rank <= rank[1] and (v.exact or not exact)
                and not (leaf and dtype != np.bool_) and fits(v)
            )  # fmt: skip

        if self.maybe(0.85):
            try:
                return self.pick(wanted)
            except Unfit:
                pass
        found = self.leaf(self.dims(self.rng.randint(*rank)), dtype, **leaf)
        if not fits(found):
            raise Unfit("the new leaf does not fit")
        return found

    def number(self, rank: tuple[int, int] = (0, 4)) -> Value:
        """Any number that is exact: a float or an integer."""
        dtype = self.rng.choice([self.world.float, self.world.float, np.int64, np.int32])
        return self.value(dtype, rank, exact=True)

    def anything(self, rank: tuple[int, int] = (0, 4)) -> Value:
        """A value of any type."""
        dtype = self.rng.choices(
            [self.world.float, np.int64, np.bool_, np.int32, np.uint8], (8, 2, 1, 1, 0.5)
        )
        return self.value(dtype[0], rank)

    def like(self, shape: Sequence[int], dtype: Any = None, **leaf: Any) -> Value:
        """A value of exactly this shape, such as a weight."""
        shape, dtype = tuple(shape), dtype or self.world.float
        if not leaf and self.maybe(0.25):
            same = [v for v in self.pool if v.shape == shape and v.dtype == dtype and v.steady]
            if same:
                return self.rng.choice(same)
        return self.leaf(shape, dtype, **leaf)

    def partner(self, x: Value, *, exact: bool = False, wider: bool = True, **leaf: Any) -> Value:
        """A value that broadcasts against x; with `wider`, the result may be larger than x."""
        if not leaf and self.maybe(0.35):
            fits = [
                v for v in self.pool
                if v.dtype == x.dtype and v.steady and (v.exact or not exact) and _broadcast(x, v, wider)
            ]  # fmt: skip
            if fits:
                return self.rng.choice(fits)
        shape = [1 if self.maybe(0.25) else d for d in x.shape][self.rng.choice([0, 0, 1, 2, x.rank]) :]
        if wider and self.maybe(0.25):
            shape = [self.dim() if d == 1 and x.shape[len(x.shape) - len(shape) + k] == 1 else d
                     for k, d in enumerate(shape)]  # fmt: skip
            if len(shape) == x.rank < 4 and self.maybe(0.5):
                shape = [self.dim(), *shape]
        return self.leaf(shape, x.dtype, **leaf)

    # ------------------------------------------------------------------ nodes

    def node(self, op: str, ins: Sequence[Value | None], **attrs: Any) -> Value:
        return self.many(op, ins, 1, **attrs)[0]

    def many(
        self,
        op: str,
        ins: Sequence[Value | None],
        outs: int | Sequence[bool],
        *,
        keeps: str = "move",
        domain: str = "",
        most: int = MOST,
        **attrs: Any,
    ) -> list[Value]:
        """Add a node, run it, and return its outputs. `keeps`: whether exact inputs give exact outputs:
        "move" (they do), "arith" (while the numbers are small), "round" (they do not)."""
        present = [True] * outs if isinstance(outs, int) else list(outs)
        names = [self.world.name() if there else "" for there in present]
        while ins and ins[-1] is None:
            ins = ins[:-1]
        given = {k: v for k, v in attrs.items() if v is not None and v != []}
        node = helper.make_node(op, [v.name if v else "" for v in ins], names, domain=domain, **given)
        if self.maybe(0.7):
            node.name = f"n{self.world.count}"
        results = evaluate([node], [v for v in ins if v], list(filter(None, names)), self.world)
        exact = keeps != "round" and all(v.exact or v.arrays[0].dtype.kind != "f" for v in ins if v)
        found = [
            self._checked(Value(name, arrays, exact), ins if keeps == "arith" else None, most)
            for name, arrays in results.items()
        ]
        self.nodes.append(node)
        self.world.known.update((v.name, v) for v in found)
        self.pool += found
        return found

    def _checked(self, value: Value, ins: Sequence[Value | None] | None, most: int) -> Value:
        kind = value.arrays[0].dtype.kind
        if any(array.size > most for array in value.arrays):
            raise Unfit("too large")
        if kind == "f":
            finite = all(np.isfinite(array).all() for array in value.arrays)
            if not finite and not (self.world.odd and self.maybe(0.5)):
                raise Unfit("not finite")
            value.steady = finite
            if value.exact and ins is not None:
                value.exact = all(on_grid(v) for v in (*ins, value) if v and v.arrays[0].dtype.kind == "f")
        else:
            value.exact = True
        limit = LARGEST.get(kind)
        if limit and value.steady and any(np.abs(a, dtype=np.float64).max(initial=0) > limit
                                          for a in value.arrays if a.size):  # fmt: skip
            raise Unfit("too big")
        return value


def on_grid(value: Value) -> bool:
    step, most = GRID.get(value.dtype, (2.0**-6, 2.0**6))
    return all(
        bool((np.abs(array) <= most).all() and (np.remainder(array, step) == 0).all())
        for array in value.arrays
    )


def _broadcast(x: Value, v: Value, wider: bool) -> bool:
    try:
        shape = np.broadcast_shapes(x.shape, v.shape)
    except ValueError:
        return False
    return (wider or shape == x.shape) and math.prod(shape) <= MOST


def _drawn(world: World, shape: tuple[int, ...], dtype: Any, low: float, high: float) -> Array:
    rng = world.numpy
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    if np.issubdtype(dtype, np.integer):
        if np.issubdtype(dtype, np.unsignedinteger):
            low = max(low, 0)
        return np.asarray(rng.integers(math.ceil(low), math.floor(high), shape, endpoint=True)).astype(dtype)
    if world.rough:
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype)
    return (
        np.asarray(rng.integers(math.ceil(low * 8), math.floor(high * 8), shape, endpoint=True)) / 8
    ).astype(dtype)


# --------------------------------------------------------------------------- running


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options


def reads(node: NodeProto) -> list[str]:
    """Inputs, then what the bodies read from outside."""
    names = [name for name in node.input if name]
    return list(
        dict.fromkeys(
            [*names, *(name for body in dict(walk.bodies(node)).values() for name in walk.outer_names(body))]
        )
    )


def evaluate(
    nodes: Sequence[NodeProto], ins: Sequence[Value], outs: Sequence[str], world: World
) -> dict[str, list[Array]]:
    """The outputs in every model. Raises Unfit where ONNX Runtime refuses."""
    made = {name for node in nodes for name in node.output}
    known: Mapping[str, Value] = {v.name: v for v in ins}
    wanted = dict.fromkeys(name for node in nodes for name in reads(node) if name not in made)
    values = [known.get(name) or world.known[name] for name in wanted]
    kinds = [helper.np_dtype_to_tensor_dtype(v.arrays[0].dtype) for v in values]
    infos = [helper.make_tensor_value_info(n, k, None) for n, k in zip(wanted, kinds, strict=True)]
    graph = helper.make_graph(list(nodes), "g", infos, [onnx.ValueInfoProto(name=n) for n in outs])
    model = helper.make_model(graph, opset_imports=imports(world.opset), ir_version=10)
    results: list[list[Array]] = []
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), _options(), providers=["CPUExecutionProvider"]
        )
        for m in range(world.models):
            same = m > 0 and all(v.arrays[m] is v.arrays[0] for v in values)
            feeds = {v.name: np.array(v.arrays[m]) for v in values}
            results.append(results[0] if same else session.run(None, feeds))
    except Exception as error:  # ONNX Runtime raises classes of its own
        raise Unfit(str(error)) from error
    if not all(isinstance(array, np.ndarray) for array in results[0]):
        raise Unfit("not a tensor")
    return {name: [run[k] for run in results] for k, name in enumerate(outs)}


def imports(opset: int) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1), helper.make_opsetid(ML, 3)]


def body(builder: Builder, inputs: Sequence[Value], outputs: Sequence[Value], shapes: bool) -> GraphProto:
    """The nodes of a nested builder as a graph; `shapes`: declare ranks, and sizes where none is open (what
    the file says of them would be false of other sizes), not only types."""
    infos = []
    for v in (*inputs, *outputs):
        sizes = v.shape if not builder.world.symbols else [None] * v.rank
        dims = sizes if shapes and not v.ragged else None
        kind = helper.np_dtype_to_tensor_dtype(v.arrays[0].dtype)
        infos.append(helper.make_tensor_value_info(v.name, kind, dims))
    return helper.make_graph(builder.nodes, "body", infos[: len(inputs)], infos[len(inputs) :])
