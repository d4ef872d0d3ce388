"""The join of N values into one tensor: equal shapes give the right tensor, unequal ones fail in ONNX Runtime,
and the check for that reads nothing but shapes, on the host."""

from __future__ import annotations

import itertools
from pathlib import Path

import families
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx_graphsurgeon import export_onnx
from oracle import LEVELS, draw, every_merge, family, graph, run
from oracle import as_models as written
from test_isolation import OPEN

from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.layouts import FOLDED, STACKED, Layout
from netfuse_onnx.layouts.join import SMALL, join

OPSETS = (9, 11, 12, 13, 14, 17, 18, 21)
DIMS = [("B",), ("B", 3), (3, "S"), ("B", SMALL + 1), ("B", "S"), ("B", "S", 2), (None, 2, None), ("B", 0)]
ON_HOST = {"Add", "Sub", "Mul", "Div", "Min", "Max", "Equal", "Where", "Gather", "Concat", "Cast", "Not"}
"""Operators on shapes that ONNX Runtime's CUDA provider leaves to the CPU: no input of theirs is marked as one
that the host provides. Unsqueeze and Reduce belong to them while their axes are attributes."""

SHAPE_FROM = {"Reshape": 1, "Expand": 1, "Tile": 1, "Resize": 2}
"""Operators that take a shape, sizes or scales from the host, and the first input that is one."""


