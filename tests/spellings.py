"""Ways to write one thing in ONNX, and things that look alike and are not.

A Spelling is a pool of bodies for one operator: each list in it holds bodies that say the same, bodies of two
lists say two things. A body reads `h`, a product of the input `x` with weights, and gives `y`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper, parser


@dataclass(frozen=True)
class Spelling:
    """`dims` are those of x; its last axis is multiplied by the weights [k, k]."""

    name: str
    same: tuple[tuple[str, ...], ...]
    opset: int = 17
    dims: tuple[int | str, ...] = ("b", 3, 4)

    def __str__(self) -> str:
        return f"{self.name}-{self.opset}"


def model(body: str, seed: int, *, opset: int = 17, dims: Sequence[int | str] = ("b", 3, 4)) -> ModelProto:
    """`h = MatMul(x, w)`, then the body, whose result y is the output."""
    shape = ", ".join(map(str, dims))
    head = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    text = f"{head} g (float[{shape}] x) => (float y) {{ h = MatMul(x, w) {body} }}"
    proto = parser.parse_model(text)
    for value in (*proto.graph.output, *_of_bodies(proto)):
        value.type.tensor_type.ClearField("shape")
    size = int(dims[-1])
    weight = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return proto


def _of_bodies(proto: ModelProto) -> Iterator[onnx.ValueInfoProto]:
    """Inputs and outputs of bodies, which the text can only write with a rank."""
    for node in proto.graph.node:
        for attribute in node.attribute:
            yield from (*attribute.g.input, *attribute.g.output)


def ints(name: str, values: Sequence[int]) -> str:
    return f"{name} = Constant<value_ints=[{', '.join(map(str, values))}]>() "


def floats(name: str, values: Sequence[float]) -> str:
    return f"{name} = Constant<value_floats=[{', '.join(str(float(value)) for value in values)}]>() "


# --------------------------------------------------------------------------- axes


ONE_AXIS = {
    "ArgMax": "i = ArgMax<axis=AXIS>(h) y = Cast<to=1>(i)",
    "ArgMin": "i = ArgMin<axis=AXIS>(h) y = Cast<to=1>(i)",
    "Compress": "c = Constant<value=bool[2] {1, 0}>() y = Compress<axis=AXIS>(h, c)",
    "Concat": "n = Neg(h) y = Concat<axis=AXIS>(h, n)",
    "ConcatFromSequence": "n = Neg(h) s = SequenceConstruct(h, n) y = ConcatFromSequence<axis=AXIS>(s)",
    "CumSum": "a = Constant<value_int=AXIS>() y = CumSum(h, a)",
    "Flatten": "y = Flatten<axis=AXIS>(h)",
    "Gather": ints("i", [1, 0]) + "y = Gather<axis=AXIS>(h, i)",
    "GatherElements": "i = ArgMax<axis=AXIS>(h) y = GatherElements<axis=AXIS>(h, i)",
    "Hardmax": "y = Hardmax<axis=AXIS>(h)",
    "LayerNormalization": "s = Constant<value_float=2.0>() y = LayerNormalization<axis=AXIS>(h, s)",
    "LogSoftmax": "y = LogSoftmax<axis=AXIS>(h)",
    "LpNormalization": "y = LpNormalization<axis=AXIS>(h)",
    "OneHot": "i = ArgMax<axis=0, keepdims=0>(h) d = Constant<value_int=4>() "
    + floats("v", [0, 1])
    + "y = OneHot<axis=AXIS>(i, d, v)",
    "Scan": "y = Scan<num_scan_inputs=1, scan_input_axes=[AXIS], scan_output_axes=[AXIS], "
    "body = t (float q) => (float o) { p = Softmax<axis=0>(q) o = Softmax<axis=-1>(p) }>(h)",
    "ScatterElements": "i = ArgMax<axis=AXIS>(h) u = ReduceSum(h) e = Shape(i) v = Expand(u, e) "
    "t = Reshape(v, e) y = ScatterElements<axis=AXIS>(h, i, t)",
    "Softmax": "y = Softmax<axis=AXIS>(h)",
    "Split": "y, z = Split<axis=AXIS>(h)",
    "SplitToSequence": "s = SplitToSequence<axis=AXIS>(h) y = ConcatFromSequence<axis=0>(s)",
    "TopK": ints("k", [2]) + "y, i = TopK<axis=AXIS>(h, k)",
    "Unique": "y = Unique<axis=AXIS>(h)",
    "com.microsoft.UnfoldTensor": "y = com.microsoft.UnfoldTensor<dim=AXIS, size=2>(h)",
}
"""Operators that count one axis, in the rank of h."""


def one_axis(op: str, rank: int) -> Iterator[Spelling]:
    """Every axis of a tensor of this rank, from both ends."""
    dims: tuple[int | str, ...] = (2, 4, 6, 4)[4 - rank :]
    body = ONE_AXIS[op]
    spell = [
        (body.replace("AXIS", str(axis)), body.replace("AXIS", str(axis - rank))) for axis in range(rank)
    ]
    yield Spelling(op, tuple(spell), dims=dims)


def sets(op: str, opset: int) -> Spelling:
    """A reduction over axes in any order, from both ends; none are all."""
    as_input = opset >= 18 or op == "ReduceSum"

    def body(axes: Sequence[int], more: str = "keepdims=0") -> str:
        if as_input:
            return ints("a", axes) + f"y = {op}<{more}>(h, a)"
        return f"y = {op}<axes=[{', '.join(map(str, axes))}], {more}>(h)"

    every = f"y = {op}<keepdims=0>(h)"
    return Spelling(
        op,
        (
            (body([1, 2]), body([-1, 1]), body([-1, -2])),
            (body([0, 2]), body([2, -3])),
            (body([1]), body([-2])),
            (body([0, 1, 2]), every, body([-1, 0, 1])),
            (body([1, 2], "keepdims=1"), body([2, 1], "keepdims=1")),
        ),
        opset=opset,
        dims=(3, 3, 3),
    )


FAR32, FAR64 = (1 << 31) - 1, (1 << 63) - 1


def slice_(starts: Sequence[int], ends: Sequence[int], *more: Sequence[int]) -> str:
    names = ("s", "e", "a", "t")[: 2 + len(more)]
    text = "".join(ints(name, values) for name, values in zip(names, (starts, ends, *more), strict=True))
    return f"{text}y = Slice(h, {', '.join(names)})"


def pad(pads: Sequence[int], axes: Sequence[int] | None = None, value: str = "") -> str:
    text = ints("p", pads) + (f"v = Constant<value_float={value}>() " if value else "")
    more = ", v" if value else "," if axes is not None else ""
    if axes is not None:
        return f"{text}{ints('a', axes)}y = Pad(h, p{more}, a)"
    return f"{text}y = Pad(h, p{more})"


def resize(scales: Sequence[float], axes: str = "") -> str:
    return (
        floats("s", scales) + f"y = Resize<{axes}>(h, , s)"
        if axes
        else floats("s", scales) + "y = Resize(h, , s)"
    )


SCALE = floats("s", [1, 2, 3, 4])
MANY: tuple[Spelling, ...] = (
    Spelling("Squeeze", (
        ("u = Unsqueeze(h, k) y = Squeeze(u, k)", "u = Unsqueeze(h, k) y = Squeeze(u, m)"),
        ("u = Unsqueeze(h, k) y = Squeeze(u, n)", "u = Unsqueeze(h, k) y = Squeeze(u, o)"),
    )),
    Spelling("Unsqueeze", (
        (ints("a", [1, 3]) + "y = Unsqueeze(h, a)", ints("a", [-2, 1]) + "y = Unsqueeze(h, a)",
         ints("a", [3, 1]) + "y = Unsqueeze(h, a)"),
        (ints("a", [1, 2]) + "y = Unsqueeze(h, a)", ints("a", [-3, -4]) + "y = Unsqueeze(h, a)"),
    )),
    Spelling("Slice", (
        (slice_([0, 1], [2, FAR64], [1, 2]), slice_([1, 0], [FAR32, 2], [-1, -2]),
         slice_([1, 0], [FAR64, 2], [2, 1], [1, 1]), slice_([0, 0, 1], [FAR32, 2, FAR64])),
        (slice_([0, 1], [2, FAR64], [2, 1]), slice_([1, 0], [FAR64, 2], [-2, -1])),
        (slice_([0, 1], [FAR64, 2], [1, 2]),),
        (slice_([0], [2]), slice_([0], [2], [0]), slice_([0], [2], [-3]),
         "s = Constant<value=int32[1] {0}>() e = Constant<value=int32[1] {2}>() y = Slice(h, s, e)"),
        (slice_([-1], [-FAR64], [2], [-1]), slice_([-1], [-FAR32 - 1], [-1], [-1])),
        (slice_([-1], [-3], [2], [-1]),),
    )),
    Spelling("Pad", (
        (pad([1, 0, 0, 2], [1, 2], "0.0"), pad([1, 0, 0, 2], [1, 2]), pad([0, 1, 0, 0, 0, 2]),
         pad([0, 1, 2, 0], [2, 1]), pad([0, 1, 2, 0], [-1, -2], "0.0")),
        (pad([1, 0, 0, 2], [2, 1]), pad([0, 0, 1, 0, 2, 0])),
        (pad([1, 0, 0, 2], [1, 2], "3.0"), pad([0, 1, 2, 0], [2, 1], "3.0")),
    ), opset=18),
    Spelling("Resize", (
        (resize([2, 3], "axes=[1, 2]"), resize([3, 2], "axes=[-1, -2]"), resize([1, 2, 3])),
        (resize([2, 3], "axes=[2, 1]"), resize([1, 3, 2])),
        (resize([2], "axes=[2]"), resize([2], "axes=[-1]"), resize([1, 1, 2])),
    ), opset=18),
    Spelling("Resize", (
        (ints("z", [1, 6, 8]) + "y = Resize(h, , , z)",
         "r = Constant<value=float[0] {}>() " + ints("z", [1, 6, 8]) + "y = Resize(h, r, r, z)"),
        (ints("z", [1, 6, 4]) + "y = Resize(h, , , z)",),
    ), dims=(1, 3, 4)),
    Spelling("CenterCropPad", (
        (ints("z", [5, 2]) + "y = CenterCropPad<axes=[1, 2]>(h, z)",
         ints("z", [2, 5]) + "y = CenterCropPad<axes=[-1, -2]>(h, z)"),
        (ints("z", [2, 5]) + "y = CenterCropPad<axes=[1, 2]>(h, z)",),
        (ints("z", [2, 5, 3]) + "y = CenterCropPad(h, z)",
         ints("z", [5, 2, 3]) + "y = CenterCropPad<axes=[1, 0, -1]>(h, z)"),
    ), opset=18),
    Spelling("ConcatFromSequence", (
        ("n = Neg(h) s = SequenceConstruct(h, n) y = ConcatFromSequence<axis=3, new_axis=1>(s)",
         "n = Neg(h) s = SequenceConstruct(h, n) y = ConcatFromSequence<axis=-1, new_axis=1>(s)"),
        ("n = Neg(h) s = SequenceConstruct(h, n) y = ConcatFromSequence<axis=2, new_axis=1>(s)",
         "n = Neg(h) s = SequenceConstruct(h, n) y = ConcatFromSequence<axis=-2, new_axis=1>(s)"),
    )),
    Spelling("Shape", (
        ("s = Shape<start=1>(h) y = Cast<to=1>(s)", "s = Shape<start=-2, end=9>(h) y = Cast<to=1>(s)",
         "s = Shape<start=1, end=3>(h) y = Cast<to=1>(s)"),
        ("s = Shape(h) y = Cast<to=1>(s)", "s = Shape<start=-9>(h) y = Cast<to=1>(s)"),
        ("s = Shape<end=-1>(h) y = Cast<to=1>(s)", "s = Shape<end=2>(h) y = Cast<to=1>(s)"),
    )),
    Spelling("DFT", (
        ("u = Unsqueeze(h, n) y = DFT<axis=2>(u)", "u = Unsqueeze(h, n) y = DFT<axis=-2>(u)"),
        ("u = Unsqueeze(h, n) y = DFT(u)", "u = Unsqueeze(h, n) y = DFT<axis=-3>(u)"),
    )),
    Spelling("DFT", (
        ("u = Unsqueeze(h, n) y = DFT(u)", "u = Unsqueeze(h, n) a = Constant<value_int=2>() y = DFT(u, , a)"),
        ("u = Unsqueeze(h, n) a = Constant<value_int=1>() y = DFT(u, , a)",
         "u = Unsqueeze(h, n) a = Constant<value_int=-3>() y = DFT(u, , a)"),
    ), opset=20),
    Spelling("MeanVarianceNormalization", (
        ("y = MeanVarianceNormalization<axes=[1, 2]>(h)", "y = MeanVarianceNormalization<axes=[-1, 1]>(h)"),
        ("y = MeanVarianceNormalization<axes=[0, 2]>(h)", "y = MeanVarianceNormalization<axes=[2, -3]>(h)"),
    ), dims=(2, 3, 4)),
    Spelling("QuantizeLinear", (
        (SCALE + "q = QuantizeLinear<axis=2>(h, s) y = DequantizeLinear<axis=2>(q, s)",
         SCALE + "q = QuantizeLinear<axis=-1>(h, s) y = DequantizeLinear<axis=-1>(q, s)"),
        (SCALE + "q = QuantizeLinear(h, s) y = DequantizeLinear(q, s)",
         SCALE + "q = QuantizeLinear<axis=-2>(h, s) y = DequantizeLinear<axis=1>(q, s)",
         SCALE + "z = Constant<value=uint8[4] {0, 0, 0, 0}>() q = QuantizeLinear<axis=-2>(h, s, z) "
         "y = DequantizeLinear(q, s, z)"),
        (SCALE + "z = Constant<value=uint8[4] {250, 0, 0, 0}>() q = QuantizeLinear<axis=-2>(h, s, z) "
         "y = DequantizeLinear(q, s, z)",),
    ), dims=("b", 4, 4)),
    Spelling("QuantizeLinear of a scalar", (
        ("s = Constant<value_float=0.1>() q = QuantizeLinear<axis=0>(h, s) y = DequantizeLinear(q, s)",
         "s = Constant<value_float=0.1>() q = QuantizeLinear(h, s) y = DequantizeLinear<axis=2>(q, s)"),
        ("s = Constant<value_float=0.1>() z = Constant<value=int8 {0}>() q = QuantizeLinear(h, s, z) "
         "y = DequantizeLinear(q, s, z)",),
    )),
    Spelling("com.microsoft.ExpandDims", (
        ("a = Constant<value=int32 {3}>() y = com.microsoft.ExpandDims(h, a)",
         "a = Constant<value=int32 {-1}>() y = com.microsoft.ExpandDims(h, a)"),
        ("a = Constant<value=int32 {2}>() y = com.microsoft.ExpandDims(h, a)",
         "a = Constant<value=int32 {-2}>() y = com.microsoft.ExpandDims(h, a)"),
    )),
    Spelling("If", (
        ("c = ReduceSum<keepdims=0>(h) g = Equal(c, c) y = If(g)<"
         "then_branch = t () => (float o) { o = Softmax<axis=1>(h) }, "
         "else_branch = e () => (float o) { u = Relu(h) o = Softmax<axis=0>(u) }>",
         "c = ReduceSum<keepdims=0>(h) g = Equal(c, c) y = If(g)<"
         "then_branch = t () => (float o) { o = Softmax<axis=-2>(h) }, "
         "else_branch = e () => (float o) { u = Relu(h) o = Softmax<axis=-3>(u) }>"),
        ("c = ReduceSum<keepdims=0>(h) g = Equal(c, c) y = If(g)<"
         "then_branch = t () => (float o) { o = Softmax<axis=-1>(h) }, "
         "else_branch = e () => (float o) { u = Relu(h) o = Softmax<axis=-3>(u) }>",),
    )),
)  # fmt: skip
"""Operators with several axes, or with axes that go with something else."""

CONSTANTS = {
    "Squeeze": ints("k", [1, 3]) + ints("m", [-2, 1]) + ints("n", [1]) + ints("o", [-4]),
    "DFT": ints("n", [3]),
}
"""Return what the bodies of a spelling read besides."""


# --------------------------------------------------------------------------- defaults


RECURRENT = (
    "t = Transpose<perm=[1, 0, 2]>(h) c = ConstantOfShape<value=float[1] {{0.1}}>(cw) "
    "r = ConstantOfShape<value=float[1] {{0.2}}>(cr) y, yh = {}(t, c, r)"
)
DEFAULTS: tuple[Spelling, ...] = (
    Spelling("MaxPool", (
        ('y = MaxPool<kernel_shape=[3, 3], auto_pad="VALID">(h)', "y = MaxPool<kernel_shape=[3, 3]>(h)",
         "y = MaxPool<kernel_shape=[3, 3], strides=[1, 1], pads=[0, 0, 0, 0], ceil_mode=0>(h)"),
        ('y = MaxPool<kernel_shape=[3, 2], auto_pad="SAME_UPPER">(h)',
         "y = MaxPool<kernel_shape=[3, 2], pads=[1, 0, 1, 1]>(h)"),
        ('y = MaxPool<kernel_shape=[3, 2], auto_pad="SAME_LOWER">(h)',
         "y = MaxPool<kernel_shape=[3, 2], pads=[1, 1, 1, 0]>(h)"),
    ), dims=("b", 3, 8, 5)),
    Spelling("LpPool", (
        ('y = LpPool<kernel_shape=[3, 2], auto_pad="SAME_LOWER", p=2>(h)',
         "y = LpPool<kernel_shape=[3, 2], pads=[1, 1, 1, 0]>(h)"),
    ), dims=("b", 3, 8, 5)),
    Spelling("EyeLike", (
        ("r = ReduceSum<keepdims=0>(h, n) e = EyeLike<dtype=1>(r) y = Add(e, r)",
         "r = ReduceSum<keepdims=0>(h, n) e = EyeLike<k=0>(r) y = Add(e, r)"),
    )),
    Spelling("AveragePool", (
        ('y = AveragePool<kernel_shape=[3, 2], auto_pad="SAME_LOWER">(h)',
         "y = AveragePool<kernel_shape=[3, 2], pads=[1, 1, 1, 0]>(h)"),
        ('y = AveragePool<kernel_shape=[3, 2], auto_pad="SAME_UPPER">(h)',
         "y = AveragePool<kernel_shape=[3, 2], pads=[1, 0, 1, 1]>(h)"),
    ), dims=("b", 3, 8, 5)),
    Spelling("Conv", (
        ('y = Conv<auto_pad="SAME_UPPER">(h, f)', "y = Conv<pads=[1, 0, 1, 1], kernel_shape=[3, 2]>(h, f)"),
        ('y = Conv<auto_pad="SAME_LOWER">(h, f)', "y = Conv<pads=[1, 1, 1, 0]>(h, f)"),
        ('y = Conv<auto_pad="VALID">(h, f)', "y = Conv<kernel_shape=[3, 2], group=1, strides=[1, 1]>(h, f)"),
    ), dims=("b", 2, 8, 5)),
    Spelling("Split", (
        (ints("z", [2, 2]) + "y, q = Split<axis=2>(h, z)", "y, q = Split<axis=-1>(h)"),
        (ints("z", [1, 3]) + "y, q = Split<axis=2>(h, z)",),
    )),
    Spelling("Split", (
        (ints("z", [2, 2]) + "y, q = Split<axis=2>(h, z)", "y, q = Split<axis=-1, num_outputs=2>(h)"),
    ), opset=18),
    Spelling("Split", (
        ("p, q, y = Split<axis=-1, num_outputs=3>(h)", ints("z", [2, 2, 1]) + "p, q, y = Split<axis=2>(h, z)"),
        (ints("z", [1, 1, 3]) + "p, q, y = Split<axis=2>(h, z)",),
    ), opset=18, dims=("b", 3, 5)),
    Spelling("Trilu", (
        ("y = Trilu(h)", "k = Constant<value_int=0>() y = Trilu<upper=1>(h, k)"),
        ("k = Constant<value_int=1>() y = Trilu(h, k)",),
    )),
    Spelling("Dropout", (
        ("r = Constant<value_float=0.3>() y = Dropout<seed=1>(h, r)", "y = Dropout(h)",
         "r = Constant<value_float=0.5>() t = Constant<value=bool {0}>() y = Dropout(h, r, t)"),
    )),
    Spelling("Einsum", (
        ('y = Einsum<equation="bij,bkj->bik">(h, n)', 'y = Einsum<equation="a i j , a k j -> a i k">(h, n)'),
        ('y = Einsum<equation="bij,bkj">(h, n)', 'y = Einsum<equation="xyz,xwz->yw">(h, n)'),
        ('y = Einsum<equation="bkj,bij">(h, n)', 'y = Einsum<equation="bij,bkj->ki">(h, n)'),
    )),
    Spelling("Einsum", (
        ('y = Einsum<equation="...ij,...kj">(h, n)', 'y = Einsum<equation="...aj,...bj->...ab">(h, n)'),
        ('y = Einsum<equation="...ij,...kj->...ki">(h, n)',),
    )),
    Spelling("BatchNormalization", (
        (floats("s", [1, 2, 3]) + "y = BatchNormalization<momentum=0.99>(h, s, s, s, s)",
         floats("s", [1, 2, 3]) + "y = BatchNormalization<epsilon=1e-5>(h, s, s, s, s)"),
        (floats("s", [1, 2, 3]) + "y = BatchNormalization<epsilon=0.1>(h, s, s, s, s)",),
    )),
    Spelling("ConstantOfShape", (
        (ints("z", [4]) + "c = ConstantOfShape(z) y = Add(h, c)",
         ints("z", [4]) + "c = ConstantOfShape<value=float[1] {0.0}>(z) y = Add(h, c)"),
        (ints("z", [4]) + "c = ConstantOfShape<value=float[1] {1.0}>(z) y = Add(h, c)",),
    )),
    Spelling("GRU", (
        (RECURRENT.format("GRU<hidden_size=2>"),
         RECURRENT.format('GRU<hidden_size=2, activations=["sigmoid", "Tanh"], direction="forward">')),
        (RECURRENT.format('GRU<hidden_size=2, activations=["Sigmoid", "Relu"]>'),),
    ), dims=("b", 3, 4)),
    Spelling("com.microsoft.SkipLayerNormalization", (
        (SCALE + "y = com.microsoft.SkipLayerNormalization(h, h, s)",
         SCALE + "y = com.microsoft.SkipLayerNormalization<epsilon=1e-12>(h, h, s)"),
        (SCALE + "y = com.microsoft.SkipLayerNormalization<epsilon=0.5>(h, h, s)",),
    )),
    Spelling("SimplifiedLayerNormalization", (
        (SCALE + "y = SimplifiedLayerNormalization<axis=2, stash_type=1>(h, s)",
         SCALE + "y = SimplifiedLayerNormalization<epsilon=1e-5>(h, s)",
         SCALE + "y = SimplifiedLayerNormalization<axis=-1>(h, s)"),
    )),
)  # fmt: skip
"""Attributes and inputs that say what is done anyway."""

OLD: tuple[Spelling, ...] = (
    Spelling("Softmax", (
        ("g = com.microsoft.Gelu(h) y = Softmax<axis=-1>(g)", "g = com.microsoft.Gelu(h) y = Softmax<axis=2>(g)"),
        ("g = com.microsoft.Gelu(h) y = Softmax(g)", "g = com.microsoft.Gelu(h) y = Softmax<axis=-2>(g)"),
        ("g = com.microsoft.Gelu(h) y = Softmax<axis=0>(g)",),
    ), opset=12),
    Spelling("ReduceSum", (
        ("g = com.microsoft.Gelu(h) y = ReduceSum<axes=[1, 2]>(g)",
         "g = com.microsoft.Gelu(h) y = ReduceSum<axes=[-1, -2]>(g)"),
        ("g = com.microsoft.Gelu(h) y = ReduceSum<axes=[0, 1, 2]>(g)", "g = com.microsoft.Gelu(h) y = ReduceSum(g)"),
    ), opset=12),
    Spelling("Unsqueeze", (
        ("g = com.microsoft.Gelu(h) y = Unsqueeze<axes=[1, 3]>(g)",
         "g = com.microsoft.Gelu(h) y = Unsqueeze<axes=[-2, 1]>(g)"),
        ("g = com.microsoft.Gelu(h) y = Unsqueeze<axes=[1, 2]>(g)",),
    ), opset=12),
    Spelling("Squeeze", (
        ("g = com.microsoft.Gelu(h) u = ReduceSum<axes=[1, 2]>(g) y = Squeeze<axes=[1, 2]>(u)",
         "g = com.microsoft.Gelu(h) u = ReduceSum<axes=[1, 2]>(g) y = Squeeze<axes=[-1, 1]>(u)",
         "g = com.microsoft.Gelu(h) u = ReduceSum<axes=[1, 2]>(g) y = Squeeze(u)"),
        ("g = com.microsoft.Gelu(h) u = ReduceSum<axes=[1, 2]>(g) y = Squeeze<axes=[1]>(u)",),
    ), opset=12, dims=(2, 3, 4)),
    Spelling("Split", (
        ("g = com.microsoft.Gelu(h) y, z = Split<axis=2, split=[2, 2]>(g)",
         "g = com.microsoft.Gelu(h) y, z = Split<axis=-1>(g)"),
        ("g = com.microsoft.Gelu(h) y, z = Split<axis=2, split=[1, 3]>(g)",),
    ), opset=12),
    Spelling("Slice", (
        ("g = com.microsoft.Gelu(h) y = Slice<starts=[0, 1], ends=[2, 3], axes=[1, 2]>(g)",
         "g = com.microsoft.Gelu(h) y = Slice<starts=[1, 0], ends=[3, 2], axes=[2, 1]>(g)",
         "g = com.microsoft.Gelu(h) y = Slice<starts=[0, 0, 1], ends=[2147483647, 2, 3]>(g)"),
        ("g = com.microsoft.Gelu(h) y = Slice<starts=[0, 1], ends=[2, 3], axes=[2, 1]>(g)",),
    ), opset=9),
)  # fmt: skip
"""Attributes of older opsets, which a foreign operator keeps from being converted."""

CONSTANTS |= {
    "Einsum": "n = Relu(h) ",
    "EyeLike": ints("n", [0]),
    "GRU": ints("cw", [1, 6, 4]) + ints("cr", [1, 6, 2]),
    "Conv": "f = Constant<value=float[1, 2, 3, 2] {1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1}>() ",
}


def protos(spelling: Spelling, seed: int = 0) -> list[list[onnx.ModelProto]]:
    """The models of a spelling, in its lists."""
    before = CONSTANTS.get(spelling.name, "")
    return [
        [model(before + body, seed, opset=spelling.opset, dims=spelling.dims) for body in bodies]
        for bodies in spelling.same
    ]
