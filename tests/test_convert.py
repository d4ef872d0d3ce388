"""Layout conversions: every layout to every other one, against numpy."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from oracle import LEVELS, run

from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.errors import InternalError
from netfuse_onnx.layouts import (
    CHANNELS,
    FOLDED,
    IMAGE,
    PER_MODEL,
    ROWS,
    SHARED,
    STACKED,
    Layout,
    base,
    route,
)

MODELS = 3
SIZES = {"B": 3, "S": 2}


def layouts(dims):
    rank = len(dims)
    front = [CHANNELS(axis) for axis in range(1, rank) if isinstance(dims[axis], int)]
    rows = [ROWS] if ROWS.fits(dims) else []
    image = [IMAGE] if IMAGE.fits(dims) else []
    return [PER_MODEL, *map(STACKED, range(rank + 1)), *map(FOLDED, range(rank)), *front, *rows, *image]


def subclasses(layout=Layout):
    return {layout, *itertools.chain.from_iterable(map(subclasses, layout.__subclasses__()))} - {Layout}


def test_every_layout_takes_part():
    """A new layout is tried here as soon as there is a class for it; `hold` says what it is in numpy."""
    assert {type(layout) for layout in (SHARED, *layouts(("B", 3, 2)))} == subclasses()


def hold(values, layout):
    """numpy's view of N values in a layout: the tensors that hold them."""
    if layout == SHARED:
        return [values[0]]
    if layout == PER_MODEL:
        return list(values)
    if layout == ROWS:
        return [values.reshape(len(values), int(np.prod(values.shape[1:-1])), values.shape[-1])]
    if layout == IMAGE:
        return [np.concatenate(values, 1)[:, :, None]]
    if layout.name == "CHANNELS":  # [1, (N d_a), .., dk, d0, .., d(a-1)]
        moved = np.moveaxis(values, range(layout.axis + 1, values.ndim), range(1, values.ndim - layout.axis))
        folded = moved.reshape(1, moved.shape[0] * moved.shape[1], *moved.shape[2:])
        return [folded[..., None] if values.ndim == 3 else folded]
    return [np.stack(values, layout.axis) if layout.stacked else np.concatenate(values, layout.axis)]


def converter(src, dst, dims, models=MODELS, opset=17, provider=""):
    """A model that takes a value in one layout and gives it in another. Input i is `xi`, output i `yi`. Where
    rows do not tell their sizes, the shape of another input, `like`, does."""
    emit = Emitter("g", models, opset, {}, (), provider)
    emit.scope = "conversion"
    kind = dims if src in (SHARED, PER_MODEL) else src.merged_dims(dims, models)
    ins = tuple(emit.input(f"x{i}") for i in range(models if src == PER_MODEL else 1))
    held = ins if src == PER_MODEL else ins[0]
    told = src != ROWS or ROWS.told(dims)
    if not told:
        emit.sizes.learn(emit.input("like"), SHARED, dims, models)
    for hop in route(src, dst, dims, provider):
        held = hop.emit(emit, held)
    for i, tensor in enumerate(held if isinstance(held, tuple) else [held]):
        emit.output(tensor, f"y{i}")
    model = gs.export_onnx(
        emit.graph, do_type_check=False, opset_imports=[onnx.helper.make_opsetid("", opset)]
    )
    model.ir_version = 8
    model.graph.ClearField("input")
    for tensor in ins:
        info = onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, kind)
        model.graph.input.append(info)
    if not told:
        model.graph.input.append(onnx.helper.make_tensor_value_info("like", onnx.TensorProto.FLOAT, dims))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def agree(src, dst, dims, sizes, models=MODELS, opset=17, provider=""):
    shape = [sizes.get(d, d) for d in dims]
    values = np.arange(models * int(np.prod(shape)), dtype=np.float32).reshape(models, *shape)
    if src == SHARED:
        values[:] = values[0]
    model = converter(src, dst, dims, models, opset, provider)
    feeds = {f"x{i}": np.asarray(v) for i, v in enumerate(hold(values, src))}
    if src == ROWS and not ROWS.told(dims):
        feeds["like"] = np.zeros(shape, np.float32)
    got = run(model.SerializeToString(), feeds, LEVELS[0])
    for i, want in enumerate(hold(values, dst)):
        np.testing.assert_array_equal(got[f"y{i}"], want, err_msg=f"{src} -> {dst} of {dims}", strict=True)