def joining(dims: object, dst: Layout, models: int, opset: int) -> onnx.ModelProto:
    """A model of inputs x0, x1, .. of `dims` (None: of unknown rank), joined as y."""
    emit = Emitter("g", models, opset, {}, ())
    emit.scope = "join"
    xs = [emit.input(f"x{m}") for m in range(models)]
    emit.output(join(emit, xs, dst, dims), "y")
    model = export_onnx(emit.graph, do_type_check=False, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    model.graph.ClearField("input")
    model.graph.input.extend(helper.make_tensor_value_info(x.name, TensorProto.FLOAT, dims) for x in xs)
    return model


def layouts(dims: tuple[object, ...]) -> list[Layout]:
    fixed = [axis for axis, dim in enumerate(dims) if isinstance(dim, int)]
    return [*map(STACKED, range(len(dims) + 1)), *map(FOLDED, fixed)]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def is_right(loaded: ort.InferenceSession, shapes: list[list[int]], dst: Layout) -> bool:
    """True where the inputs join; then to the right tensor."""
    values = [np.random.default_rng(m).standard_normal(shape).astype("f") for m, shape in enumerate(shapes)]
    feeds, failed = {f"x{m}": value for m, value in enumerate(values)}, ""
    try:
        (got,) = loaded.run(None, feeds)
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
        failed = str(error)
    if failed:
        assert "Non-zero status code" in failed
        return False
    want = np.stack(values, dst.axis) if dst.stacked else np.concatenate(values, dst.axis)
    np.testing.assert_array_equal(got, want, strict=True)
    return True


def shapes_of(dims: tuple[object, ...]) -> list[list[int]]:
    """Every shape of a value of `dims` whose dynamic sizes are 0 to 2."""
    return [
        list(each) for each in itertools.product(*([d] if isinstance(d, int) else range(3) for d in dims))
    ]


@pytest.mark.parametrize("opset", [9, 12, 17, 21])
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_values_join_where_all_shapes_are_equal_and_only_there(dims: tuple[object, ...], opset: int) -> None:
    for dst, models in itertools.product(layouts(dims), (2, 3)):
        loaded = session(joining(dims, dst, models, opset))
        for one, other in itertools.product(shapes_of(dims), repeat=2):
            for odd in range(models if one != other else 1):
                shapes = [other if m == odd else one for m in range(models)]
                assert is_right(loaded, shapes, dst) == (one == other), f"{dims} {dst} {shapes}"


@pytest.mark.parametrize("opset", OPSETS)
def test_many_values_of_three_shapes_never_join(opset: int) -> None:
    """Sums that are right by chance: 0 + 2 + 4, and as many elements in other shapes."""
    for dims, dst in [(("B", 3), STACKED(0)), (("B", 3), FOLDED(1)), (("B", "S"), STACKED(0))]:
        loaded = session(joining(dims, dst, 5, opset))
        for each in ([0, 2, 4, 2, 2], [0, 0, 0, 0, 1], [1, 0, 0, 0, 0], [0, 1, 1, 1, 1], [1, 2, 3, 4, 5]):
            shapes = [[b if d == "B" else 3 for d in dims] for b in each]
            assert not is_right(loaded, shapes, dst)
    loaded = session(joining(("B", "S"), STACKED(0), 5, opset))
    for shapes in ([[0, 4], [4, 0], [0, 4], [0, 4], [0, 4]], [[2, 6], [3, 4], [4, 3], [6, 2], [2, 6]]):
        assert not is_right(loaded, shapes, STACKED(0))


@pytest.mark.parametrize("opset", OPSETS)
def test_values_of_unknown_rank(opset: int) -> None:
    loaded = session(joining(None, STACKED(0), 2, opset))
    shapes = [[], [1], [2], [0], [2, 3], [3, 2], [0, 3], [0, 2], [1, 2], [2, 0], [2, 1, 3]]
    for one, other in itertools.product(shapes, repeat=2):
        assert is_right(loaded, [one, other], STACKED(0)) == (one == other), f"{one} {other}"


# ------------------------------------------------------------------------ no copies on a device


def off_host(model: onnx.ModelProto) -> list[str]:
    """Nodes between a Shape and the operator that takes its shape from there that ONNX Runtime's CUDA provider
    runs on the device: each is a copy there, a copy back, a wait, and the end of CUDA graphs."""
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    by_attribute = ({"Unsqueeze"} if opset < 13 else set()) | (
        {"ReduceMin", "ReduceMax"} if opset < 18 else set()
    )
    made = {out: node for node in model.graph.node for out in node.output}
    given = {info.name for info in (*model.graph.input, *model.graph.initializer)}
    takes = [x for node in model.graph.node for x in node.input[SHAPE_FROM.get(node.op_type, 99) :]]
    todo, found = list(filter(None, takes)), []
    while todo:
        name = todo.pop()
        node = made.get(name)
        if node is None:
            found += [] if name in given else [name]
        elif node.op_type not in ("Shape", "Constant"):
            found += [] if node.op_type in ON_HOST | by_attribute else [f"{node.op_type} {name}"]
            todo += node.input
    return found


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dims", [*DIMS, ("A", "B", "C", "D"), ("A", 2, "C", 3, "E")], ids=str)
def test_the_check_reads_shapes_on_the_host(dims: tuple[object, ...], opset: int) -> None:
    for dst, models in itertools.product(layouts(dims), (2, 3, 9)):
        model = joining(dims, dst, models, opset)
        assert off_host(model) == []
        made = {out: node for node in model.graph.node for out in node.output}
        (first, *_) = (node for node in model.graph.node if node.op_type == "Concat")
        read = [made[x].input[0] if dst.stacked else x for x in first.input]
        assert read == [f"x{m}" for m in range(models)], "the inputs are joined as they are"
        reshaped = [node.input[0] for node in model.graph.node if node.op_type == "Reshape"]
        assert reshaped[0] == first.output[0], "the check stands behind the join"


@pytest.mark.parametrize("name", OPEN)
def test_no_computed_shape_goes_through_the_device(name: str, tmp_path: Path) -> None:
    """In merged files: what computes a shape holds no Reshape, up to the next Shape; nor does what requires
    that a Resize leaves the axis of the models alone ("sizes of another value")."""
    model = graph(*OPEN[name])
    values = draw(model, 3, sizes={"B": 2, "C": 4, "S": 4}, low=1, high=3)
    role = {"x": "input", "w": "weight", "t": "shared input"}
    role = {key: role[key] for key in values}
    if "t" in values:
        values["t"] = [np.array([2, 1, 4])] * 3
    for _, merged, what in every_merge(family(written(model, values, role, tmp_path)), role, "separate"):
        assert off_host(onnx.load_from_string(merged)) == [], what


# ------------------------------------------------------------------------ what is written


TWO = "g (float[n, k, 4] x) => (float[n, k, 3] y, float[n, k, 4] z) { y = MatMul(x, w)  z = Mul(x, v) }"


def test_a_joined_value_names_no_symbol(tmp_path: Path) -> None:
    """A symbol of the inputs is a size of one model. Known sizes are written down."""
    paths = families.family(tmp_path, TWO, {"w": (4, 3), "v": (4,)})
    found = onnx.load(families.merged(tmp_path, paths)).graph.value_info
    joined = [info for info in found if info.name.startswith("x/STACKED")]
    dims = [dim for info in joined for dim in info.type.tensor_type.shape.dim]
    assert [dim.dim_value for dim in dims][:4] == [2, 0, 0, 4] and not any(dim.dim_param for dim in dims)


def test_a_value_is_checked_once(tmp_path: Path) -> None:
    """However many read it, and in however many layouts."""
    paths = families.family(tmp_path, TWO, {"w": (4, 3), "v": (4,)}, count=3)
    nodes = onnx.load(families.merged(tmp_path, paths)).graph.node
    parts = {node.output[0] for node in nodes if node.op_type == "Unsqueeze"}
    assert sum(node.op_type == "Shape" and node.input[0] in parts for node in nodes) == 3
    assert sum(node.op_type == "Max" for node in nodes) == 1


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("opset", [9, 13, 21])
def test_what_is_required_holds_or_the_run_fails(rank: int, opset: int) -> None:
    emit = Emitter("g", 2, opset, {}, ())
    emit.scope = "check"
    x, faults = emit.input("x"), emit.input("faults")
    emit.output(emit.require(x, faults), "y")
    model = export_onnx(emit.graph, do_type_check=False, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    model.graph.ClearField("input")
    model.graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank))
    model.graph.input.append(helper.make_tensor_value_info("faults", TensorProto.INT64, [rank]))
    for shape, level in itertools.product(([2] * rank, [0] * rank, [1] * rank), LEVELS):
        value = np.ones(shape, np.float32)
        feeds = {"x": value, "faults": np.zeros(rank, np.int64)}
        np.testing.assert_array_equal(run(model.SerializeToString(), feeds, level)["y"], value, strict=True)
        for axis, fault in itertools.product(range(rank), (-2, -8, -(2**40))):
            feeds["faults"] = np.array([fault if at == axis else 0 for at in range(rank)])
            with pytest.raises(Exception, match="Non-zero status code"):
                run(model.SerializeToString(), feeds, level)


