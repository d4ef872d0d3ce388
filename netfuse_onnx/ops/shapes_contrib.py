"""The shape functions of ONNX Runtime's own operators. Importing this registers them (see shapes.py)."""

from __future__ import annotations

from netfuse_onnx.ops.shapes import (
    FLOAT,
    INT32,
    SHAPES,
    Call,
    Kinds,
    Shape,
    Unknown,
    broadcast,
    known_to_onnx,
    moved,
    part,
    plus,
    product,
    shape,
    standard,
    swapped,
    times,
)
from netfuse_onnx.types import Dim, ValueType

__all__ = ["SHAPES", "known_to_onnx"]

# --------------------------------------------------------------------------- element by element


@shape(
    "BiasDropout", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "GemmaRotaryEmbedding", "Inverse",
    "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QuickGelu", "RotaryEmbedding", "Trilu",
)  # fmt: skip
def as_input(call: Call) -> Kinds:
    """The type and shape of input 0."""
    return [call.kind(0)] * 2


@shape("QuantizeLinear")
def quantised(call: Call) -> Kinds:
    return [ValueType(call.kind(2).dtype, call.kind(0).dims)]


@shape("DequantizeLinear")
def dequantised(call: Call) -> Kinds:
    return [ValueType(call.kind(1).dtype, call.kind(0).dims)]


def _broadcast(*places: int) -> Shape:
    """The shape function of an operator whose inputs at these places broadcast; the last has its type."""
    return lambda call: [ValueType(call.kind(places[-1]).dtype, broadcast(*map(call.dims, places)))]


shape("QLinearAdd", "QLinearMul")(_broadcast(0, 3))
shape("QLinearWhere")(_broadcast(0, 1, 4))


