"""ONNX Runtime's fused operators: products, convolutions, activations, normalisations."""

import numpy as np
import pytest
from contrib_graphs import graph, shapes_agree
from oracle import check, draw, sweep

OPS = (
    "SimplifiedLayerNormalization",
    *(f"com.microsoft.{op}" for op in (
        "BiasGelu", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu",
        "QuickGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "TransposeMatMul",
    )),
)  # fmt: skip
SIZES = {"B": 3, "S": 4, "H": 5}


def agree(model, **options):
    """What the shape functions say is what a run gives."""
    values = draw(model, 1, **options)
    shapes_agree(model, {name: value[0] for name, value in values.items()}, options.get("sizes") or {})


def both(model, folder, **options):
    agree(model, **{k: v for k, v in options.items() if k in ("sizes", "low", "high", "given")})
    sweep(model, folder, **options)


# ------------------------------------------------------------------------ activations


@pytest.mark.parametrize("x", ["3", "2,3,4", "B,S", "0,4"])
@pytest.mark.parametrize("call", ["Gelu(x)", "QuickGelu(x)", "QuickGelu<alpha = 0.5>(x)", "FastGelu(x)"])
def test_gelu(call, x, tmp_path):
    both(graph(f"float[{x}] x", f"y = com.microsoft.{call}"), tmp_path, sizes=SIZES)


@pytest.mark.parametrize("x", ["4", "3,4", "2,3,4", "B,S,4", "2,3,3,4"])
@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_biased_gelu(op, x, tmp_path):
    both(graph(f"float[{x}] x, float[4] b", f"y = com.microsoft.{op}(x, b)"), tmp_path, sizes=SIZES)


# ------------------------------------------------------------------------ convolutions


@pytest.mark.parametrize(
    "attributes",
    ['activation = "Relu"', 'activation = "LeakyRelu", activation_params = [0.2]',
     'activation = "Clip", activation_params = [-0.5, 1.0], pads = [1, 1, 1, 1]',
     'activation = "HardSigmoid", activation_params = [0.3, 0.4], strides = [2, 1]', 'activation = "Tanh"'],
)  # fmt: skip
def test_fused_conv(attributes, tmp_path):
    model = graph("float[2,3,5,4] x, float[4,3,2,2] w", f"y = com.microsoft.FusedConv<{attributes}>(x, w)")
    both(model, tmp_path)


@pytest.mark.parametrize(("w", "group"), [("4,3,1", 1), ("3,1,2", 3)])
def test_fused_conv_with_a_sum(w, group, tmp_path):
    filters = int(w[0])
    out = 5 if w[-1] == "1" else 4
    model = graph(
        f"float[B,3,5] x, float[{w}] w, float[{filters}] b, float[B,{filters},{out}] z",
        f'y = com.microsoft.FusedConv<activation = "Relu", group = {group}>(x, w, b, z)',
    )
    both(model, tmp_path, sizes=SIZES)


@pytest.mark.parametrize("activation", ['"Relu"', '"LeakyRelu", activation_params = [0.2]', '"Tanh"'])
def test_fused_conv_of_a_point_of_one_image(activation, tmp_path):
    """For CUDA it may be a product, with the bias, the sum and the activation apart."""
    model = graph(
        "float[1,3,4,5] x, float[4,3,1,1] w, float[4] b, float[1,4,4,5] z",
        f"y = com.microsoft.FusedConv<activation = {activation}>(x, w, b, z)",
    )
    both(model, tmp_path)


# ------------------------------------------------------------------------ products


@pytest.mark.parametrize(
    ("a", "b"), [("3,4", "4,2"), ("2,3,4", "4,3"), ("B,3,4", "B,4,2"), ("3,2,4", "2,3,4,2"), ("2,3,3,4", "2,3,4,2"),
                 ("4", "4,2"), ("2,3,4", "4")]
)  # fmt: skip
@pytest.mark.parametrize("alpha", [1.0, 0.125])
def test_fused_matmul(a, b, alpha, tmp_path):
    model = graph(f"float[{a}] a, float[{b}] b", f"y = com.microsoft.FusedMatMul<alpha = {alpha}>(a, b)")
    both(model, tmp_path, sizes=SIZES)