def test_a_check_that_nothing_reads_is_made_elsewhere(tmp_path: Path) -> None:
    """The join for GridSample compares, but its result is read by idle code in a body only; the second join
    of the same value must not trust it."""
    text = """g (double[5,?,4,5] x, double s, double[5,2,2,2] grid, bool c) => (double[?,4,5] y, double z) {
        axis = Constant <value: tensor = int64[1] {0}> ()
        idle = GridSample (x, grid)
        z = If (c) <
            else_branch: graph = body () => (double b) { unread = Neg(idle) b = Identity(s) },
            then_branch: graph = body () => (double d) { d = Neg(s) }
        >
        least = ReduceMin <keepdims: int = 0> (x, axis)
        y = Sub(s, least)
    }"""
    paths = families.family(tmp_path, text, count=2, opset=20)
    out = families.merged(tmp_path, paths, share=["grid", "c"])
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    one = {
        "a/s": np.asarray(1.0),
        "b/s": np.asarray(1.0),
        "c": np.asarray(True),
        "grid": np.zeros((5, 2, 2, 2)),
    }
    (even, *_) = session.run(None, {"a/x": np.ones((5, 2, 4, 5)), "b/x": np.ones((5, 2, 4, 5)), **one})
    assert even.shape == (2, 4, 5)
    for first, second in ((1, 0), (0, 1), (2, 0), (3, 1)):
        with pytest.raises(Exception, match=r"Concat|Reshape"):
            session.run(None, {"a/x": np.ones((5, first, 4, 5)), "b/x": np.ones((5, second, 4, 5)), **one})