DIMS = [
    (),
    (3,),
    (2, 3),
    (1, 3),
    (3, 3),
    (2, 1, 3),
    (3, 1, 3),
    (2, 3, 2, 3),
    ("B", 2, 3),
    (3, "S", 2),
    (2, 3, "S"),
    ("B", 3),
    (3, "S"),
    ("B", "S", 2),
    ("B", 2, "S"),
    ("B", "S", "S"),
    ("B", "S", 2, 3),
    (0, 3),
    (2, 0, 3),
    ("B", 0, 3),
]


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_every_pair_of_layouts(dims):
    for src, dst in itertools.product([SHARED, *layouts(dims)], layouts(dims)):
        if src != dst:
            agree(src, dst, dims, SIZES)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 21])
@pytest.mark.parametrize("dims", [(2, 3), ("B", "S", 2)], ids=str)
def test_opsets(dims, opset):
    for src, dst in itertools.product([SHARED, *layouts(dims)], layouts(dims)):
        if src != dst:
            agree(src, dst, dims, SIZES, opset=opset)


@pytest.mark.parametrize(
    ("provider", "opset"), [("cpu", 17), ("cuda", 9), ("cuda", 17), ("cuda", 18)], ids=str
)
@pytest.mark.parametrize("dims", [(), (3,), (2, 3), ("B", 3), (3, "S"), ("B", "S", 2), (0, 3)], ids=str)
def test_providers(dims, provider, opset, monkeypatch):
    """Five models where a Concat and a Split take two tensors at once, if the provider is cuda."""
    monkeypatch.setitem(base.GROUP, "cuda", 2)
    for src, dst in itertools.product([SHARED, *layouts(dims)], layouts(dims)):
        if src != dst and (src == SHARED or PER_MODEL in (src, dst)):
            agree(src, dst, dims, SIZES, models=5, opset=opset, provider=provider)


@pytest.mark.parametrize("models", [2, 32, 33, 37, 64, 65])
@pytest.mark.parametrize("dims", [("B", 3), ("B", "S", 2), (3, "S"), ()], ids=str)
def test_cuda_never_joins_or_splits_more_than_32_tensors(dims, models):
    for src, dst in itertools.product([SHARED, *layouts(dims)], layouts(dims)):
        if src != dst and (src == SHARED or PER_MODEL in (src, dst)):
            for node in converter(src, dst, dims, models, provider="cuda").graph.node:
                if node.op_type in ("Concat", "Split"):
                    assert max(len(node.input), len(node.output)) <= 32, f"{src} -> {dst}"


@pytest.mark.parametrize("dims", [(3,), ("B", 3), ("B", "S", 2)], ids=str)
def test_a_split_writes_what_each_model_gets_on_cuda(dims):
    """Nothing is copied behind it. Gather is what every runtime has."""
    for src in (STACKED(0), FOLDED(0)):
        nodes = converter(src, PER_MODEL, dims, 32, provider="cuda").graph.node
        assert [node.op_type for node in nodes if len(node.output) > 1] == ["Split"]
        assert nodes[-1].op_type == "Split"
    for provider in ("", "cpu"):
        nodes = converter(STACKED(0), PER_MODEL, dims, 32, provider=provider).graph.node
        assert {node.op_type for node in nodes} == {"Gather"}


@pytest.mark.parametrize("dims", [(1, 3), (3,), ("B", 3), ("B", "S", 2)], ids=str)
def test_a_join_along_a_static_axis_on_a_cpu(dims):
    """Only there no value needs an axis of its own before it is joined."""
    for axis in range(len(dims)):
        nodes = [
            node.op_type for node in converter(PER_MODEL, STACKED(axis), dims, provider="cpu").graph.node
        ]
        folded = isinstance(dims[axis], int) and sum(isinstance(dim, str) for dim in dims) < 2
        assert ("Unsqueeze" in nodes) != folded
        assert "Unsqueeze" in [n.op_type for n in converter(PER_MODEL, STACKED(axis), dims).graph.node]


