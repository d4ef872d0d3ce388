"""One meaning, many spellings: they match, what is merged of them is right, and nothing else matches."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime.capi.onnxruntime_pybind11_state as _C
import oracle
import pytest
from samples import same_bytes
from spellings import (
    DEFAULTS,
    FAR32,
    FAR64,
    MANY,
    OLD,
    ONE_AXIS,
    Spelling,
    floats,
    ints,
    model,
    one_axis,
    pad,
    protos,
    resize,
    sets,
    slice_,
)

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent, NotStackable
from netfuse_onnx.load.loader import load
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.match.flat import Flat, Step
from netfuse_onnx.match.matcher import match
from netfuse_onnx.match.spelling import normal_form
from netfuse_onnx.ops import schemas
from netfuse_onnx.ops.axes import FREE, INPUTS, ONE, ROWS, SETS
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.rewrite.believed import believe_types
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.types import Correspondence, Node, ValueType

REDUCED = [
    sets(op, opset) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2") for opset in (17, 18)
]
EVERY = [*MANY, *DEFAULTS, *OLD, *REDUCED, *(s for op in ONE_AXIS for s in one_axis(op, 3))]


def saved(folder: Path, name: str, proto: onnx.ModelProto) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(proto, path)
    return path


def matched(*paths: Path, partial: bool = False) -> Correspondence | None:
    """The family, or None where the files are not one."""
    sources = [load(str(path)) for path in paths]
    try:
        return believe_types(fold(match(sources, ["a", "b", "c"][: len(paths)], partial=partial)))
    except NotEquivalent:
        return None


def assert_merges_right(family: Correspondence, paths: Sequence[Path], feeds: Sequence[np.ndarray]) -> None:
    """What is merged of the files gives what each of them gives."""
    for io in ("separate", "stacked"):
        try:
            merged = oracle.materialise(lower(family, planning.plan(family, io=io), io=io))
        except NotStackable:
            continue
        names = family.names
        stacked = oracle.merged_feeds({"x": np.stack(feeds)}, {"x": "input"}, io, names)
        singles = [oracle.run(str(p), {"x": x}, oracle.LEVELS[0]) for p, x in zip(paths, feeds, strict=True)]
        for level in oracle.LEVELS:
            oracle.compare(singles, oracle.run(merged, stacked, level), io, names, io, 1e-4)


def result(path: Path, feed: np.ndarray) -> np.ndarray:
    return next(iter(oracle.run(str(path), {"x": feed}, oracle.LEVELS[0]).values()))


def drawn(spelling: Spelling, seed: int) -> np.ndarray:
    shape = [2 if isinstance(dim, str) else dim for dim in spelling.dims]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spelling", EVERY, ids=str)
def test_what_says_the_same_matches_and_what_does_not_is_never_taken_for_it(
    spelling: Spelling, tmp_path: Path
) -> None:
    groups = [
        [saved(tmp_path, f"m{i}_{j}", proto) for j, proto in enumerate(some)]
        for i, some in enumerate(protos(spelling))
    ]
    feed, other_feed = drawn(spelling, 5), drawn(spelling, 6)
    results = {path: result(path, feed) for paths in groups for path in paths}
    for paths in groups:
        for one, other in itertools.permutations(paths, 2):
            assert equal(results[one], results[other]), "the case is wrong: they differ"
            family = matched(one, other)
            assert family is not None, (one.stem, other.stem)
            assert not family.attrs
    for mine, others in itertools.permutations(groups, 2):
        assert not equal(results[mine[0]], results[others[0]]), "the case is wrong: they are equal"
        for one, other in itertools.product(mine, others):
            family = matched(one, other)
            if family is not None:  # each model keeps its own
                assert spelling.name in DATA
                assert_merges_right(family, [one, other], [feed, other_feed])


DATA = (
    *("Pad", "Trilu", "CumSum", "QuantizeLinear", "com.microsoft.ExpandDims", "DFT", "Slice"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare", "ConstantOfShape"),
)
"""Operators whose constants may differ between the models where all shapes come out equal."""


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("op", ONE_AXIS)
def test_an_axis_from_the_front_and_from_the_back(op: str, rank: int, tmp_path: Path) -> None:
    """The merged graph of two files with weights of their own gives what each file gives."""
    for spelling in one_axis(op, rank):
        pairs = zip(protos(spelling, 0), protos(spelling, 1), strict=True)
        for axis, ((front, _), (_, back)) in enumerate(pairs):
            paths = [saved(tmp_path, f"{axis}{k}", proto) for k, proto in enumerate((front, back))]
            feeds = [drawn(spelling, k) for k in range(2)]
            for turn in (1, -1):
                family = matched(*paths[::turn])
                assert family is not None and not family.attrs
                assert_merges_right(family, paths[::turn], feeds)


# --------------------------------------------------------------------------- --partial


UNLIKE = {
    "an activation beside axes": (
        "r = LeakyRelu<alpha=0.1>(h) y = Softmax<axis=-1>(r)",
        "r = LeakyRelu<alpha=0.3>(h) y = Softmax<axis=2>(r)",
    ),
    "an axis and how it is written": ("y = Softmax<axis=-1>(h)", "y = Softmax<axis=1>(h)"),
    "what goes with absent axes": (
        "y = ReduceSum<keepdims=0>(h)",
        ints("a", [0, 1, 2]) + "y = ReduceSum<keepdims=1, noop_with_empty_axes=1>(h, a)",
    ),
    "bounds whose axes are in another order": (
        slice_([0, 1], [2, 3], [1, 2]),
        slice_([1, 0], [4, 2], [-1, -2]),
    ),
    "bounds, and axes that one leaves out": (slice_([0], [1]), slice_([0], [2], [0])),
    "a mode, and scales in another order": (
        resize([2, 3], "axes=[1, 2]"),
        floats("s", [3, 2]) + 'y = Resize<axes=[-1, -2], mode="linear">(h, , s)',
    ),
    "sizes in another order": (
        resize([2, 3], "axes=[1, 2]"),
        resize([4, 2], "axes=[-1, -2]"),
    ),
    "a value of padding, and its rows": (
        pad([1, 0, 0, 2], [1, 2], "3.0"),
        pad([0, 1, 2, 0], [2, 1], "5.0"),
    ),
    "how a part is named": (
        "y, z = Split<axis=2, num_outputs=2>(h)",
        ints("p", [1, 2]) + "y, z = Split<axis=-2>(h, p)",
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_partial_merges_what_differs_and_is_written_in_two_ways(name: str, tmp_path: Path) -> None:
    dims = (2, 3, 4)
    paths = [
        saved(tmp_path, f"m{k}", model(body, k, opset=18, dims=dims)) for k, body in enumerate(UNLIKE[name])
    ]
    feeds = [np.random.default_rng(k).standard_normal(dims).astype(np.float32) for k in range(2)]
    for turn in (1, -1):
        family = matched(*paths[::turn], partial=True)
        assert family is not None
        assert_merges_right(family, paths[::turn], feeds)


# --------------------------------------------------------------------------- what is said, and what is not known


def refusal(
    folder: Path, *bodies: str, dims: Sequence[int | str] = ("b", 3, 4), opset: int = 17
) -> NotEquivalent:
    paths = [saved(folder, f"m{k}", model(body, k, opset=opset, dims=dims)) for k, body in enumerate(bodies)]
    with pytest.raises(NotEquivalent) as caught:
        match([load(str(path)) for path in paths], ["a", "b"])
    return caught.value


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("y = Softmax<axis=-1>(h)", "y = Softmax<axis=1>(h)", "attribute 'axis' is -1 and 1"),
        ("y = Softmax(h)", "y = Softmax<axis=-2>(h)", "attribute 'axis' is absent and -2"),
        ("y = ReduceMax<axes=[-1]>(h)", "y = ReduceMax<axes=[1, 0]>(h)", "attribute 'axes' is [-1] and [1, 0]"),
        (ints("a", [-1]) + "y = ReduceSum(h, a)", ints("q", [1]) + "y = ReduceSum(h, q)",
         "input 1: weight 'a' decides a shape, so it must be equal, and it is [-1] and [1]"),
        (slice_([1, 0], [2, FAR32], [-1, 1]), slice_([0], [1], [2]), "weight 's' is int64[2] and int64[1]"),
        ("y = Dropout(h)", "y = Trilu(h)", "Dropout is not Trilu"),
    ],
)  # fmt: skip
def test_a_difference_is_told_in_the_words_of_the_files(
    tmp_path: Path, one: str, other: str, said: str
) -> None:
    fault = refusal(tmp_path, one, other)
    assert said in fault.message, fault.message
    assert "\0" not in fault.message
    assert fault.hint


def test_an_input_that_one_file_lacks_is_told(tmp_path: Path) -> None:
    one, other = pad([0, 1, 0, 0, 0, 2]), pad([1, 0, 0, 2], [1, 2], "3.0")
    assert "input 2 is absent and weight 'v' 3.0" in refusal(tmp_path, one, other, opset=18).message
    assert "input 2 is weight 'v' 3.0 and absent" in refusal(tmp_path, other, one, opset=18).message


UNRANKED = "u = Squeeze(h) "
"""Whatever has size 1 goes: the rank is another in every run."""


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("y = Softmax<axis=1>(u)", "y = Softmax<axis=-1>(u)", "is 1 and -1, and the rank"),
        (ints("a", [1]) + "y = ReduceSum(u, a)", ints("a", [-1]) + "y = ReduceSum(u, a)",
         "is [1] and [-1], and the rank is unknown, so axes from the front can't be compared"),
        ("y = Shape<start=1>(u)", "y = Shape<start=-1>(u)", "attribute 'start' is 1 and -1"),
    ],
)  # fmt: skip
def test_an_axis_of_an_unknown_rank_is_refused(tmp_path: Path, one: str, other: str, said: str) -> None:
    fault = refusal(tmp_path, UNRANKED + one, UNRANKED + other, dims=("b", "c", 4))
    assert said in fault.message, fault.message
    assert fault.hint.startswith("--partial")


def test_a_declared_rank_that_is_not_kept_says_nothing(tmp_path: Path) -> None:
    """u may have rank 3, whatever the file declares of it as an output."""
    paths = []
    for k, axis in enumerate((1, -1)):
        proto = model(f"{UNRANKED}y = Softmax<axis={axis}>(u)", k, dims=("b", "c", 4))
        wrong = onnx.helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, ["b", 4])
        proto.graph.output.append(wrong)
        paths.append(saved(tmp_path, f"m{k}", proto))
    assert matched(*paths) is None


def test_a_constant_that_others_read_too_stays_what_it_is(tmp_path: Path) -> None:
    """The axis is data elsewhere, where -1 and 2 are not one."""
    text = "a = Constant<value_ints=[{}]>() r = ReduceSum(h, a) c = Cast<to=1>(a) y = Add(r, c)"
    paths = [
        saved(tmp_path, f"m{k}", model(text.format(a), k, dims=(2, 3, 4))) for k, a in enumerate((2, -1))
    ]
    feeds = [np.random.default_rng(k).standard_normal((2, 3, 4)).astype(np.float32) for k in range(2)]
    for turn in (1, -1):
        family = matched(*paths[::turn])
        assert family is not None
        assert_merges_right(family, paths[::turn], feeds)


def test_a_constant_that_is_not_an_axis_alone_is_still_compared(tmp_path: Path) -> None:
    text = "a = Constant<value_ints=[{0}]>() r = ReduceSum(h, a) s = Concat<axis=0>(a, a, a) y = Expand(r, s)"
    assert "decides a shape" in refusal(tmp_path, text.format(2), text.format(-1)).message


def test_three_models_in_three_spellings(tmp_path: Path) -> None:
    bodies = ["y = Softmax<axis=2>(h)", "y = Softmax(h)", "n = Neg(h) y = Softmax<axis=-1>(h)"]
    paths = [saved(tmp_path, f"m{k}", model(body, k, dims=(2, 3, 4))) for k, body in enumerate(bodies)]
    feeds = [np.random.default_rng(k).standard_normal((2, 3, 4)).astype(np.float32) for k in range(3)]
    family = matched(*paths)
    assert family is not None
    assert_merges_right(family, paths, feeds)


def test_a_merge_of_two_spellings_is_proved_and_proved_again(tmp_path: Path) -> None:
    """Both merges of the same files are one file, byte for byte, and verify plans it again."""
    texts = [
        slice_([0, 1], [2, FAR64], [1, 2]).replace("y =", "p =") + " q = Softmax<axis=-1>(p) "
        "u = ReduceMean<axes=[-1]>(q) y = Flatten(u)",
        slice_([1, 0], [FAR32, 2], [-1, -2]).replace("y =", "p =") + " q = Softmax<axis=2>(p) "
        "u = ReduceMean<axes=[2], keepdims=1>(q) y = Flatten<axis=-2>(u)",
    ]
    paths = [str(saved(tmp_path, f"m{k}", model(body, k))) for k, body in enumerate(texts)]
    outs = [str(tmp_path / f"merged{k}.onnx") for k in range(2)]
    for out in outs:
        netfuse_onnx.merge(paths, out, dims={"b": 2})
    assert same_bytes(*outs)
    report = netfuse_onnx.verify(outs[0], paths, dims={"b": 2})
    assert report.ok
    assert report.graph.ok


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax", "ReduceSum", "Squeeze", "Unsqueeze"])
def test_axes_of_files_of_opset_11_and_13_and_17(op: str, tmp_path: Path) -> None:
    """The conversion writes axes in its own way."""
    axes = {"ReduceSum": [2], "Squeeze": [1], "Unsqueeze": [1, 3]}.get(op)
    before = "k = Constant<value_ints=[0]>() v = Gather<axis=1>(h, k) " if op == "Squeeze" else "v = Neg(h) "
    paths = []
    for k, opset in enumerate((11, 13, 17)):
        if axes is None:
            body = f"y = {op}<axis={2 if opset < 17 else -1}>(v)"
        elif opset == 11:
            body = f"y = {op}<axes={axes}>(v)"
        else:
            rank = 3 + 2 * (op == "Unsqueeze")
            body = ints("a", [axis - rank for axis in reversed(axes)]) + f"y = {op}(v, a)"
        paths.append(saved(tmp_path, f"m{k}", model(before + body, k, opset=opset, dims=(2, 3, 4))))
    feeds = [np.random.default_rng(k).standard_normal((2, 3, 4)).astype(np.float32) for k in range(3)]
    family = matched(*paths)
    assert family is not None
    assert_merges_right(family, paths, feeds)


def test_axes_from_the_back_in_a_file_of_opset_9(tmp_path: Path) -> None:
    """The standard has none at that opset, the exporters do: onnx gives up on the Concat, and its converter
    would wrap the Softmax, whose rank it does not know."""
    before = "k = Constant<value=int64[1] {1}>() n = Neg(h) "
    old = "c = Concat<axis=-1>(h, n) s = Softmax<axis=-1>(c) u = Gather<axis=-2>(s, k) y = Squeeze<axes=[-2]>(u)"
    new = (
        "c = Concat<axis=2>(h, n) s = Softmax(c) u = Gather<axis=1>(s, k) "
        + ints("a", [1])
        + "y = Squeeze(u, a)"
    )
    paths = [
        saved(tmp_path, "m0", model(before + old, 0, opset=9, dims=(2, 3, 4))),
        saved(tmp_path, "m1", model(before + new, 1, opset=17, dims=(2, 3, 4))),
    ]
    feeds = [np.random.default_rng(k).standard_normal((2, 3, 4)).astype(np.float32) for k in range(2)]
    for turn in (1, -1):
        family = matched(*paths[::turn])
        assert family is not None
        assert_merges_right(family, paths[::turn], feeds)


def test_a_softmax_of_opset_11_behind_a_computed_reshape(tmp_path: Path) -> None:
    """Only the length of the shape tells that its axis is the last one; onnx's converter does not see that."""
    head = "s = Shape(h) i = Constant<value_int=0>() d = Gather(s, i) "
    tail = ints("m", [-1]) + "c = Concat<axis=0>(u, m) r = Reshape(h, c) y = Softmax<axis={}>(r)"
    old = head + "u = Unsqueeze<axes=[0]>(d) " + tail.format(1)
    new = head + ints("z", [0]) + "u = Unsqueeze(d, z) " + tail.format(-1)
    paths = [
        saved(tmp_path, "m0", model(old, 0, opset=11)),
        saved(tmp_path, "m1", model(new, 1, opset=13)),
    ]
    feeds = [np.random.default_rng(k).standard_normal((2, 3, 4)).astype(np.float32) for k in range(2)]
    for turn in (1, -1):
        family = matched(*paths[::turn])
        assert family is not None
        assert_merges_right(family, paths[::turn], feeds)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_a_softmax_of_opset_11_over_several_axes_is_none_of_opset_13(op: str, tmp_path: Path) -> None:
    """Of one rank 3 and axis 1, the old one works along axes 1 and 2 together."""
    paths = [
        saved(tmp_path, f"m{k}", model(f"y = {op}<axis=1>(h)", k, opset=opset, dims=(2, 3, 4)))
        for k, opset in enumerate((11, 13))
    ]
    assert matched(*paths) is None
    old = [paths[0], saved(tmp_path, "m2", model(f"y = {op}<axis=-2>(h)", 2, opset=12, dims=(2, 3, 4)))]
    feeds = [np.random.default_rng(k).standard_normal((2, 3, 4)).astype(np.float32) for k in range(2)]
    family = matched(*old)
    assert family is not None
    assert_merges_right(family, old, feeds)


