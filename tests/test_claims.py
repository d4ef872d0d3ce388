"""Declared shapes of outputs and of inner values that a model does not keep: ONNX Runtime only warns of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from families import model, save
from onnx import helper

import netfuse_onnx
from netfuse_onnx.load.claims import Run, resolve_claims
from netfuse_onnx.load.loader import load
from netfuse_onnx.run.observe import observed
from netfuse_onnx.types import Dim, Source, ValueType
from netfuse_onnx.write import metadata

Array = np.ndarray
CPU = ["CPUExecutionProvider"]
HEAD = "h = MatMul(x, w) "
IF = """y = If(p) <then_branch = t () => (float[1,4] a) { a = Relu(h) },
                   else_branch = e () => (float[1,4] c) { c = Neg(h) }>"""
LOOP = """n = Constant<value_int = 3>() y, z = Loop(n, "", x) <body = t (int64 i, bool q, float[1,6] s) =>
    (bool r, float[1,6] a, float[1,6] o) { r = Identity(q) a = MatMul(s, square) o = Neg(s) }>"""
ROWS = """s = Shape(x) i = Constant<value_ints = [0]>() b = Gather(s, i) m = Constant<value_ints = [-1]>()
    t = Concat<axis = 0>(b, m) q = Reshape(h, t)"""

FLATTENED = """m = Constant<value_ints = [-1, 6]>() r = Reshape(x, m) y = MatMul(r, w)
    o = Constant<value_ints = [0]>() u = ReduceMax<axes = [0], keepdims = 0>(x) z = MatMul(u, w)"""

X, X3 = "float[batch,6] x", "float[batch,seq,6] x"
LIES: dict[str, tuple[str, str, str, list[Sequence[Dim]]]] = {
    "size": (X, "float[1,4] y", HEAD + "y = Relu(h)", [("batch", 4)]),
    "every size": (X, "float[3,7] y", HEAD + "y = Relu(h)", [("batch", 4)]),
    "higher rank": (X, "float[1,4,1] y", HEAD + "y = Relu(h)", [("batch", 4)]),
    "lower rank": (X3, "float[1,seqlen] y", HEAD + "y = Relu(h)", [("batch", "seq", 4)]),
    "one element": (X, "float[1] y", HEAD + "y = ReduceSum<keepdims = 0>(h)", [()]),
    "scalar": (X, "float[] y", HEAD + "y = Relu(h)", [("batch", 4)]),
    "label": (X, "int64[1] y, float[1,4] p", HEAD + "p = Softmax(h) y = ArgMax<axis = 1, keepdims = 0>(h)",
              [("batch",), ("batch", 4)]),
    "a flat one": (X, "float[4] y", HEAD + "m = Constant<value_ints = [-1]>() y = Reshape(h, m)", [(None,)]),
    "a first axis": (X, "float[batch,4] y", HEAD + "a = Constant<value_ints = [0]>() y = Unsqueeze(h, a)",
                     [(1, "batch", 4)]),
    "computed sizes": (X, "float[1,4] y", HEAD + ROWS + " y = Relu(q)", [("batch", 4)]),
    "computed sizes read on": (X, "float[1,2] y", HEAD + ROWS + " y = MatMul(q, v)", [("batch", 2)]),
    "exchanged names": (X3, "float[seq,batch,4] y", HEAD + "y = Relu(h)", [("batch", "seq", 4)]),
    "one name for two": (X3, "float[batch,batch,4] y", HEAD + "y = Relu(h)", [("batch", "seq", 4)]),
    "one new name for two": (X3, "float[n,n,4] y", HEAD + "y = Relu(h)", [("batch", "seq", 4)]),
    "new names": (X3, "float[n,m,4] y", HEAD + "y = Relu(h)", [("n", "m", 4)]),
    "a sum": (X3, "float[batch,seqs,4] y", HEAD + "y = Relu(h)", [("batch", "seq", 4)]),
    "a true sum": (X3, "float[batch,seqs,1] y", HEAD + "y = Concat<axis = 1>(h, h)", [("batch", "2*seq", 4)]),
    "loop": (X, "float[1,6] y, float[3,1,6] z", LOOP, [("batch", 6), (3, "batch", 6)]),
    "squeeze": (X, "float[1] y", "h = MatMul(x, column) u = Squeeze(h) y = Sigmoid(u)", [("batch",)]),
    "an input": (X, "float[1,7] x, float[1,4] y", HEAD + "y = Relu(h)", [("batch", 6), ("batch", 4)]),
    "a constant": (X, "int64[1,7] c, float[1,4] y", HEAD + "c = Constant<value_ints = [4, 5]>() y = Relu(h)",
                   [(2,), ("batch", 4)]),
    "the size of one part": (X + ", float[rows,6] z", "float[batch,4] y", "c = Concat<axis = 0>(x, z) y = MatMul(c, w)",
                             [(None, 4)]),
    "the size of another": (X3, "float[batch,4] y, float[seq,4] z", FLATTENED, [(None, 4), ("seq", 4)]),
    "sequence": (X, "seq(float[1,4]) y", HEAD + "y = SequenceConstruct(h, h)", []),
    "no detections": (X, "int64[2,7] y", HEAD + "r = Relu(h) y = NonZero(r)", [(2, None)]),
}  # fmt: skip
SHAPES = {"w": (6, 4), "v": (4, 2), "square": (6, 6), "column": (6, 1)}
INNER = {"h": (1, 4), "q": (1, 4), "u": (1,)}


def lying(folder: Path, name: str, *, inner: bool = False, count: int = 2) -> list[str]:
    inputs, outputs, nodes, _ = LIES[name]
    used = {w: shape for w, shape in SHAPES.items() if w in nodes.replace(",", " ").replace(")", " ").split()}
    paths = []
    for k in range(count):
        made = model(f"g ({inputs}) => ({outputs}) {{ {nodes} }}", used, seed=k)
        if name.endswith("sum"):
            made.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "2*seq"
        for value, dims in INNER.items() if inner else ():
            if f" {value} = " in f" {nodes}":
                made.graph.value_info.append(helper.make_tensor_value_info(value, 1, dims))
        paths.append(save(folder / f"m{k}.onnx", made))
    return paths


def declared(path: str) -> list[tuple[Dim, ...]]:
    found = []
    for value in onnx.load(path).graph.output:
        dims = value.type.tensor_type.shape.dim
        if value.type.HasField("tensor_type"):
            found.append(tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims))
    return found


def session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=CPU)


def agrees(out: str, paths: Sequence[str], feeds: Sequence[Mapping[str, Array]], io: str) -> None:
    """The merged file gives what each source gives, alone."""
    if io == "separate":
        given = {f"m{k}/{name}": value for k, own in enumerate(feeds) for name, value in own.items()}
    else:
        given = {name: np.stack([own[name] for own in feeds]) for name in feeds[0]}
    merged = session(out)
    got = dict(zip([value.name for value in merged.get_outputs()], merged.run(None, given), strict=True))
    for k, path in enumerate(paths):
        alone = session(path)
        names = [value.name for value in alone.get_outputs()]
        for name, want in zip(names, alone.run(None, dict(feeds[k])), strict=True):
            mine: Any = got[f"m{k}/{name}"] if io == "separate" else got[name][k]
            for one, other in zip(mine, want, strict=True) if isinstance(want, list) else [(mine, want)]:
                assert one.shape == other.shape
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def drawn(path: str, batch: int, seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    sizes = {"batch": batch, "seq": batch + 2, "rows": batch + 1}
    return {
        value.name: rng.standard_normal([sizes.get(dim, dim) for dim in value.shape]).astype(np.float32)
        for value in session(path).get_inputs()
    }


UNEVEN = ("sequence", "no detections")
"""Outputs without one shape for all models, which can't be stacked."""
EDGES = [
    (name, io) for name in LIES for io in ("separate", "stacked") if io == "separate" or name not in UNEVEN
]