@shape("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_norm(call: Call) -> Kinds:
    x = call.kind(0)
    statistic = ValueType(FLOAT, (*call.dims(0)[:-1], 1))
    return [x, statistic, statistic, x]


@shape(".LayerNormalization", ".SimplifiedLayerNormalization")
def norm(call: Call) -> Kinds:
    """ONNX Runtime writes these into the default domain at any opset."""
    dims = call.dims(0)
    first = int(call.attr("axis", -1)) % max(len(dims), 1)
    statistic = ValueType(FLOAT, (*dims[:first], *(1,) * (len(dims) - first)))
    return [call.kind(0), statistic, statistic]


# --------------------------------------------------------------------------- products


@shape("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
def fused_matmul(call: Call) -> Kinds:
    sides = []
    for i, side in enumerate("AB"):
        dims = call.dims(i)
        if len(dims) > 1 and call.attr(f"transBatch{side}", 0):
            dims = (*dims[1:-1], dims[0], dims[-1])
        if len(dims) > 1 and call.attr(f"trans{side}", 0):
            dims = swapped(dims)
        sides.append(dims)
    return [ValueType(call.kind(0).dtype, product(*sides))]


def _product(dtype: int) -> Shape:
    return lambda call: [ValueType(dtype, product(call.dims(0), call.dims(1)))]


shape("DynamicQuantizeMatMul", "MatMulIntegerToFloat")(_product(FLOAT))
shape("MatMulInteger16")(_product(INT32))


@shape("MatMulBnb4", "MatMulNBits")
def packed_product(call: Call) -> Kinds:
    return [ValueType(call.kind(0).dtype, (*call.dims(0)[:-1], int(call.attr("N"))))]


def _of_two(op: str) -> Shape:
    """The shape function of a standard operator on inputs 0 and 1."""
    return lambda call: [standard(op, [call.kind(0), call.kind(1)], call.attrs)]


shape("FusedGemm", "GemmFastGelu")(_of_two("Gemm"))
shape("FusedConv", "com.microsoft.nchwc.Conv")(_of_two("Conv"))


@shape("QGemm")
def quantised_gemm(call: Call) -> Kinds:
    rows, cols = call.dims(0, 2), call.dims(3, 2)
    dtype = call.kind(0).dtype if call.has(7) else FLOAT
    return [
        ValueType(dtype, (rows[1 if call.attr("transA", 0) else 0], cols[0 if call.attr("transB", 0) else 1]))
    ]


# --------------------------------------------------------------------------- images


def _image(op: str, call: Call, *more: ValueType, last: bool = False) -> Kinds:
    """A standard operator on floats, with channels last where the attribute or the caller says so."""
    last = last or bool(call.attr("channels_last", 0))
    dims = moved(call.dims(0), last=False) if last else call.dims(0)
    inferred = standard(op, [ValueType(FLOAT, dims), *more], call.attrs)
    if inferred.dims is None:
        raise Unknown
    return [ValueType(call.kind(0).dtype, moved(inferred.dims, last=True) if last else inferred.dims)]


@shape("QLinearConv")
def quantised_conv(call: Call) -> Kinds:
    return _image("Conv", call, ValueType(FLOAT, call.dims(3)))


shape("QLinearAveragePool")(lambda call: _image("AveragePool", call))
shape("QLinearGlobalAveragePool")(lambda call: _image("GlobalAveragePool", call))
shape("NhwcMaxPool")(lambda call: _image("MaxPool", call, last=True))


@shape("QLinearConcat")
def quantised_concat(call: Call) -> Kinds:
    parts = [ValueType(FLOAT, call.dims(i)) for i in range(2, len(call.inputs), 3)]
    return [ValueType(call.kind(1).dtype, standard("Concat", parts, call.attrs).dims)]


@shape("QLinearReduceMean")
def quantised_mean(call: Call) -> Kinds:
    dims = call.dims(0)
    axes = {a % len(dims) for a in call.attr("axes", range(len(dims)))}
    keep = bool(call.attr("keepdims", 1))
    kept = tuple(1 if a in axes else d for a, d in enumerate(dims) if keep or a not in axes)
    return [ValueType(call.kind(0).dtype, kept)]


# --------------------------------------------------------------------------- channels in blocks

NCHWC = "com.microsoft.nchwc."
CHANNEL_BLOCK = 16
"""ONNX Runtime's CPU convolutions run on blocks of so many channels, or of 8 on smaller machines."""


def _blocked(channels: Dim) -> Dim:
    """Channels are padded to whole blocks of 8 or 16, by machine."""
    return channels if isinstance(channels, int) and channels % CHANNEL_BLOCK == 0 else None


@shape(f"{NCHWC}MaxPool", f"{NCHWC}AveragePool", f"{NCHWC}GlobalMaxPool", f"{NCHWC}GlobalAveragePool")
def blocked_pool(call: Call) -> Kinds:
    batch, channels, *sizes = call.dims(0, 4)
    kernel = call.attr("kernel_shape")
    if kernel is None:
        return [ValueType(call.kind(0).dtype, (batch, channels, *[1] * len(sizes)))]
    return [standard("MaxPool", [call.kind(0)], call.attrs)]


@shape(f"{NCHWC}Upsample")
def blocked_upsample(call: Call) -> Kinds:
    scales = [int(v) for v in call.attr("scales")]
    return [
        ValueType(call.kind(0).dtype, tuple(times(d, s) for d, s in zip(call.dims(0), scales, strict=True)))
    ]


@shape(f"{NCHWC}ReorderInput")
def into_blocks(call: Call) -> Kinds:
    dims = moved(call.dims(0), last=False) if call.attr("channels_last", 0) else call.dims(0)
    return [ValueType(call.kind(0).dtype, (dims[0], _blocked(dims[1]), *dims[2:]))]


@shape(f"{NCHWC}ReorderOutput")
def out_of_blocks(call: Call) -> Kinds:
    dims = (call.dims(0)[0], int(call.attr("channels")), *call.dims(0)[2:])
    return [ValueType(call.kind(0).dtype, moved(dims, last=True) if call.attr("channels_last", 0) else dims)]


# --------------------------------------------------------------------------- attention


def _present(batch: Dim, heads: int, past: Dim, now: Dim, size: Dim) -> tuple[Dim, ...]:
    return (batch, heads, plus(past, now), size)


@shape("Attention", "QAttention")
def attention(call: Call) -> Kinds:
    """input [B, S, D], weights [D, Q+K+V] -> [B, S, V], present [2, B, heads, past + S, head]"""
    batch, length, _ = call.dims(0, 3)
    wide = call.dims(1, 2)[1]
    sizes = call.attr("qkv_hidden_sizes")
    hidden: Dim = int(sizes[2]) if sizes else part(wide, 3)
    heads = int(call.attr("num_heads"))
    past = call.kind(8 if call.kind(0).dtype != FLOAT and len(call.inputs) > 7 else 4)
    before: Dim = past.dims[3] if past.dims and len(past.dims) == 5 else 0
    dtype = call.kind(2).dtype or FLOAT
    present = (2, *_present(batch, heads, before, length, part(hidden, heads)))
    return [ValueType(dtype, (batch, length, hidden)), ValueType(dtype, present)]


@shape("MultiHeadAttention")
def multi_head(call: Call) -> Kinds:
    """query [B, S, H] with key and value apart, packed, or [B, heads, L, head] -> [B, S, V]"""
    query, dtype, heads = call.dims(0), call.kind(0).dtype, int(call.attr("num_heads"))
    hidden: Dim = None
    if len(query) == 5:  # [B, S, heads, 3, head]
        size, now = query[4], query[1]
    elif not call.has(2):  # key [B, L, heads, 2, head]
        size, now = call.dims(1, 5)[4], call.dims(1)[1]
    elif len(call.dims(2)) == 4:
        size, now = call.dims(2)[3], call.dims(2)[2]
    else:
        hidden, now = call.dims(2, 3)[2], call.dims(2)[1]
        size = part(hidden, heads)
    hidden = hidden or times(size, heads)
    past: Dim = call.dims(6, 4)[2] if call.has(6) else 0
    cache = ValueType(dtype, _present(query[0], heads, past, now, size))
    scores = ValueType(dtype, (query[0], heads, query[1], plus(past, now)))
    return [ValueType(dtype, (query[0], query[1], hidden)), cache, cache, scores]


@shape("GroupQueryAttention")
def grouped_queries(call: Call) -> Kinds:
    """query [B, S, H], packed with key and value where those are absent -> [B, S, H]"""
    batch, length, hidden = call.dims(0, 3)
    heads, shared = int(call.attr("num_heads")), int(call.attr("kv_num_heads"))
    size = part(hidden, heads if call.has(1) else heads + 2 * shared)
    out = ValueType(call.kind(0).dtype, (batch, length, times(size, heads)))
    past = call.kind(3).dims
    kind = call.kind(3).dtype or call.kind(0).dtype
    now = length if past is None else None  # past may be a buffer of the whole length, or what came before
    cache = ValueType(kind, (batch, shared, now, past[3] if past and len(past) == 4 else size))
    return [out, cache, cache]


@shape("EmbedLayerNormalization")
def embed_norm(call: Call) -> Kinds:
    batch, length = call.dims(0, 2)
    out = ValueType(call.kind(2).dtype, (batch, length, call.dims(2, 2)[1]))
    return [out, ValueType(INT32, (batch,)), out]


@shape("QEmbedLayerNormalization")
def quantised_embed_norm(call: Call) -> Kinds:
    return [ValueType(FLOAT, (*call.dims(0, 2), call.dims(2, 2)[1])), ValueType(INT32, call.dims(0, 2)[:1])]


# --------------------------------------------------------------------------- the rest


@shape("DynamicQuantizeLSTM")
def quantised_lstm(call: Call) -> Kinds:
    steps, batch, _ = call.dims(0, 3)
    both = call.dims(1, 3)[0]
    hidden = int(call.attr("hidden_size"))
    state = ValueType(FLOAT, (both, batch, hidden))
    return [ValueType(FLOAT, (steps, both, batch, hidden)), state, state]


@shape("GatherBlockQuantized")
def gather_blocks(call: Call) -> Kinds:
    data, axis = call.dims(0), int(call.attr("gather_axis", 0)) % len(call.dims(0))
    if call.kind(0).dtype == 2 and call.has(2):  # bytes that hold several elements
        per = 8 // int(call.attr("bits", 4))
        last = int(call.attr("quantize_axis", 1)) % len(data)
        data = tuple(times(d, per) if a == last else d for a, d in enumerate(data))
    return [ValueType(call.kind(2).dtype, (*data[:axis], *call.dims(1), *data[axis + 1 :]))]


@shape("CDist")
def distances(call: Call) -> Kinds:
    return [ValueType(call.kind(0).dtype, (call.dims(0, 2)[0], call.dims(1, 2)[0]))]


@shape("GridSample")
def grid_sample(call: Call) -> Kinds:
    grid = call.dims(1, 4)
    return [ValueType(call.kind(0).dtype, (*call.dims(0, 4)[:2], *grid[1:3]))]


@shape("GatherND")
def gather_nd(call: Call) -> Kinds:
    return [standard("GatherND", [call.kind(0), ValueType(7, call.dims(1))], {})]