@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax", "Hardmax<axis=1>", "Hardmax<axis=2>"])
def test_a_softmax_of_opset_11_keeps_its_meaning(op: str, body: bool, tmp_path: Path) -> None:
    text = f"y = {op}(h)"
    if body:
        branches = f"then_branch = t () => (float o) {{ o = {op}(h) }}, else_branch = e () => (float o) {{ o = Neg(h) }}"
        text = f"c = ReduceSum<keepdims=0>(h) g = Equal(c, c) y = If(g)<{branches}>"
    paths = [saved(tmp_path, f"m{k}", model(text, k, opset=11, dims=(2, 3, 4))) for k in range(2)]
    feeds = [np.random.default_rng(k).standard_normal((2, 3, 4)).astype(np.float32) for k in range(2)]
    family = matched(*paths)
    assert family is not None
    assert_merges_right(family, paths, feeds)


# --------------------------------------------------------------------------- the tables


def test_every_attribute_that_is_named_like_an_axis_has_a_form() -> None:
    """Those of onnx since opset 9 and of ONNX Runtime's own domain."""
    for key, name in sorted({*_of_onnx(), *_of_the_runtime()}):
        known = {*ONE.get(key, ()), *SETS.get(key, ()), *ROWS.get(key, ())}
        assert name in known or f"{key}.{name}" in FREE, f"{key}.{name}"


