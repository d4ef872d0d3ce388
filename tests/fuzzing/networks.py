"""Products, convolutions, pooling, normalisation, resampling, recurrence, attention.

Operators of other domains keep a model at its opset: they are drawn from opset 15 on (see case.draw)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzzing.build import MICROSOFT, ML, Builder, Unfit, Value, operators


@operators("MatMul", weight=4)
def matmul(b: Builder, op: str) -> None:
    x = b.value(rank=(1, 4))
    inner = x.shape[-1]
    if b.maybe(0.15):
        w = b.like((inner,))
    else:
        lead = [1 if b.maybe(0.3) else d for d in x.shape[:-2]][b.rng.choice([0, 0, 1, 5]) :]
        if b.maybe(0.1):
            lead = [b.dim(), *lead][:2]
        w = b.like((*lead, inner, b.dim()))
    b.node(op, [x, w], keeps="arith")


@operators("Gemm", weight=2)
def gemm(b: Builder, op: str) -> None:
    x = b.value(rank=(2, 2))
    flip = [int(b.maybe(0.3)), int(b.maybe(0.4))]
    rows, inner = x.shape[:: -1 if flip[0] else 1]
    cols = b.dim()
    w = b.like((cols, inner) if flip[1] else (inner, cols))
    c = None
    if b.maybe(0.7):
        c = b.like(b.rng.choice([(cols,), (cols,), (1, cols), (rows, cols), (rows, 1), (1,), ()]))
    attrs = {name: b.rng.choice([0.5, 2.0]) for name in ("alpha", "beta") if b.maybe(0.25)}
    flips = {name: 1 for name, on in zip(("transA", "transB"), flip, strict=True) if on}
    b.node(op, [x, w, c], keeps="arith", **attrs, **flips)


EQUATIONS = """ij,jk->ik ij,jk bij,bjk->bik bij,jk->bik ij,bjk->bik bhid,bhjd->bhij ...ij,...jk->...ik i,j->ij ij->ji
    ij->i ii->i ij,ij-> bij->bj ijk,jk->i ij,kj->ik bi,bi->b ij,j->i i,i-> abc,cd->abd ij,jk,kl->il Ab,bA->A"""


@operators("Einsum", weight=1.5)
def einsum(b: Builder, op: str) -> None:
    equation = b.rng.choice(EQUATIONS.split())
    sizes: dict[str, int] = {}
    ins: list[Value] = []
    for term in equation.partition("->")[0].split(","):
        more = [b.dim() or 1] if "..." in term and b.maybe(0.6) and "+" not in sizes else []
        if "..." in term and "+" in sizes:
            more = [sizes["+"]] if sizes["+"] else []
        if "..." in term:
            sizes["+"] = more[0] if more else 0
        # ONNX Runtime 1.32 divides by sizes of 0 here, and the process dies.
        ins.append(b.like([*more, *(sizes.setdefault(c, b.dim() or 1) for c in term.replace("...", ""))]))
    b.node(op, ins, equation=equation, keeps="arith")


# --------------------------------------------------------------------------- images


def image(b: Builder, spatial: int | None = None, channels: int | None = None) -> Value:
    """A value [batch, channels, spatial..]."""
    low, high = (3, 5) if spatial is None else (spatial + 2, spatial + 2)
    if b.maybe(0.6):
        found = [v for v in b.pool if v.dtype == b.world.float and low <= v.rank <= high and v.steady
                 and (channels is None or v.shape[1] % channels == 0)]  # fmt: skip
        if found:
            return b.rng.choice(found)
    spatial = spatial or b.rng.choice([1, 1, 2, 2, 2, 3])
    batch = min(b.dim(), 3)
    width = channels * b.rng.choice([1, 2]) if channels else b.dim()
    return b.leaf(
        (batch, width, *(b.rng.choice([1, 3, 4, 5] if spatial < 3 else [2, 3]) for _ in range(spatial)))
    )


def _window(b: Builder, x: Value, most: int = 3) -> dict[str, Any]:
    """Kernel, strides, padding, dilations."""
    spatial = x.rank - 2
    kernel = [b.rng.randint(1, min(most, max(1, d))) for d in x.shape[2:]]
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if b.maybe(0.4):
        attrs["strides"] = [b.rng.choice([1, 2]) for _ in range(spatial)]
    chance = b.rng.random()
    if chance < 0.3:
        attrs["pads"] = [b.rng.randint(0, k - 1) for k in kernel * 2]
    elif chance < 0.5:
        attrs["auto_pad"] = b.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    return attrs


@operators("Conv ConvTranspose", weight=4)
def conv(b: Builder, op: str) -> None:
    x = image(b)
    channels = x.shape[1]
    group = b.rng.choice([g for g in (1, 1, 2, 3, channels) if g and channels % g == 0] or [1])
    attrs = _window(b, x)
    per = b.rng.choice([1, 2, b.world.models])
    first, second = (group * per, channels // group) if op == "Conv" else (channels, per)
    w = b.like((first, second, *attrs["kernel_shape"]))
    bias = b.like((group * per,)) if b.maybe(0.5) else None
    if "auto_pad" not in attrs and b.maybe(0.2):
        attrs["dilations"] = [b.rng.choice([1, 2]) for _ in range(x.rank - 2)]
    if op == "ConvTranspose" and b.maybe(0.2):
        attrs["output_padding"] = [0] * (x.rank - 2)
    b.node(op, [x, w, bias], keeps="arith", group=group if group > 1 or b.maybe(0.5) else None, **attrs)


@operators("MaxPool AveragePool LpPool", weight=2)
def pool(b: Builder, op: str) -> None:
    x = image(b)
    attrs = _window(b, x)
    if op == "MaxPool":
        outs = [True, True] if b.maybe(0.3) and x.exact else [True]
        if len(outs) == 2 and b.maybe(0.2):
            attrs["storage_order"] = 1
        if "auto_pad" not in attrs and b.maybe(0.3):
            attrs["ceil_mode"] = 1
        b.many(op, [x], outs, **attrs)
        return
    if op == "AveragePool" and b.maybe(0.5):
        attrs["count_include_pad"] = 1
    b.node(op, [x], keeps="round", **attrs)


@operators("GlobalAveragePool GlobalMaxPool GlobalLpPool LRN", weight=1.2)
def whole_image(b: Builder, op: str) -> None:
    b.node(op, [image(b)], keeps="round", size=3 if op == "LRN" else None)


@operators("BatchNormalization InstanceNormalization GroupNormalization:18 GroupNormalization:21", weight=2.5)
def channel_norm(b: Builder, op: str) -> None:
    x = image(b) if b.maybe(0.85) or op != "BatchNormalization" else b.value(rank=(2, 2))
    if op == "GroupNormalization" and b.world.float == np.float64:
        raise Unfit("its statistics are float32")
    if op == "InstanceNormalization" and 0 in x.shape:
        raise Unfit("ONNX Runtime 1.32 reads what is not there, and sometimes the process dies")
    channels = x.shape[1]
    attrs = {"epsilon": 0.01}
    if op == "BatchNormalization":
        ins = [
            b.like((channels,)),
            b.like((channels,)),
            b.like((channels,)),
            b.leaf((channels,), low=0.5, high=2),
        ]
    elif op == "InstanceNormalization":
        ins = [b.like((channels,)), b.like((channels,))]
    else:
        groups = b.rng.choice([g for g in (1, 2, 3, channels) if g and channels % g == 0] or [1])
        width = channels if b.opset >= 21 else groups
        ins = [b.like((width,)), b.like((width,))]
        attrs["num_groups"] = groups
    b.node(op, [x, *ins], keeps="round", **attrs)


@operators("LayerNormalization:17 RMSNormalization:23 MeanVarianceNormalization", weight=2)
def layer_norm(b: Builder, op: str) -> None:
    if op != "MeanVarianceNormalization" and b.world.float == np.float64:
        raise Unfit("its statistics are float32")
    x = b.value(rank=(2, 4))
    if op == "MeanVarianceNormalization":
        b.node(op, [x], keeps="round", axes=sorted(a % x.rank for a in b.axes(x.rank, least=1)))
        return
    axis = b.axis(x.rank) if b.maybe(0.4) else x.rank - 1
    shape = x.shape[axis:] if axis >= 0 else x.shape[axis + x.rank :]
    if b.maybe(0.1):
        shape = shape[1:] or (1,)
    ins = [x, b.like(shape), b.like(shape) if op == "LayerNormalization" and b.maybe(0.6) else None]
    outs = [True, True, True] if op == "LayerNormalization" and b.maybe(0.1) else [True]
    b.many(op, ins, outs, keeps="round", axis=axis, epsilon=0.01)


@operators("Resize", weight=1.5)
def resize(b: Builder, op: str) -> None:
    x = image(b, b.rng.choice([1, 2]))
    spatial = x.rank - 2
    mode = b.rng.choice(["nearest", "linear"])
    attrs = {
        "mode": mode,
        "coordinate_transformation_mode": b.rng.choice(["asymmetric", "half_pixel", "align_corners"]),
    }
    if mode == "nearest":
        attrs["nearest_mode"] = b.rng.choice(["floor", "round_prefer_floor"])
    head = [1.0, 1.0]
    if b.opset >= 18 and b.maybe(0.3):
        attrs["axes"], head = list(range(2, x.rank)), []
    keeps = "move" if mode == "nearest" else "round"
    if b.maybe(0.5):
        scales = b.steer([*head, *(b.rng.choice([1.0, 2.0, 0.5, 1.5]) for _ in range(spatial))], np.float32)
        b.node(op, [x, None, scales], keeps=keeps, **attrs)
    else:
        sizes = b.const([b.rng.randint(1, 6) for _ in range(spatial)])
        if head and b.maybe(0.5):
            sizes = b.const([*x.shape[:2], *sizes.arrays[0]])
        elif head:
            first = b.node("Slice", [b.node("Shape", [x]), b.const([0]), b.const([2])])
            sizes = b.node("Concat", [first, sizes], axis=0)
        b.node(op, [x, None, None, sizes], keeps=keeps, **attrs)


@operators("GridSample:16 AffineGrid:20 RoiAlign:16 Det", weight=0.8)
def geometry(b: Builder, op: str) -> None:
    if op == "GridSample":
        x = image(b, 2)
        grid = b.like((x.shape[0], b.dim(), b.dim(), 2), low=-1.5, high=1.5)
        b.node(op, [x, grid], keeps="round", align_corners=b.rng.choice([0, 1]))
    elif op == "AffineGrid":
        batch = b.rng.choice([1, 2, b.world.models])
        b.node(op, [b.like((batch, 2, 3)), b.const([batch, 1, 3, 2])], keeps="round")
    elif op == "RoiAlign":
        x = image(b, 2)
        if 0 in x.shape:
            raise Unfit("ONNX Runtime 1.32 reads what is not there, and sometimes the process dies")
        rois = b.leaf((2, 4), low=0, high=3, role=b.rng.choice(("shared weight", "input", "weight")))
        batch = b.leaf((2,), np.int64, low=0, high=max(0, x.shape[0] - 1), role="shared weight")
        b.node(op, [x, rois, batch], keeps="round", output_height=2, output_width=2)
    else:
        x = b.value(np.float32, (2, 4), fits=lambda v: v.shape[-1] == v.shape[-2])
        b.node(op, [x], keeps="round")


@operators("LSTM GRU RNN", weight=0.8)
def recurrent(b: Builder, op: str) -> None:
    x = b.value(rank=(3, 3), fits=lambda v: min(v.shape) > 0)  # ONNX Runtime 1.32 aborts on an empty batch
    length, batch, width = x.shape
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    both = b.rng.choice([1, 2])
    hidden = b.rng.choice([2, 3])
    stored = b.rng.choice(("weight", "shared weight"))
    w = b.leaf((both, gates * hidden, width), low=-1, high=1, role=stored)
    r = b.leaf((both, gates * hidden, hidden), low=-1, high=1, role=stored)
    bias = b.leaf((both, 2 * gates * hidden), low=-1, high=1, role=stored) if b.maybe(0.5) else None
    state = b.like((both, batch, hidden)) if b.maybe(0.3) else None
    lengths = b.leaf((batch,), np.int32, low=1, high=length) if length and b.maybe(0.2) else None
    direction = "bidirectional" if both == 2 else b.rng.choice(["forward", "reverse"])
    outs = [True, b.maybe(0.5), *([b.maybe(0.3)] if op == "LSTM" else [])]
    b.many(op, [x, w, r, bias, lengths, state], outs, keeps="round", hidden_size=hidden, direction=direction)


@operators("Attention:23 RotaryEmbedding:23 TensorScatter:24", weight=1)
def attention(b: Builder, op: str) -> None:
    heads, length, size = b.rng.choice([1, 2, b.world.models]), b.rng.choice([1, 2, 3]), 2
    batch = b.rng.choice([1, 2, b.world.models])
    if op == "Attention":
        k = b.like((batch, heads, 3, size))
        mask = (
            b.like(b.rng.choice([(length, 3), (1, 1, length, 3), (batch, 1, length, 3)]))
            if b.maybe(0.5)
            else None
        )
        ins = [b.like((batch, heads, length, size)), k, b.like((batch, heads, 3, size)), mask]
        b.node(op, ins, keeps="round", is_causal=int(mask is None and b.maybe(0.4)))
    elif op == "RotaryEmbedding":
        x = b.like((batch, heads, length, 4))
        where = b.leaf((batch, length), np.int64, low=0, high=4)
        b.node(op, [x, b.like((5, 2)), b.like((5, 2)), where], keeps="round")
    else:
        past = b.like((batch, heads, 4, 2))
        at = b.leaf((batch,), np.int64, low=0, high=4 - length)
        b.node(op, [past, b.like((batch, heads, length, 2)), at], axis=2)


@operators("MatMulInteger ConvInteger QLinearMatMul QLinearConv", weight=1)
def quantised(b: Builder, op: str) -> None:
    def scale() -> Value:
        return b.leaf((), np.float32, low=0.5, high=0.5, role=b.rng.choice(("weight", "shared weight")))

    def zero(kind: type) -> Value:
        return b.leaf((), kind, low=0, high=3, role=b.rng.choice(("weight", "shared weight", "input")))

    kind = b.rng.choice([np.uint8, np.int8])
    conv_ = op.endswith("Conv") or op.startswith("Conv")
    x = b.like((2, 2, 3, 3) if conv_ else b.dims(b.rng.choice([2, 3])), np.uint8, low=0, high=20)
    inner = x.shape[-1]
    if not inner:
        raise Unfit("ONNX Runtime 1.32 gives what was in memory")
    shape = (b.dim(), 2, 2, 2) if conv_ else (*x.shape[:-2][: b.rng.choice([0, 1])], inner, b.dim())
    w = b.like(shape, kind, low=0, high=9)
    if op.endswith("Integer"):
        points = [zero(np.uint8), zero(kind)][: b.rng.choice([0, 1, 2])]
        b.node(op, [x, w, *points], most=500)
    else:
        tail = [b.leaf((shape[0],), np.int32, role="weight")] if conv_ and b.maybe(0.5) else []
        b.node(op, [x, scale(), zero(np.uint8), w, scale(), zero(kind), scale(), zero(np.uint8), *tail])


@operators("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss", weight=0.5)
def loss(b: Builder, op: str) -> None:
    x = b.value(rank=(2, 4))
    classes = x.shape[1]
    if not classes:
        raise Unfit("no classes")
    labels = b.leaf((x.shape[0], *x.shape[2:]), np.int64, low=0, high=classes - 1)
    weights = b.like((classes,), low=0.25, high=2) if b.maybe(0.4) else None
    ignored = b.rng.randrange(classes) if b.maybe(0.3) else None
    b.node(op, [x, labels, weights], keeps="round", ignore_index=ignored,
           reduction=b.rng.choice(["none", "mean", "sum"]))  # fmt: skip


@operators("DFT:17 STFT:17", weight=0.4)
def signal(b: Builder, op: str) -> None:
    if op == "STFT":
        x = b.like((b.rng.choice([1, 2, b.world.models]), 8, 1), np.float32)
        window = b.like((4,), np.float32) if b.maybe(0.5) else None
        b.node(op, [x, b.const(2), window, b.const(4)], keeps="round", onesided=b.rng.choice([None, 0, 1]))
        return
    x = b.like((*b.dims(b.rng.choice([2, 3])), 1), np.float32)
    axis = b.rng.randrange(1, x.rank - 1)
    if b.opset >= 20:
        b.node(op, [x, None, b.const(axis)], keeps="round", onesided=b.rng.choice([0, 1]))
    else:
        b.node(op, [x], keeps="round", axis=axis, onesided=b.rng.choice([0, 1]))


@operators("Gelu:15 FastGelu:15 QuickGelu:15 BiasGelu:15 FusedMatMul:15", weight=0.6)
def contrib(b: Builder, op: str) -> None:
    x = b.value(np.float32, (2, 4))
    if op == "BiasGelu":
        b.node(op, [x, b.like(x.shape[-1:], np.float32)], keeps="round", domain=MICROSOFT)
    elif op == "FusedMatMul":
        w = b.like((b.dim(), x.shape[-1]), np.float32)
        b.node(op, [x, w], keeps="round", domain=MICROSOFT, transB=1, alpha=0.5)
    else:
        b.node(op, [x], keeps="round", domain=MICROSOFT)


@operators("Scaler:15 Normalizer:15 Binarizer:15 LinearRegressor:15", weight=0.4)
def tabular(b: Builder, op: str) -> None:
    x = b.value(np.float32, (2, 2), exact=op == "Binarizer")
    width = x.shape[1]
    attrs = {
        "Scaler": {"offset": [0.5] * width, "scale": [2.0 + k for k in range(width)]},
        "Normalizer": {"norm": "L1"},
        "Binarizer": {"threshold": 0.25},
        "LinearRegressor": {"coefficients": [0.5 * k for k in range(width)], "intercepts": [1.0]},
    }[op]
    b.node(op, [x], keeps="move" if op == "Binarizer" else "round", domain=ML, **attrs)
