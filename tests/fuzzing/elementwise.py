"""Elementwise operators, broadcasting, reductions and operators along one axis."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from fuzzing.build import Builder, Unfit, operators

SMOOTH = """Exp Sin Cos Tan Sinh Cosh Tanh Atan Asinh Sigmoid Erf Softplus Softsign Elu Selu Celu LeakyRelu
    HardSigmoid HardSwish:14 Mish:18 Gelu:20 Swish:24 Sqrt Log Reciprocal Acos Asin Atanh Acosh"""


@operators(SMOOTH, weight=4)
def smooth(b: Builder, op: str) -> None:
    attrs = {}
    if op in ("Elu", "Celu", "LeakyRelu", "HardSigmoid", "Swish") and b.maybe(0.5):
        attrs["alpha"] = b.rng.choice([0.25, 0.5, 2.0])
    b.node(op, [b.value()], keeps="round", **attrs)


@operators("Abs Neg Relu Identity Dropout", weight=2)
def exact_unary(b: Builder, op: str) -> None:
    if op == "Dropout" and b.maybe(0.5):
        b.many(op, [b.value(), b.const(0.5, np.float32)], [True, b.maybe(0.5)])
    else:
        b.node(op, [b.anything() if op == "Identity" else b.value()])


@operators("Sign Ceil Floor Round ThresholdedRelu Shrink", weight=1)
def jumps(b: Builder, op: str) -> None:
    attrs = {"ThresholdedRelu": {"alpha": 0.5}, "Shrink": {"lambd": 0.5, "bias": 0.25}}.get(op, {})
    b.node(op, [b.value(exact=True)], **attrs)


@operators("Not BitwiseNot:18 IsNaN IsInf", weight=0.8)
def tests(b: Builder, op: str) -> None:
    if op in ("IsNaN", "IsInf"):
        values = [v for v in b.pool if v.arrays[0].dtype.kind == "f"]
        if not values:
            raise Unfit("no float")
        b.node(op, [b.rng.choice(values)])
    else:
        b.node(op, [b.value(np.bool_ if op == "Not" else np.int64)])


@operators("Cast CastLike:15", weight=2)
def cast(b: Builder, op: str) -> None:
    to = b.rng.choice([b.world.float, np.float32, np.int64, np.int32, np.bool_, np.float16, np.float64])
    x = b.anything()
    if x.arrays[0].dtype.kind == "f" and not (x.exact or np.dtype(to).kind == "f"):
        x = b.value(exact=True)
    keeps = "move" if np.dtype(to).itemsize >= x.arrays[0].dtype.itemsize else "round"
    if op == "Cast":
        b.node(op, [x], keeps=keeps, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))
    else:
        b.node(op, [x, b.value(to)], keeps=keeps)


@operators("Clip", weight=1)
def clip(b: Builder, op: str) -> None:
    x = b.number()
    whole = x.arrays[0].dtype.kind == "i"
    low = b.leaf((), x.dtype, low=-2, high=0 if whole else -0.25) if b.maybe(0.7) else None
    high = b.leaf((), x.dtype, low=1 if whole else 0.25, high=2) if b.maybe(0.7) else None
    b.node(op, [x, low, high])


@operators("Add Sub Mul Max Min Sum Mean", weight=6)
def arithmetic(b: Builder, op: str) -> None:
    x = b.value() if op in ("Sum", "Mean") or b.maybe(0.75) else b.number()
    ins = [x, b.partner(x)]
    if op in ("Max", "Min", "Sum", "Mean") and b.maybe(0.4):
        ins = [x, *ins[1:], b.partner(x)] if b.maybe(0.8) else [x]
    elif b.maybe(0.3):
        ins.reverse()
    b.node(op, ins, keeps="arith")


@operators("Div Pow PRelu", weight=1.5)
def careful(b: Builder, op: str) -> None:
    x = b.value()
    if op == "Div":
        b.node(op, [x, b.partner(x, low=0.5, high=2)], keeps="round")
    elif op == "PRelu":
        b.node(op, [x, b.partner(x, wider=False)], keeps="arith")
    else:
        base = b.node("Abs", [x]) if b.maybe(0.5) else b.like(x.shape, x.dtype, low=0.25, high=2)
        b.node(op, [base, b.partner(base, low=0.5, high=2)], keeps="round")


@operators("Div Mod BitShift BitwiseAnd:18 BitwiseOr:18 BitwiseXor:18", weight=1)
def whole(b: Builder, op: str) -> None:
    if op == "BitShift":
        x = b.value(np.uint8)
        direction = b.rng.choice(["LEFT", "RIGHT"])
        b.node(op, [x, b.partner(x, low=0, high=3)], direction=direction)
        return
    x = b.value(b.rng.choice([np.int64, np.int32]))
    b.node(op, [x, b.partner(x, low=1, high=4) if op in ("Div", "Mod") else b.partner(x)])


@operators("And Or Xor Equal", weight=1)
def logic(b: Builder, op: str) -> None:
    x = b.value(np.bool_)
    b.node(op, [x, b.partner(x)])


@operators("Equal Greater Less GreaterOrEqual LessOrEqual", weight=1.5)
def comparison(b: Builder, op: str) -> None:
    x = b.number()
    b.node(op, [x, b.partner(x, exact=True)])


@operators("Where", weight=1.5)
def where(b: Builder, op: str) -> None:
    condition = b.value(np.bool_)
    x = b.like(b.partner(condition).shape) if b.maybe(0.5) else b.value()
    b.node(op, [condition, x, b.partner(x)])


# --------------------------------------------------------------------------- along axes

REDUCE = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp"
)
SINCE = {"ReduceSum": 13}


@operators(REDUCE, weight=3)
def reduce(b: Builder, op: str) -> None:
    x = b.value() if b.maybe(0.8) else b.value(np.int64)
    keeps = {"ReduceMax": "move", "ReduceMin": "move", "ReduceSum": "arith"}.get(op, "round")
    axes = b.axes(x.rank) if b.maybe(0.8) else None
    attrs = {"keepdims": b.rng.choice([0, 0, 1])} if b.maybe(0.8) else {}
    if b.opset < SINCE.get(op, 18):
        b.node(op, [x], keeps=keeps, axes=axes or None, **attrs)
        return
    if b.maybe(0.3):
        attrs["noop_with_empty_axes"] = 1
    b.node(op, [x, None if axes is None else b.steer(axes)], keeps=keeps, **attrs)


@operators("Softmax LogSoftmax Hardmax LpNormalization", weight=2)
def along(b: Builder, op: str) -> None:
    x = b.value(rank=(1, 4), exact=op == "Hardmax")
    attrs = {"axis": b.axis(x.rank)} if b.maybe(0.8) else {}
    if op == "LpNormalization" and b.maybe(0.5):
        attrs["p"] = 1
    b.node(op, [x], keeps="move" if op == "Hardmax" else "round", **attrs)


@operators("ArgMax ArgMin", weight=1.5)
def arg(b: Builder, op: str) -> None:
    x = b.number((1, 4))
    last = b.rng.choice([0, 1])
    b.node(op, [x], axis=b.axis(x.rank), keepdims=b.rng.choice([0, 1]), select_last_index=last)


@operators("TopK", weight=1)
def top_k(b: Builder, op: str) -> None:
    x = b.number((1, 4))
    axis = b.axis(x.rank)
    k = b.steer([b.rng.randint(min(1, x.shape[axis]), x.shape[axis])])
    b.many(op, [x, k], 2, axis=axis, largest=b.rng.choice([0, 1]), sorted=1)


@operators("CumSum CumProd:26", weight=1)
def cumulative(b: Builder, op: str) -> None:
    x = b.value(rank=(1, 4)) if b.maybe(0.7) else b.value(np.int64, (1, 4))
    attrs = {name: 1 for name in ("exclusive", "reverse") if b.maybe(0.4)}
    at = b.const(b.axis(x.rank)) if b.maybe(0.8) else b.hold("shared input", [np.array(0)] * b.world.models)
    b.node(op, [x, at], keeps="arith", **attrs)


@operators("Trilu:14", weight=0.5)
def trilu(b: Builder, op: str) -> None:
    x = b.anything((2, 4))
    k = b.leaf((), np.int64, low=-1, high=2) if b.maybe(0.5) else None
    b.node(op, [x, k], upper=b.rng.choice([0, 1]))


@operators("DynamicQuantizeLinear", weight=0.3)
def dynamic_quantize(b: Builder, op: str) -> None:
    x = b.value(np.float32)
    y, scale, zero = b.many(op, [x], 3, keeps="round")
    y.exact = zero.exact = False
    if b.maybe(0.7):
        b.node("DequantizeLinear", [y, scale, zero], keeps="round")


@operators("QuantizeLinear DequantizeLinear", weight=1.5)
def quantize(b: Builder, op: str) -> None:
    # From opset 21 on ONNX Runtime 1.32 refuses an int8 pair before a Reshape or Transpose, alone too.
    kind = b.rng.choice([np.uint8, np.int8] if op == "QuantizeLinear" else [np.uint8, np.int8, np.int32])
    x = b.value(np.float32, exact=True) if op == "QuantizeLinear" else b.value(kind, low=-20, high=100)
    axis = b.axis(x.rank) if x.rank and b.maybe(0.5) else None
    shape = () if axis is None else (x.shape[axis],)
    role = b.rng.choice(("weight", "shared weight", "input"))
    powers = [np.exp2(b.world.numpy.integers(-3, 1, shape)).astype(np.float32) for _ in range(b.world.models)]
    scale = b.hold(role, powers[:1] * b.world.models if role.startswith("shared") else powers)
    pointed = op == "QuantizeLinear" or (kind != np.int32 and b.maybe(0.7))
    zero = b.leaf(shape, kind, low=0, high=9) if pointed else None
    attrs = {} if axis is None else {"axis": axis}
    y = b.node(op, [x, scale, zero], keeps="arith", **attrs)
    if op == "QuantizeLinear" and b.maybe(0.6):
        b.node("DequantizeLinear", [y, scale, zero], keeps="arith", **attrs)


@operators("EyeLike Shape Size", weight=1.2)
def of_shape(b: Builder, op: str) -> None:
    if op == "EyeLike":
        b.node(op, [b.value(rank=(2, 2))], k=b.rng.choice([0, 1, -1]), dtype=TensorProto.FLOAT)
        return
    x = b.anything()
    attrs = {}
    if op == "Shape" and b.opset >= 15 and b.maybe(0.5):
        attrs = {"start": b.rng.randint(-2, 2), "end": b.rng.randint(-1, 4)}
    y = b.node(op, [x], **attrs)
    if b.maybe(0.5) and y.arrays[0].size:
        b.node("Cast", [y], to=TensorProto.FLOAT)