def _of_onnx() -> Iterator[tuple[str, str]]:
    for schema in onnx.defs.get_all_schemas_with_history():
        facts = schemas.facts(schema.name, "", 9)
        old = facts is not None and schema.since_version < facts.since
        if schema.domain == "" and not old and not schema.deprecated:
            yield from ((schema.name, name) for name in schema.attributes if AXIS.search(name))


def _of_the_runtime() -> Iterator[tuple[str, str]]:
    for schema in _C.get_all_operator_schema():
        if schema.domain == "com.microsoft":
            names = (name for name in schema.attributes if AXIS.search(name) or name == "dim")
            yield from ((f"com.microsoft.{schema.name}", name) for name in names)


AXIS = re.compile(r"axis|(?<!empty_)axes|batch_dims")


def test_every_input_that_is_named_like_an_axis_has_a_form() -> None:
    for schema in onnx.defs.get_all_schemas():
        for k, formal in enumerate(schema.inputs):
            if formal.name in ("axis", "axes"):
                assert INPUTS.get(schema.name) == k, schema.name


def test_the_defaults_of_the_runtime_are_those_of_the_one_installed() -> None:
    """Another version of ONNX Runtime may have more of them; none may have changed."""
    for schema in _C.get_all_operator_schema():
        known = schemas.defaults(schema.name, schema.domain, 1) if schema.domain in OWN_DOMAINS else {}
        for name, attribute in schema.attributes.items() if known else ():
            default = attribute._default_value
            proto = onnx.AttributeProto.FromString(default) if default else onnx.AttributeProto()
            value = onnx.helper.get_attribute_value(proto) if proto.name else None
            assert known.get(name) == value, f"{schema.name}.{name}"


