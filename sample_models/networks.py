"""Networks written node by node with onnx and NumPy alone: an encoder, a decoder's step, a small CNN.

The graphs have the operators that torch's exporters write for such networks, and weights under the names that
the modules of transformers have. A product's weight is `[in, out]`, as an exporter stores it for MatMul.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET, IR_VERSION = 18, 10
CLASSES = 10


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of a transformer. Of a CNN, `hidden` is the channels of its first stage, `layers` its stages."""

    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int
    positions: int = 512


SIZES = {
    "tiny": Size(2, 32, 4, 64, 99, 64),
    "small": Size(4, 256, 4, 1024, 8192),
    "base": Size(12, 768, 12, 3072, 30522),
}


class Builder:
    """Collects the nodes and weights of one graph. Weights are drawn in the order of the calls."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output, and return the name of the output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: object, dtype: type = np.int64) -> str:
        array: np.ndarray[Any, Any] = np.asarray(value, dtype)
        name = f"{array.dtype.name}_{'_'.join(map(str, array.reshape(-1)))}_{array.ndim}"
        self.weights.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, shape: Sequence[int], spread: float, mean: float = 0.0) -> str:
        values = mean + spread * self.draw.standard_normal(tuple(shape), np.float32)
        self.weights[name] = numpy_helper.from_array(values.astype(np.float32), name)
        return name

    def linear(self, x: str, module: str, width: int, out: int, *, bias: bool = True) -> str:
        """`..K, KO (+ O) -> ..O`."""
        y = self.op("MatMul", x, self.weight(f"{module}.weight", (width, out), width**-0.5))
        return self.op("Add", y, self.weight(f"{module}.bias", (out,), 0.1)) if bias else y

    def norm(self, x: str, module: str, width: int) -> str:
        scale = self.weight(f"{module}.weight", (width,), 0.1, 1.0)
        shift = self.weight(f"{module}.bias", (width,), 0.1)
        return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)

    def split_heads(self, x: str, heads: int, width: int) -> str:
        """`BS(hd) -> BhSd`."""
        shaped = self.op("Reshape", x, self.constant([0, 0, heads, width // heads]))
        return self.op("Transpose", shaped, perm=[0, 2, 1, 3])

    def attend(self, q: str, k: str, v: str, width: int, heads: int, mask: str = "") -> str:
        """`BhSd, BhTd, BhTd -> BS(hd)`."""
        keys = self.op("Transpose", k, perm=[0, 1, 3, 2])
        scores = self.op("MatMul", q, keys)
        scores = self.op("Div", scores, self.constant((width // heads) ** 0.5, np.float32))
        scores = self.op("Add", scores, mask) if mask else scores
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        return self.op(
            "Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.constant([0, 0, width])
        )

    def model(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[tuple[str, str, list[int | str]]]
    ) -> ModelProto:
        """The finished model; an output is a value, its name in the file, and its dims."""
        for value, name, _ in outputs:
            self.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for _, name, dims in outputs]
        graph = helper.make_graph(self.nodes, "network", list(inputs), infos, list(self.weights.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _input(name: str, kind: int, *dims: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def encoder(size: Size, seed: int = 0) -> ModelProto:
    """A BERT-like classifier: `input_ids`, `attention_mask` [B, S] -> `logits` [B, 10]."""
    b, width = Builder(seed), size.hidden
    x = b.op(
        "Gather", b.weight("embeddings.word_embeddings.weight", (size.vocabulary, width), 0.5), "input_ids"
    )
    table = b.weight("embeddings.position_embeddings.weight", (1, size.positions, width), 0.5)
    length = b.op("Shape", "input_ids", start=1, end=2)
    x = b.op("Add", x, b.op("Slice", table, b.constant([0]), length, b.constant([1])))
    x = b.norm(x, "embeddings.LayerNorm", width)
    seen = b.op("Cast", b.op("Unsqueeze", "attention_mask", b.constant([1, 2])), to=TensorProto.FLOAT)
    hidden = b.op("Sub", b.constant(1, np.float32), seen)
    mask = b.op("Mul", hidden, b.constant(-10000, np.float32))
    for layer in range(size.layers):
        x = _encoder_layer(b, x, f"encoder.layer.{layer}", size, mask)
    first = b.op("Gather", x, b.constant(0), axis=1)
    pooled = b.op("Tanh", b.linear(first, "pooler.dense", width, width))
    logits = b.linear(pooled, "classifier", width, CLASSES)
    inputs = [
        _input(name, TensorProto.INT64, "batch", "sequence") for name in ("input_ids", "attention_mask")
    ]
    return b.model(inputs, [(logits, "logits", ["batch", CLASSES])])


def _encoder_layer(b: Builder, x: str, name: str, size: Size, mask: str) -> str:
    width, own = size.hidden, f"{name}.attention.self"
    q, k, v = (
        b.split_heads(b.linear(x, f"{own}.{part}", width, width), size.heads, width)
        for part in ("query", "key", "value")
    )
    mixed = b.attend(q, k, v, width, size.heads, mask)
    out = b.linear(mixed, f"{name}.attention.output.dense", width, width)
    x = b.norm(b.op("Add", out, x), f"{name}.attention.output.LayerNorm", width)
    h = b.linear(x, f"{name}.intermediate.dense", width, size.inner)
    erf = b.op("Erf", b.op("Div", h, b.constant(2**0.5, np.float32)))
    half = b.op("Mul", h, b.op("Add", erf, b.constant(1, np.float32)))
    h = b.op("Mul", half, b.constant(0.5, np.float32))
    out = b.linear(h, f"{name}.output.dense", size.inner, width)
    return b.norm(b.op("Add", out, x), f"{name}.output.LayerNorm", width)


def decoder(size: Size, seed: int = 0) -> ModelProto:
    """One step of a Llama-like decoder: `input_ids` [B, 1], keys and values of each layer [B, h, past, d] ->
    `logits` [B, 1, vocabulary], the longer keys and values."""
    b, width = Builder(seed), size.hidden
    head = width // size.heads
    x = b.op("Gather", b.weight("model.embed_tokens.weight", (size.vocabulary, width), 0.5), "input_ids")
    place = b.op("Cast", b.op("Shape", "past.0.key", start=2, end=3), to=TensorProto.FLOAT)
    angles = b.op("Mul", place, b.constant(10000.0 ** (-np.arange(0, head, 2) / head), np.float32))
    turn = b.op("Concat", angles, angles, axis=0)
    cosine, sine = b.op("Cos", turn), b.op("Sin", turn)
    dims: list[int | str] = ["batch", size.heads, "past", head]
    inputs = [_input("input_ids", TensorProto.INT64, "batch", 1)]
    outputs: list[tuple[str, str, list[int | str]]] = []
    for layer in range(size.layers):
        x, *cache = _decoder_layer(b, x, layer, size, (cosine, sine))
        for part, grown in zip(("key", "value"), cache, strict=True):
            inputs.append(_input(f"past.{layer}.{part}", TensorProto.FLOAT, *dims))
            outputs.append((grown, f"present.{layer}.{part}", ["batch", size.heads, "past + 1", head]))
    logits = b.linear(_rms(b, x, "model.norm", width), "lm_head", width, size.vocabulary, bias=False)
    return b.model(inputs, [(logits, "logits", ["batch", 1, size.vocabulary]), *outputs])


def _rms(b: Builder, x: str, module: str, width: int) -> str:
    mean = b.op("ReduceMean", b.op("Mul", x, x), b.constant([-1]), keepdims=1)
    root = b.op("Sqrt", b.op("Add", mean, b.constant(1e-6, np.float32)))
    return b.op("Mul", b.op("Div", x, root), b.weight(f"{module}.weight", (width,), 0.1, 1.0))


def _rotate(b: Builder, x: str, turn: tuple[str, str], head: int) -> str:
    """Rotary positions: `x cos + (-x2, x1) sin`, on the last axis."""
    low, high = (
        b.op("Slice", x, b.constant([start]), b.constant([start + head // 2]), b.constant([3]))
        for start in (0, head // 2)
    )
    turned = b.op("Concat", b.op("Neg", high), low, axis=-1)
    return b.op("Add", b.op("Mul", x, turn[0]), b.op("Mul", turned, turn[1]))


def _decoder_layer(b: Builder, x: str, layer: int, size: Size, turn: tuple[str, str]) -> tuple[str, str, str]:
    name, width, head = f"model.layers.{layer}", size.hidden, size.hidden // size.heads
    y = _rms(b, x, f"{name}.input_layernorm", width)
    q, k, v = (
        b.split_heads(
            b.linear(y, f"{name}.self_attn.{part}_proj", width, width, bias=False), size.heads, width
        )
        for part in "qkv"
    )
    q, k = _rotate(b, q, turn, head), _rotate(b, k, turn, head)
    k = b.op("Concat", f"past.{layer}.key", k, axis=2)
    v = b.op("Concat", f"past.{layer}.value", v, axis=2)
    mixed = b.attend(q, k, v, width, size.heads)
    x = b.op("Add", x, b.linear(mixed, f"{name}.self_attn.o_proj", width, width, bias=False))
    y = _rms(b, x, f"{name}.post_attention_layernorm", width)
    gate = b.linear(y, f"{name}.mlp.gate_proj", width, size.inner, bias=False)
    up = b.linear(y, f"{name}.mlp.up_proj", width, size.inner, bias=False)
    y = b.op("Mul", b.op("Mul", gate, b.op("Sigmoid", gate)), up)
    down = b.linear(y, f"{name}.mlp.down_proj", size.inner, width, bias=False)
    return b.op("Add", x, down), k, v


def cnn(size: Size, seed: int = 0) -> ModelProto:
    """A residual network for small images: `image` [B, 3, H, W] -> `logits` [B, 10]."""
    b, channels = Builder(seed), size.hidden
    x = _conv(b, "image", "conv1", 3, channels, 3, 1)
    x = b.op("Relu", x)
    for stage in range(size.layers):
        wide = channels * (2 if stage else 1)
        name, step = f"layer{stage + 1}.0", 2 if stage else 1
        y = b.op("Relu", _conv(b, x, f"{name}.conv1", channels, wide, 3, step))
        y = _conv(b, y, f"{name}.conv2", wide, wide, 3, 1)
        x = b.op("Relu", b.op("Add", y, _conv(b, x, f"{name}.downsample.0", channels, wide, 1, step)))
        channels = wide
    pooled = b.op("Flatten", b.op("GlobalAveragePool", x))
    weight = b.weight("fc.weight", (CLASSES, channels), channels**-0.5)
    logits = b.op("Gemm", pooled, weight, b.weight("fc.bias", (CLASSES,), 0.1), transB=1)
    image = _input("image", TensorProto.FLOAT, "batch", 3, "height", "width")
    return b.model([image], [(logits, "logits", ["batch", CLASSES])])


def _conv(b: Builder, x: str, module: str, channels: int, out: int, side: int, step: int) -> str:
    """`NCHW, OCkk -> NOHW`, with a bias, in which an exporter folds the normalisation."""
    filters = b.weight(f"{module}.weight", (out, channels, side, side), (2 / (channels * side**2)) ** 0.5)
    sizes: dict[str, Any] = {"kernel_shape": [side, side], "pads": [side // 2] * 4, "strides": [step, step]}
    return b.op("Conv", x, filters, b.weight(f"{module}.bias", (out,), 0.1), **sizes)


NETWORKS: dict[str, Callable[[Size, int], ModelProto]] = {"encoder": encoder, "decoder": decoder, "cnn": cnn}