@pytest.mark.parametrize(
    ("a", "b", "attributes"),
    [("4,3", "4,2", "transA = 1"), ("3,4", "2,4", "transB = 1"), ("3,4,2", "3,5,4", "transA = 1, transB = 1"),
     ("2,3,4", "5,4", "transB = 1, alpha = 0.5"), ("2,4,3", "3,2,4,5", "transA = 1"), ("4", "2,4", "transB = 1"),
     ("3,2,4", "2,4,5", "transBatchA = 1"), ("3,2,4", "5,2,4", "transBatchA = 1, transBatchB = 1, transB = 1"),
     ("4,2,3", "4,2,5", "transBatchA = 1, transBatchB = 1, transA = 1")],
)  # fmt: skip
def test_fused_matmul_transposed(a, b, attributes, tmp_path):
    both(graph(f"float[{a}] a, float[{b}] b", f"y = com.microsoft.FusedMatMul<{attributes}>(a, b)"), tmp_path)


def test_fused_matmul_of_doubles(tmp_path):
    model = graph(
        "double[2,3,4] a, double[2,4] b", "y = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(a, b)"
    )
    check(model, draw(model, 3), {"a": "input", "b": "weight"}, tmp_path)


def test_transpose_matmul(tmp_path):
    both(graph("float[4,3] a, float[4,2] b", "y = com.microsoft.TransposeMatMul<transA = 1>(a, b)"), tmp_path)


@pytest.mark.parametrize(
    "activation",
    ['"Relu"', '"LeakyRelu", activation_alpha = 0.2', '"Tanh"', '"Sigmoid"', '"Softplus"',
     '"HardSigmoid", activation_alpha = 0.3, activation_beta = 0.4', '"Elu", activation_alpha = 0.7'],
)  # fmt: skip
def test_fused_gemm(activation, tmp_path):
    text = f"y = com.microsoft.FusedGemm<activation = {activation}, transB = 1, alpha = 0.5>(a, b, c)"
    both(graph("float[B,3] a, float[4,3] b, float[4] c", text), tmp_path, sizes=SIZES)


def test_fused_gemm_without_a_bias(tmp_path):
    both(
        graph("float[2,3] a, float[3,4] b", 'y = com.microsoft.FusedGemm<activation = "Relu">(a, b)'),
        tmp_path,
    )


# ------------------------------------------------------------------------ normalisations


@pytest.mark.parametrize("opset", [14, 17, 23])
@pytest.mark.parametrize("x", ["2,3,4", "B,S,4", "3,4"])
@pytest.mark.parametrize(("op", "more"), [("SkipLayerNormalization", "g"), ("SkipLayerNormalization", "gb"),
                                          ("SkipSimplifiedLayerNormalization", "g")])  # fmt: skip
def test_skip_norm(op, more, x, opset, tmp_path):
    inputs = "".join(f", float[4] {name}" for name in more)
    call = f"com.microsoft.{op}<epsilon = 0.01>(x, z, {', '.join(more)})"
    model = graph(f"float[{x}] x, float[{x}] z{inputs}", f"y = {call}", opset)
    both(model, tmp_path, sizes=SIZES, keep_opset=True)


@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize(("op", "names"), [("SkipLayerNormalization", "x, z, g, b, c"), ("SkipLayerNormalization", "x, z, g, , c"),
                                           ("SkipSimplifiedLayerNormalization", "x, z, g, c")])  # fmt: skip
def test_skip_norm_with_a_bias_that_gives_its_sum(op, names, opset, tmp_path):
    inputs = "".join(f", float[4] {name}" for name in "gbc" if name in names)
    model = graph(f"float[B,3,4] x, float[B,3,4] z{inputs}", f"y, , , s = com.microsoft.{op}({names})", opset)
    both(model, tmp_path, sizes=SIZES, keep_opset=True, alike="s")