@pytest.mark.parametrize("models", [1, 2])
def test_numbers_of_models(models):
    for src, dst in itertools.permutations(layouts((2, 3)), 2):
        agree(src, dst, (2, 1), {}, models)


@pytest.mark.parametrize(
    "dims", [("B", 3), ("B", "S", 2), ("B", 2, "S"), ("B", 0), ("B", 3, 2), (2, "S", 3)], ids=str
)
@pytest.mark.parametrize("sizes", [{"B": 0, "S": 2}, {"B": 2, "S": 0}], ids=str)
def test_what_turns_out_empty(dims, sizes):
    """An empty batch, or the empty cache of a first step: -1 in a Reshape is undefined beside a 0."""
    for src, dst in itertools.permutations(layouts(dims), 2):
        agree(src, dst, dims, sizes)


@pytest.mark.parametrize("dims", [("B", 3), (3, "S"), ("B", "S", 2)], ids=str)
def test_values_of_unequal_size_never_join(dims):
    """Joined along an open axis, a row of one model would silently become another's."""
    for dst in layouts(dims)[1:]:
        model = converter(PER_MODEL, dst, dims).SerializeToString()
        for name in (d for d in dims if isinstance(d, str)):
            feeds = {
                f"x{m}": np.zeros([{**SIZES, name: 1 + m}.get(d, d) for d in dims], np.float32)
                for m in range(MODELS)
            }
            with pytest.raises(Exception, match="Non-zero status code"):
                run(model, feeds, LEVELS[0])


@pytest.mark.parametrize("opset", [10, 13, 17, 21])
@pytest.mark.parametrize("dims", [("B", 3), (3, "S"), ("B", "S", 2), ("B", 0)], ids=str)
def test_values_without_elements_never_join_others(dims, opset):
    """ONNX Runtime's Concat passes over them, whatever their shape."""
    sizes = [
        [(0, 2), (1, 2), (1, 2)],
        [(1, 2), (0, 2), (0, 2)],
        [(0, 2), (0, 3), (0, 2)],
        [(2, 0), (0, 2), (2, 0)],
    ]
    for dst, each in itertools.product(layouts(dims)[1:], sizes):
        model = converter(PER_MODEL, dst, dims, opset=opset).SerializeToString()
        shapes = [[{"B": b, "S": s}.get(d, d) for d in dims] for b, s in each]
        feeds = {f"x{m}": np.zeros(shape, np.float32) for m, shape in enumerate(shapes)}
        if all(shape == shapes[0] for shape in shapes):
            continue
        with pytest.raises(Exception, match="Non-zero status code"):
            run(model, feeds, LEVELS[0])


def steps(src, dst, dims):
    return [hop.dst for hop in route(src, dst, dims)]


def test_a_static_axis_joins_at_once():
    assert steps(PER_MODEL, FOLDED(1), ("B", 3)) == [FOLDED(1)]
    assert steps(PER_MODEL, FOLDED(0), ("B", 3)) == [STACKED(0), FOLDED(0)]


def test_moving_between_folds_takes_one_transpose():
    nodes = converter(FOLDED(0), FOLDED(1), (2, 3)).graph.node
    assert [node.op_type for node in nodes].count("Transpose") == 1


def test_passing_axes_of_one_moves_no_data():
    nodes = converter(STACKED(0), STACKED(1), (1, 3)).graph.node
    assert [node.op_type for node in nodes] == ["Reshape"]


def random_dims(rng):
    """Per-model dims of rank 0 to 4: sizes, two symbols, and now and then a size of 0."""
    choices = [1, 2, 3, 4, "B", "S", 0]
    picks = rng.choice(len(choices), rng.integers(0, 5), p=[0.2, 0.2, 0.2, 0.1, 0.14, 0.1, 0.06])
    return tuple(choices[pick] for pick in picks)