@pytest.mark.parametrize(("name", "io"), EDGES)
def test_a_declared_output_that_lies(name: str, io: str, tmp_path: Path) -> None:
    """The merged file gives the sources' values at any batch, and declares what is so."""
    paths, out = lying(tmp_path, name), str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out, io=io)
    for batch in (1, 3, 4):
        agrees(out, paths, [drawn(path, batch, seed=k) for k, path in enumerate(paths)], io)
    wanted = LIES[name][3]
    assert declared(out) == (wanted * 2 if io == "separate" else [(2, *dims) for dims in wanted])
    assert netfuse_onnx.verify(out, paths).ok


@pytest.mark.parametrize(
    "name", ["size", "lower rank", "computed sizes", "computed sizes read on", "squeeze"]
)
def test_a_declared_inner_value_that_lies(name: str, tmp_path: Path) -> None:
    paths, out = lying(tmp_path, name, inner=True), str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out)
    for batch in (1, 3, 4):
        agrees(out, paths, [drawn(path, batch, seed=k) for k, path in enumerate(paths)], "separate")


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_branches_that_lie(io: str, tmp_path: Path) -> None:
    """ONNX Runtime believes what all branches declare, so that the sources run with a batch of 1 alone."""
    text = f"g ({X}, bool p) => (float[7] y) {{ {HEAD} {IF} }}"
    paths = [save(tmp_path / f"m{k}.onnx", model(text, {"w": (6, 4)}, seed=k)) for k in range(2)]
    out = str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out, io=io, verify=False)
    feeds = [
        {"x": drawn_x, "p": np.array(k == 0)} for k, drawn_x in enumerate(np.ones((2, 1, 6), np.float32))
    ]
    agrees(out, paths, feeds, io)
    assert declared(out)[0] == ((2, "batch", 4) if io == "stacked" else ("batch", 4))