@pytest.mark.parametrize("z", ["3,4", "1,3,4"])
def test_skip_norm_that_broadcasts(z, tmp_path):
    text = f"float[2,3,4] x, float[{z}] z, float[4] g, float[4] b"
    model = graph(text, "y = com.microsoft.SkipLayerNormalization(x, z, g, b)")
    both(model, tmp_path)
    role = {"x": "input", "z": "shared weight", "g": "shared weight", "b": "shared weight"}
    check(model, draw(model, 3), role, tmp_path)


@pytest.mark.parametrize("opset", [14, 17])
def test_simplified_norm(opset, tmp_path):
    """ONNX Runtime has it in the default domain, where no standard knows it."""
    for axis in (-1, 1):
        scale = "4" if axis == -1 else "3,4"
        model = graph(
            f"float[2,3,4] x, float[{scale}] g",
            f"y = SimplifiedLayerNormalization<axis = {axis}>(x, g)",
            opset,
        )
        both(model, tmp_path, keep_opset=True)


def test_layer_norm_before_the_standard_had_it(tmp_path):
    model = graph("float[2,3,4] x, float[4] g, float[4] b", "y = LayerNormalization<axis = -1>(x, g, b)", 14)
    both(model, tmp_path, keep_opset=True)


# ------------------------------------------------------------------------ embeddings

TABLES = {"w": "7,4", "p": "6,4", "s": "2,4", "g": "4", "b": "4"}


def embedding(opset=17, *, mask=False, ids=False, outs="y, c"):
    tables = "".join(f", float[{dims}] {name}" for name, dims in TABLES.items())
    extra = (", int32[B,S] m" if mask else "") + (", int32[B,S] q" if ids else "")
    names = "i, t, w, p, s, g, b" + (", m" if mask else ", " if ids else "") + (", q" if ids else "")
    call = f"{outs} = com.microsoft.EmbedLayerNormalization<epsilon = 0.01>({names})"
    return graph(f"int32[B,S] i, int32[B,S] t{tables}{extra}", call, opset)


def embedding_values(model, n):
    rng = np.random.default_rng(n)
    values = draw(model, n, sizes=SIZES)
    for name, high in (("i", 7), ("t", 2), ("m", 2), ("q", 6)):
        if name in values:
            values[name] = rng.integers(0, high, values[name].shape).astype(np.int32)
    return values


@pytest.mark.parametrize("opset", [14, 17])
@pytest.mark.parametrize("tables", ["weight", "shared weight"])
@pytest.mark.parametrize("fed", ["input", "shared input"])
@pytest.mark.parametrize("form", [{}, {"mask": True}, {"ids": True}, {"mask": True, "outs": "y, c, e"},
                                  {"outs": "y, c, e"}])  # fmt: skip
def test_embedding(form, fed, tables, opset, tmp_path):
    if (fed, tables) == ("shared input", "shared weight"):
        return
    model = embedding(opset, **form)
    values = embedding_values(model, 3)
    shapes_agree(model, {name: value[0] for name, value in values.items()}, SIZES)
    role = {name: tables if name in TABLES else fed for name in values}
    check(model, values, role, tmp_path, keep_opset=True, alike="c")
    check(model, embedding_values(model, 2), role, tmp_path, io="stacked", keep_opset=True, alike="c")


def test_embedding_of_some_tables(tmp_path):
    model = embedding()
    values = embedding_values(model, 3)
    for name in TABLES:
        role = {k: "weight" if k == name else "shared weight" if k in TABLES else "input" for k in values}
        check(model, values, role, tmp_path, alike="c")
    fed = {k: "shared weight" if k in TABLES else "input" for k in values}
    for t in ("shared input", "weight"):
        check(model, values, fed | {"t": t}, tmp_path, alike="c")