OWN_DOMAINS = ("com.microsoft", "com.microsoft.nchwc")


def test_the_inputs_of_the_runtime_are_those_of_the_one_installed() -> None:
    """Another version of ONNX Runtime may take more of them, and have more operators."""
    seen = set()
    for schema in _C.get_all_operator_schema():
        key = f"{schema.domain}.{schema.name}".removeprefix(".")
        known = schemas.input_count(key)
        if known is None:
            continue
        names = [formal.name for formal in schema.inputs]
        assert known[0] >= schema.min_input and (known[1] or schema.max_input) <= schema.max_input, key
        if schema.domain:
            own = schemas.input_names(schema.name, schema.domain, 1)
            assert list(own) == names[: len(own)], key
        seen.add(key)
    assert len(seen) > 100


def test_inputs_have_the_names_of_their_schemas() -> None:
    assert schemas.input_names("Conv", "", 17) == ("X", "W", "B")
    assert schemas.input_names("BiasGelu", "com.microsoft", 1) == ("A", "B")
    assert schemas.input_names("LayerNormalization", "", 12) == ("X", "Scale", "B")
    assert schemas.input_names("Unheard", "of", 1) == ()
    assert schemas.input_count("com.microsoft.QLinearConcat") == (3, None)
    assert schemas.input_count("com.microsoft.BiasSoftmax") == (2, 2)


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("key", sorted(ONE.keys() | SETS.keys()))
def test_every_operator_of_the_tables_counts_from_the_front(key: str, rank: int) -> None:
    """Those too that no provider at hand runs. OneHot, Unsqueeze and the like count in the rank of the output."""
    domain, _, op = key.rpartition(".")
    sequence = onnx.helper.make_sequence_type_proto(
        onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2] * rank)
    )
    kind = ValueType(proto=sequence) if op == "ConcatFromSequence" else ValueType(1, (2,) * rank)
    kinds = {f"i{k}": kind for k in range(4)} | {"i1": ValueType(1, (None,))}
    counted = rank + 1 if key in ("OneHot", "Unsqueeze") else rank
    for name in (*ONE.get(key, ()), *SETS.get(key, ())):
        for axis in range(counted):
            value: list[int] | int = [axis] if key in SETS else axis
            back: list[int] | int = [axis - counted] if key in SETS else axis - counted
            found = []
            for attrs in ({name: value}, {name: back}):
                node = Node(op, domain, "n", ("i0", "i1", "i2", "i3"), ("y",), attrs)
                step = Step(op, domain, node.inputs, node.outputs, attrs, node, 0)
                versions = {"": 12 if key in SETS and op != "MeanVarianceNormalization" else 18}
                flat = Flat("f", (), ("y",), [step], {}, {**versions, "com.microsoft": 1}, [])
                found.append(normal_form(flat, kinds).steps[0].attrs[name])
            assert found == [value, value], f"{key}.{name}"


@pytest.mark.parametrize(
    "body",
    [
        'y = com.microsoft.UnfoldTensor<dim="{}", size=2>(h)',
        "y = com.microsoft.QLinearReduceMean<axes=[{}.5]>(h)",
        "y = SimplifiedLayerNormalization<axis={}.5>(h, h)",
        ints("z", [5, 5]) + "y = Resize<axes=[9, {}]>(h, , , z)",
        ints("p", [1, 2, 3]) + "u = Pad(h, p) y = Softmax<axis={}>(u)",
        "y = Softmax<axis={}7>(h)",
        ints("a", [9]) + "c = Unsqueeze(h, a) y = Flatten<axis={}>(c)",
    ],
)
def test_attributes_that_make_no_sense_are_compared_as_they_are(body: str, tmp_path: Path) -> None:
    """No schema checks those of a foreign domain, and no load the range of an axis."""
    paths = [saved(tmp_path, f"m{k}", model(body.format(k), k, opset=18)) for k in (0, 1)]
    for turn in (1, -1):
        assert matched(*paths[::turn]) is None
