"""A name of a size is no promise: axes with one name, or none, may differ when a model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import contrib_graphs
import families
import numpy as np
import onnx
import onnxruntime as ort
import oracle
import pytest
from isolation import NAMINGS

from netfuse_onnx.types import Became

Array = np.ndarray
RNG = np.random.default_rng(3)


def model(text: str, naming: str, opset: int = 18) -> onnx.ModelProto:
    """A graph whose open axes have the names of the text, each its own, or none. What it declares of its
    outputs is their rank."""
    made = contrib_graphs.graph(*text.split("=>"), opset)
    del made.graph.value_info[:]
    for info in made.graph.input:
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.dim_param:
                name = dim.dim_param
                dim.Clear()
                if naming != "no names":
                    dim.dim_param = name if naming == "one name" else f"{info.name}.{axis}"
    for output in made.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    return made


def each(models: int, *shape: int) -> list[Array]:
    return [RNG.standard_normal(shape).astype(np.float32) for _ in range(models)]


def picks(models: int, classes: int, *shape: int) -> list[Array]:
    return [RNG.integers(0, classes, shape) for _ in range(models)]


# ------------------------------------------------------------------------ losses

LOSSES = ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
LABELS = [
    ("float[B,3] x, int64[B] t", (4, 3), [(2,), (1,), (5,), (8,)]),
    ("float[B,3,D] x, int64[B,D] t", (4, 3, 2), [(2, 2), (4, 1), (2, 1), (8, 2)]),
    ("float[B,3,D,E] x, int64[B,D,E] t", (4, 3, 2, 3), [(2, 2, 3), (4, 1, 3), (1, 2, 2)]),
]


@pytest.mark.parametrize("op", LOSSES)
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize(("inputs", "scores", "labels"), LABELS)
def test_fewer_labels_than_samples(
    op: str,
    naming: str,
    inputs: str,
    scores: Sequence[int],
    labels: Sequence[Sequence[int]],
    tmp_path: Path,
) -> None:
    """ONNX Runtime takes them for a source: it reads as many rows as there are labels."""
    roles: list[dict[str, str]] = [
        {"x": "input", "t": "input"},
        {"x": "input", "t": "input", "w": "weight"},
        {"x": "shared input", "t": "input", "w": "weight"},
        {"x": "input", "t": "shared input", "w": "shared weight"},
    ]
    for turn, shape in enumerate(labels):
        role = roles[turn % len(roles)]
        more, last = (", float[3] w", ", w") if "w" in role else ("", "")
        reduction = ("none", "mean")[turn % 2]
        made = model(
            f'{inputs}{more} => y = {op}<reduction = "{reduction}", ignore_index = 1>(x, t{last})', naming
        )
        values = {"x": each(3, *scores), "t": picks(3, 3, *shape)} | ({"w": each(3, 3)} if more else {})
        for io in ("separate", "stacked"):
            oracle.fails_or_is_right(made, values, role, tmp_path, io=io)


def test_fewer_labels_than_samples_are_batched(tmp_path: Path) -> None:
    made = model(
        'float[B,3] x, int64[B] t => y = NegativeLogLikelihoodLoss<reduction = "none">(x, t)', "no names"
    )
    values = {"x": each(2, 4, 3), "t": picks(2, 3, 2)}
    role = {"x": "input", "t": "input"}
    assert oracle.fails_or_is_right(made, values, role, tmp_path) == 0, "the sources take them"
    corr = oracle.family(oracle.as_models(made, values, role, tmp_path))
    for plan, _, what in oracle.every_merge(corr, role, "separate"):
        assert all(low.became is Became.BATCHED for low in plan.lowerings), what


# ------------------------------------------------------------------------ one name, two sizes

SWAPPED = "s = Shape(x)  i = Constant<value_ints = [1, 0, 2]>()  z = Gather(s, i)"
TURNED = "s = Shape(x)  i = Constant<value_ints = [0, 2, 1]>()  z = Gather(s, i)"
OF_U = "m = Mul(x, w)  s = Shape(u)"
TWO_SIZES = {
    "reshape": f"float[N,N,4] x, float[4] w => m = Mul(x, w)  {SWAPPED}  y = Reshape(m, z)",
    "reshape of an input": f"float[N,N,4] x, float[4] w => {SWAPPED}  y = Reshape(x, z)  v = Neg(w)",
    "reshape by another input": f"float[N,4] x, float[N,M] u, float[4] w => {OF_U}  y = Reshape(m, s)",
    "expand": f"float[N,1] x, float[N] u, float[1] w => {OF_U}  y = Expand(m, s)",
    "expand to another input": f"float[N,4] x, float[N,4] u, float[4] w => {OF_U}  y = Expand(m, s)",
    "resize": f'float[1,N,N] x, float[1] w => m = Mul(x, w)  {TURNED}  y = Resize<mode = "nearest">(m, , , z)',
    "add": "float[N,4] x, float[N,4] u, float[4] w => m = Mul(x, w)  y = Add(m, u)",
    "concat": "float[N,4] x, float[N,4] u, float[4] w => m = Mul(x, w)  y = Concat<axis = 1>(m, u)",
    "skip norm": "float[N,S,4] x, float[N,S,4] u, float[4] w => y = com.microsoft.SkipLayerNormalization(x, u, w)",
}  # fmt: skip
SIZES: list[Mapping[str, Sequence[int]]] = [
    {"x": (3, 2), "u": (2, 3)},
    {"x": (1, 3), "u": (3, 1)},
    {"x": (6, 2), "u": (2, 6)},
    {"x": (2, 2), "u": (6, 2)},
    {"x": (4, 4), "u": (4, 4)},
]


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("name", TWO_SIZES)
def test_axes_with_one_name_that_differ(name: str, naming: str, tmp_path: Path) -> None:
    made = model(TWO_SIZES[name], naming)
    for turn, sizes in enumerate(SIZES):
        values = {}
        for info in made.graph.input:
            open_ = iter(sizes.get(info.name, ()))
            shape = [dim.dim_value or next(open_) for dim in info.type.tensor_type.shape.dim]
            values[info.name] = each(3, *shape)
        w, u = (("weight", "input"), ("weight", "shared input"), ("shared weight", "input"))[turn % 3]
        role = {"x": "input", "w": w} | ({"u": u} if "u" in values else {})
        agrees(made, values, role, tmp_path)


def agrees(
    made: onnx.ModelProto, values: Mapping[str, Sequence[Array]], role: Mapping[str, str], folder: Path
) -> None:
    """Fails or is right; where the sources refuse, the merged model refuses as well."""
    paths = oracle.as_models(made, values, role, folder)
    try:
        oracle.run_apart(paths, values, role)
    except Exception:  # ONNX Runtime raises classes of its own, without a common base
        corr = oracle.family(paths)
        for _, merged, what in oracle.every_merge(corr, role, "separate"):
            assert refuses(merged, oracle.merged_feeds(values, role, "separate", corr.names)), what
    else:
        oracle.fails_or_is_right(made, values, role, folder)


def refuses(merged: bytes, feeds: Mapping[str, Array]) -> bool:
    try:
        oracle.run(merged, feeds, oracle.LEVELS[1])
    except Exception:  # ONNX Runtime raises classes of its own, without a common base
        return True
    return False


def test_an_output_may_have_another_size_than_it_says(tmp_path: Path) -> None:
    """The file calls the first axis of its output as that of its input, and it is another."""
    made = oracle.graph("float[N,4] x, int64[2] s, float[4] w", "m = Mul(x, w)  y = Reshape(m, s)")
    shape = made.graph.output[0].type.tensor_type.shape
    for dim, name in zip(shape.dim, ("N", "M"), strict=True):
        dim.dim_param = name
    values = {"x": each(3, 2, 4), "s": [np.array([4, 2])] * 3, "w": each(3, 4)}
    oracle.fails_or_is_right(made, values, {"x": "input", "s": "shared input", "w": "weight"}, tmp_path)


RAGGED = {
    "slice": "v = Slice(x, o, n)",
    "reshape": "m = Constant<value_ints = [-1]>()  s = Concat<axis = 0>(m, n)  v = Reshape(x, s)",
    "tile": "i = Constant<value_ints = [1]>()  s = Concat<axis = 0>(n, i)  v = Tile(x, s)",
}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("said", ["", "N"])
@pytest.mark.parametrize("name", RAGGED)
def test_a_size_from_each_models_data(name: str, said: str, naming: str, tmp_path: Path) -> None:
    """No symbol makes sizes equal that follow from the models' own numbers, not even where an output says so."""
    nodes = "o = Constant<value_ints = [0]>()  " + RAGGED[name] + "  z = Abs(v)  y = Relu(z)"
    made = model(f"float[N,4] x, int64[1] n => {nodes}", naming)
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_param = said
    values = {"x": each(3, 4, 4), "n": [np.array([k]) for k in (1, 2, 4)]}
    assert oracle.fails_or_is_right(made, values, {"x": "input", "n": "input"}, tmp_path) == 0


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_a_mask_of_two_numbers_each_is_not_one_of_more_models(tmp_path: Path, io: str) -> None:
    """A mask of [B] numbers tells where keys end; of [2 B], where they end, then where they begin. With the
    models in the batch the ends of one model would be the beginnings of another."""
    text = """g (float[B, 5, 8] x, float[8, 24] w, float[24] b, int32[B] m) => (float[B, 5, 8] y) {
        y = com.microsoft.Attention <num_heads = 2> (x, w, b, m)
    }"""
    paths = families.family(tmp_path, text, count=2)
    out = families.merged(tmp_path, paths, io=io, share=["w", "b"])
    assert [node.op_type for node in onnx.load(out).graph.node].count("Attention") == 1
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    alone = ort.InferenceSession(paths[0], providers=["CPUExecutionProvider"])
    shared = dict(zip("wb", (each(1, 8, 24)[0], each(1, 24)[0]), strict=True))

    def feeds(masks: list[list[int]]) -> list[dict[str, Array]]:
        return [{"x": each(1, 2, 5, 8)[0], "m": np.array(mask, np.int32)} for mask in masks]

    def merged(own: list[dict[str, Array]]) -> list[Array]:
        if io == "stacked":
            stacks = {name: np.stack([one[name] for one in own]) for name in own[0]}
            return list(session.run(None, {**stacks, **shared})[0])
        named = {f"{'ab'[i]}/{name}": value for i, one in enumerate(own) for name, value in one.items()}
        return session.run(None, {**named, **shared})

    plain = feeds([[3, 5], [2, 4]])
    for got, one in zip(merged(plain), plain, strict=True):
        np.testing.assert_allclose(got, alone.run(None, {**one, **shared})[0], rtol=1e-4, atol=1e-5)
    double = feeds([[3, 5, 0, 1], [2, 4, 1, 0]])
    assert all(np.isfinite(alone.run(None, {**one, **shared})[0]).all() for one in double)
    with pytest.raises(Exception, match="Reshape"):
        merged(double)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("name", RAGGED)
def test_a_number_that_a_file_declares_makes_no_sizes_equal(name: str, inner: bool, tmp_path: Path) -> None:
    """An output, or an inner value, that is declared as of one size in all models, and has another in each."""
    nodes = "o = Constant<value_ints = [0]>()  " + RAGGED[name] + "  z = Abs(v)  y = Mul(z, w)"
    made = model(f"float[N,4] x, int64[1] n, float[1] w => {nodes}", "no names")
    for dim, size in zip(made.graph.output[0].type.tensor_type.shape.dim, (2, 4), strict=False):
        dim.dim_value = size
    if inner:
        made.graph.value_info.extend(onnx.helper.make_tensor_value_info(value, 1, (2, 4)) for value in "vz")
    values = {"x": each(3, 4, 4), "n": [np.array([k]) for k in (1, 2, 4)], "w": each(3, 1)}
    role = {"x": "input", "n": "input", "w": "weight"}
    assert oracle.fails_or_is_right(made, values, role, tmp_path) == 0