CONV = "float[batch,5,8] y, float[batch,5,8] z"
GROWS = f"""g (float[batch,3,8] x) => ({CONV}) <int64 n = {{3}}, int64[1] first = {{0}}> {{
    h, all = Loop(n, "", x) <body = t (int64 i, bool q, float[1,3,8] s) => (bool r, float[1,3,8] a, float[1,3,8] o)
        {{ r = Identity(q) a = STEP o = Mul(s, k) }}>
    y = Conv<pads = [1, 1]>(h, w) sum = ReduceSum<keepdims = 0>(all, first) z = Conv<pads = [1, 1]>(LAST, w) }}"""


@pytest.mark.parametrize(("step", "last"), [("Mul(s, k)", "sum"), ("Concat<axis = 0>(s, s)", "h")])
@pytest.mark.parametrize("batch", ["batch", "2"])
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_a_loop_whose_body_lies(io: str, batch: str, step: str, last: str, tmp_path: Path) -> None:
    """What follows it is merged by sizes that are not those of the body: ONNX Runtime would believe the body."""
    text = GROWS.replace("STEP", step).replace("LAST", last).replace("[batch", f"[{batch}")
    if "Concat" in step:
        text = (
            text.replace("all = Loop", " = Loop").replace(", float[1,3,8] o", "").replace("o = Mul(s, k)", "")
        )
        text = text.replace("h,  =", "h =").replace("sum = ReduceSum<keepdims = 0>(all, first)", "")
    weights = {"k": (3, 1), "w": (5, 3, 3)}
    paths = [save(tmp_path / f"m{k}.onnx", model(text, weights, seed=k)) for k in range(2)]
    out = str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out, io=io)
    for size in (1, 3, 4) if batch == "batch" else (2,):
        agrees(out, paths, [drawn(path, size, seed=k) for k, path in enumerate(paths)], io)