@pytest.mark.parametrize("seed", range(20))
def test_random_pairs_of_layouts(seed):
    """From any layout of any value there is a way to any other. It computes what numpy does, and what holds
    the value has the dims that the layout says."""
    rng = np.random.default_rng(seed)
    dims = random_dims(rng)
    sizes = {"B": int(rng.integers(0, 4)), "S": int(rng.integers(1, 4))}
    models = int(rng.integers(1, 5))
    offered = [
        layout for layout in layouts(dims) if layout.name != "CHANNELS" or 0 not in dims
    ]  # as rules do
    for src, dst in itertools.product([SHARED, *offered], offered):
        agree(src, dst, dims, sizes, models, opset=int(rng.choice([17, 21])))
    shape = tuple(sizes.get(dim, dim) for dim in dims)
    for layout in offered:
        (held, *_) = hold(np.zeros((models, *shape)), layout)
        merged = layout.merged_dims(dims, models)
        assert len(held.shape) == len(merged)
        assert all(sizes.get(dim, dim) in (size, None) for dim, size in zip(merged, held.shape, strict=True))


def test_every_layout_says_what_it_is():
    """Texts and order are those of the metadata and of plans, where files of earlier versions have them."""
    each = [SHARED, STACKED(0), STACKED(2), FOLDED(1), PER_MODEL, CHANNELS(1), ROWS, IMAGE]
    names = ["SHARED", "STACKED(0)", "STACKED(2)", "FOLDED(1)", "PER_MODEL", "CHANNELS(1)", "ROWS", "IMAGE"]
    assert list(map(str, each)) == names
    assert sorted({*each}) == each
    assert len({*each, *pickle.loads(pickle.dumps(each))}) == len(each)
    assert pickle.loads(pickle.dumps(each)) == each
    assert STACKED(0) != FOLDED(0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        each[1].axis = 1


def test_rows_tell_one_open_size():
    """Further sizes must have names, for which another tensor is asked."""
    for dims in (("B", 3, 4), (2, "S", 4), (2, 3, "D"), ("B", "D"), (None, 3, 4)):
        assert ROWS.fits(dims) and ROWS.told(dims)
    for dims in (("B", "S", 4), ("B", 0, 4), (0, 3, 4), ("B", "B", 1)):
        assert ROWS.fits(dims) and not ROWS.told(dims)
    assert not any(map(ROWS.fits, (None, (), (3,), (None, "S", 4), ("B", 3, "D"), ("B", "S", 0))))


def test_a_size_that_only_rows_have_is_lost():
    """Symbols that inference made up are known only if a value that was read has them."""
    assert ROWS.known(("B", "S", 4), set()) and ROWS.known(("unk__1", 3, 4), set())
    assert ROWS.known(("B", "unk__1", 4), {"unk__1"}) and not ROWS.known(("B", "unk__1", 4), {"unk__2"})


@pytest.mark.parametrize("like", [(2, 3, 4), (3, 2, 4), (1, 5, 4), (3, 3, 4)])
def test_sizes_that_rows_do_not_have_fail(like):
    """A tensor that lies about a size makes the run fail, or moves no element to another model."""
    model = converter(ROWS, STACKED(0), ("B", "S", 4)).SerializeToString()
    rows = np.arange(MODELS * 6 * 4, dtype=np.float32).reshape(MODELS, 6, 4)
    feeds = {"x0": rows, "like": np.zeros(like, np.float32)}
    if like[0] * like[1] == 6:
        got = run(model, feeds, LEVELS[0])["y0"]
        np.testing.assert_array_equal(got, rows.reshape(MODELS, *like))
    else:
        with pytest.raises(Exception, match="cannot be reshaped"):
            run(model, feeds, LEVELS[0])


def test_nothing_leads_to_one_value_for_all():
    with pytest.raises(InternalError, match="read as SHARED"):
        route(STACKED(0), SHARED, (2, 3))