def test_branches_of_two_ranks(tmp_path: Path) -> None:
    """torch exports a squeeze of an open axis so: a run tells the rank of one branch, never that of the other."""
    text = f"""g ({X3}) => (float[batch,4] y) {{ {HEAD} m = ReduceMax<axes = [1], keepdims = 0>(h)
        s = Shape<start = 1, end = 2>(x) one = Constant<value_ints = [1]>() p = Equal(s, one)
        z = If(p) <then_branch = t () => (float[batch,4] a) {{ a = Squeeze(h, one) }},
                   else_branch = e () => (float[batch,seq,4] c) {{ c = Relu(h) }}>
        y = Mul(z, v) }}"""
    paths = [save(tmp_path / f"m{k}.onnx", model(text, {"w": (6, 4), "v": (4,)}, seed=k)) for k in range(2)]
    out = str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out)
    for shape in ((2, 1, 6), (1, 1, 6), (2, 3, 6), (3, 2, 6)):
        feeds = [{"x": np.random.default_rng(k).standard_normal(shape).astype(np.float32)} for k in range(2)]
        agrees(out, paths, feeds, "separate")


def test_a_size_of_each_models_own_data_has_a_name_for_each(tmp_path: Path) -> None:
    """The models find different numbers of things: one name would say that they are equal."""
    text = f"g ({X}) => (int64[2,found] y, float[n,4] z) {{ {HEAD} r = Relu(h) y = NonZero(r) z = Neg(h) }}"
    paths = [
        save(tmp_path / f"{name}.onnx", model(text, {"w": (6, 4)}, seed=k)) for k, name in enumerate("ab")
    ]
    out = str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out)
    assert declared(out) == [(2, "a/found"), ("n", 4), (2, "b/found"), ("n", 4)]


def test_a_tree_that_declares_one_label(tmp_path: Path) -> None:
    """onnxmltools writes int64[1] for the label of a classifier."""
    attrs = """nodes_treeids = [0,0,0], nodes_nodeids = [0,1,2], nodes_featureids = [INDEX,0,0], nodes_values = [0.1,0.0,0.0],
        nodes_modes = ["BRANCH_LEQ","LEAF","LEAF"], nodes_truenodeids = [1,0,0], nodes_falsenodeids = [2,0,0],
        class_treeids = [0,0], class_nodeids = [1,2], class_ids = [0,0], class_weights = [-0.INDEX,0.7],
        classlabels_int64s = [0,1], post_transform = "LOGISTIC" """
    text = f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> g (float[batch,6] x) =>
        (int64[1] y, float[1,2] p) {{ l, s = ai.onnx.ml.TreeEnsembleClassifier<{attrs}>(x)
        y = Cast<to = 7>(l) p = ai.onnx.ml.Normalizer<norm = "L1">(s) }}"""
    paths = [
        save(tmp_path / f"m{k}.onnx", onnx.parser.parse_model(text.replace("INDEX", str(k + 2))))
        for k in (0, 1)
    ]
    out = str(tmp_path / "out.onnx")
    for io in ("separate", "stacked"):
        netfuse_onnx.merge(paths, out, io=io)
        for batch in (1, 3, 4):
            agrees(out, paths, [drawn(path, batch, seed=k) for k, path in enumerate(paths)], io)


# ------------------------------------------------------------------------ what is asked of a run


class Asked:
    """Stands in for runs of a model: remembers what it is asked, and answers with given shapes."""

    def __init__(self, *answers: tuple[Mapping[str, int], Mapping[str, tuple[int, ...]]]) -> None:
        self.names: list[tuple[str, ...]] = []
        self.runs = [
            Run(sizes, {name: ValueType(1, dims) for name, dims in shapes.items()})
            for sizes, shapes in answers
        ]

    def __call__(self, source: Source, names: tuple[str, ...]) -> Sequence[Run]:
        self.names.append(names)
        return self.runs


def settled(folder: Path, text: str, ask: Asked) -> tuple[Source, dict[str, ValueType]]:
    return resolve_claims(load(save(folder / "a.onnx", model(text, {"w": (6, 4)}))), ask)


@pytest.mark.parametrize("output", ["float[batch,4]", "float[n,m]", "float[1,4]", "float[1,4,1]", "float[]"])
def test_no_run_for_what_inference_knows(output: str, tmp_path: Path) -> None:
    ask = Asked()
    settled(tmp_path, f"g ({X}) => ({output} y) {{ y = MatMul(x, w) }}", ask)
    assert not ask.names


@pytest.mark.parametrize(
    ("output", "truth"),
    [("1,12", ("batch", 12)), ("batch,12", ("batch", 12)), ("n,12", ("n", 12)), ("rows,12", ("batch", 12)),
     ("rows,m", ("batch", 12)), ("n,n", ("batch", 12))],
)  # fmt: skip
def test_no_run_for_what_inference_knows_of_sizes(
    output: str, truth: tuple[Dim, ...], tmp_path: Path
) -> None:
    """onnx does not follow open axes through a Reshape, and follows sizes."""
    ask = Asked()
    text = f"""g (float[batch,2,6] x, float[rows,6] z) => (float[{output}] y, float[rows,6] u) <int64[2] m = {{-1, 12}}>
        {{ y = Reshape(x, m) u = Neg(z) }}"""
    found = settled(tmp_path, text, ask)[1]
    assert found["y"].dims == truth
    assert not ask.names


FLAT = "g (float[batch,6] x, int64[{1}] to) => (float[{0}] y) {{ y = Reshape(x, to) }}"
CONFIRMED: list[tuple[str, list[tuple[int, ...]], tuple[Dim, ...]]] = [
    ("2, 4", [(2, 4), (2, 4)], (2, 4)),
    ("2, 4", [(2, 4), (3, 4)], ("batch", 4)),
    ("1, 4", [(2, 4), (3, 4)], ("batch", 4)),
    ("1, 4", [(4, 4), (6, 4)], (None, 4)),
    ("4, 4", [(4, 4), (6, 4)], (None, 4)),
    ("batch, 4", [(2, 4), (3, 4)], ("batch", 4)),
    ("batch, 4", [(4, 4), (3, 4)], (None, 4)),
    ("rows, 4", [(5, 4), (6, 4)], ("rows", 4)),
    ("rows, rows, 4", [(5, 5, 4), (6, 7, 4)], (None, None, 4)),
    ("rows, rows, 4", [(5, 5, 4), (6, 6, 4)], ("rows", "rows", 4)),
    ("rows, 7", [(5, 4), (6, 4)], ("rows", None)),
]


@pytest.mark.parametrize(("said", "seen", "truth"), CONFIRMED)
def test_what_runs_say_of_a_claim(
    said: str, seen: list[tuple[int, ...]], truth: tuple[Dim, ...], tmp_path: Path
) -> None:
    """Sizes that runs bear out are declared; they decide nothing else."""
    ask = Asked(*(({"batch": batch}, {"y": dims}) for batch, dims in zip((2, 3), seen, strict=True)))
    source, found = settled(tmp_path, FLAT.format(said, len(truth)), ask)
    assert found["y"].dims == truth
    assert not any(isinstance(dim, int) for dim in source.graph.types["y"].dims or ())


def test_without_runs_the_claim_is_repeated(tmp_path: Path) -> None:
    for ask in (None, Asked()):
        source, found = resolve_claims(load(save(tmp_path / "a.onnx", model(FLAT.format("7, n", 2)))), ask)
        assert found["y"].dims == (7, "n")
        assert source.graph.types["y"].rank == 2
        assert 7 not in (source.graph.types["y"].dims or ())


def test_a_rank_that_differs_from_run_to_run_stays_unknown(tmp_path: Path) -> None:
    ask = Asked(({"batch": 2}, {"h": (2, 6), "y": (2, 6)}), ({"batch": 3}, {"h": (3,), "y": (3,)}))
    text = f"g ({X}) => (float[batch,6] y) {{ h = com.microsoft.Unheard(x) y = Relu(h) }}"
    source, found = settled(tmp_path, text, ask)
    assert source.graph.types["h"].rank is source.graph.types["y"].rank is None
    assert found["y"].rank is None


OPAQUE = "s = Shape(x) t = Abs(s) "
"""The sizes of x on a way that inference does not follow."""
RUN = [
    ("batch, 6", "y = Reshape(x, t)", ("batch", 6)),
    ("2, 6", "y = Reshape(x, t)", ("batch", 6)),
    ("n, 6", "y = Reshape(x, t)", ("n", 6)),
    (
        "6, n",
        "u = Transpose(x) i = Constant<value_ints = [1, 0]>() r = Gather(t, i) y = Reshape(u, r)",
        (6, "n"),
    ),
    ("4, 2", "n = NonZero(x) y = Reshape(n, m)", (None, 2)),
]


@pytest.mark.parametrize(("said", "nodes", "truth"), RUN)
def test_declared_sizes_are_looked_up_in_runs(
    said: str, nodes: str, truth: tuple[Dim, ...], tmp_path: Path
) -> None:
    """verify makes the same runs again, and the same graph."""
    kind = "int64" if "NonZero" in nodes else "float"
    made = model(f"g ({X}) => ({kind}[{said}] y) <int64[2] m = {{-1, 2}}> {{ {OPAQUE} {nodes} }}")
    paths = [save(tmp_path / f"{name}.onnx", made) for name in "ab"]
    out = str(tmp_path / "out.onnx")
    netfuse_onnx.merge(paths, out)
    assert declared(out) == [truth, truth]
    assert "onnxruntime" in metadata.read(out).tools
    again = netfuse_onnx.verify(out, paths)
    assert again.ok
    assert again.graph.ok
    assert not again.graph.note


def test_the_lookup_takes_two_sizes_of_every_axis(tmp_path: Path) -> None:
    text = f"g (float[a,b,2,c] x) => (float[n,n,n,n] y) {{ {OPAQUE} y = Reshape(x, t) }}"
    source = resolve_claims(load(save(tmp_path / "a.onnx", model(text))))[0]
    one, two = observed(source, ("y",))
    for axis, name in enumerate(("a", "b", 2, "c")):
        sizes = [run.values["y"].dims[axis] for run in (one, two)]
        assert sizes == ([2, 2] if name == 2 else [run.sizes[name] for run in (one, two)])
        assert len(set(sizes)) == (1 if name == 2 else 2)


def test_the_lookup_takes_other_values_where_no_size_is_open(tmp_path: Path) -> None:
    text = "g (float[4,6] x) => (int64[2,24] y) { r = Relu(x) y = NonZero(r) }"
    source = resolve_claims(load(save(tmp_path / "a.onnx", model(text))))[0]
    one, two = observed(source, ("y",))
    assert one.values["y"].dims != two.values["y"].dims


def test_nothing_is_looked_up_with_inputs_that_cannot_be_made_up(tmp_path: Path) -> None:
    """An input of unknown rank is no scalar: what follows from it has no known rank either."""
    made = model("g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }")
    made.graph.input[0].type.tensor_type.ClearField("shape")
    source = resolve_claims(load(save(tmp_path / "a.onnx", made)), observed)[0]
    assert source.graph.types["y"].rank is None


def test_nothing_is_looked_up_where_it_takes_too_much_memory(tmp_path: Path) -> None:
    text = f"g (float[batch,40000,40000] x) => (float[batch,4,8] y) {{ {OPAQUE} y = Reshape(x, t) }}"
    source = resolve_claims(load(save(tmp_path / "a.onnx", model(text))))[0]
    assert observed(source, ("y",)) == ()
