"""What a request may be is checked before it waits: each fault has its error, with model, input and what was
expected, and what is right passes as it is."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import served_files as files
from hypothesis import given, settings
from hypothesis import strategies as st

from netfuse_onnx import edges
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime.buckets import Buckets
from netfuse_onnx.runtime.bundle import Bundle, View
from netfuse_onnx.runtime.contract import KEPT_SHAPES, Contract
from netfuse_onnx.runtime.errors import BadInput, ServingError, TooLarge, UnknownModel

F = np.float32
TWO = files.Spec(
    ("alice", "bob"), "separate",
    {"ids": "int64", "mask": "float"},
    {"ids": ("B", "seq"), "mask": ("B", "seq", 2)},
)  # fmt: skip
GOOD = {"ids": np.ones((2, 3), np.int64), "mask": np.ones((2, 3, 2), F)}
SINGLE = files.Spec(("alice", "bob"), "stacked", {"x": "float"}, {"x": ("B", 2)})


def contract(spec: files.Spec = TWO, **options: Any) -> Contract:
    return Contract.read(files.PretendSession(spec), **options)


def refused(spec: files.Spec, model: Any, feeds: Mapping[str, Any], **options: Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        contract(spec, **options).check(model, feeds)
    assert str(caught.value).endswith((".", "]."))
    return caught.value


# --------------------------------------------------------------------------- what the file says


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_names_are_those_of_the_compiler(data: st.DataObject) -> None:
    """Own names that differ, shared inputs, combined outputs, models called like inputs: labels.py decides."""
    io = data.draw(st.sampled_from(edges.MODES))
    names = st.text("ab/ x", min_size=1, max_size=4)
    models = tuple(
        data.draw(st.lists(st.text("abx", min_size=1, max_size=2), min_size=1, max_size=3, unique=True))
    )
    inputs = data.draw(
        st.lists(names | st.sampled_from(["model", "models"]), min_size=1, max_size=3, unique=True)
    )
    inputs = [name for name in inputs if not name.startswith(tuple(f"{m}/" for m in models))] or ["x"]
    share = frozenset(data.draw(st.lists(st.sampled_from(inputs[1:]), unique=True)) if inputs[1:] else [])
    combined = (
        frozenset(f"y_{n}" for n in inputs if n not in share and data.draw(st.booleans()))
        if not edges.chooses(io) and not edges.is_routed(io)
        else frozenset()
    )
    outs = [f"y_{name}" for name in inputs if name not in share]
    own = tuple({n: n if not m else f"{n}.{m}" for n in (*inputs, *outs)} for m in range(len(models)))
    spec = files.Spec(
        models, io, dict.fromkeys(inputs, "float"), dict.fromkeys(inputs, ("B", 2)), share, combined,
        own if data.draw(st.booleans()) else (),
    )  # fmt: skip
    found, labels = contract(spec), spec.labels
    assert found.models == models and found.file.ids == labels.ids
    assert {port.merged[0] for port in found.outputs if port.once} == combined
    sides = ((found.inputs, labels.input, "inputs"), (found.outputs, labels.output, "outputs"))
    for ports, label, side in sides:
        order = list(getattr(spec.edges[0], side))
        assert sorted(port.own[0] for port in ports) == sorted(order)
        for port in ports:
            first = port.own[0]
            assert port.merged == tuple(label(m, first) for m in range(len(models)))
            assert port.own == tuple(getattr(edge, side)[first] for edge in spec.edges)
    assert {port.own[0] for port in found.inputs if port.once} == share


@pytest.mark.parametrize("io", edges.MODES)
def test_a_shape_is_that_of_one_model(io: str) -> None:
    found = contract(replace(TWO, io=io), own=files.OwnSession(TWO))
    assert [port.dims[1] for port in found.inputs] == [("B", "seq"), ("B", "seq", 2)]
    assert all(port.rows for port in (*found.inputs, *found.outputs))
    assert found.axes == ("seq",)
    assert found.apart == edges.is_routed(io)
    assert bool(found.reason) != found.apart


def test_a_file_of_something_else_is_refused() -> None:
    session = files.PretendSession(TWO)
    for facts in (None, {}, {"format": 2, "version": "9"}, session.facts | {"io": "sideways"}, []):
        session.get_modelmeta().custom_metadata_map.clear()
        other = files.PretendSession(TWO)
        other.facts = facts  # type: ignore[assignment]
        with pytest.raises(FileFault):
            Contract.read(other)
    lacking = files.PretendSession(TWO)
    lacking._inputs = lacking._inputs[1:]
    lacking.facts["names"] = [[["ids", "mask"], ["y_ids", "y_mask"]]] * 2
    with pytest.raises(FileFault, match="alice/ids"):
        Contract.read(lacking)
    strange = files.PretendSession(TWO)
    strange._inputs[0].type = "tensor(int4)"
    with pytest.raises(FileFault, match="int4"):
        Contract.read(strange)
    assert json.loads(files.PretendSession(TWO).get_modelmeta().custom_metadata_map["netfuse_onnx"])


def bundle(spec: files.Spec, **facts: Any) -> Bundle:
    views = tuple(
        View(name, f"{name}.onnx", tuple(edge.inputs.values()), tuple(edge.outputs.values()))
        for name, edge in zip(spec.models, spec.edges, strict=True)
    )
    usual: dict[str, Any] = {"batch": ("B",), "rows": tuple(spec.types), "rows_apart": True, "mixes": ""}
    return Bundle("f", "0", "m.onnx", spec.io, tuple(spec.share), views, files={}, **(usual | facts))


def test_rows_are_apart_where_that_is_known() -> None:
    """The user's word goes before the proof in the manifest; without either it is not known."""
    proven, mixed = bundle(TWO), bundle(TWO, rows_apart=False, mixes="node Softmax mixes the batch")
    assert not contract().apart
    assert contract(bundle=proven).apart and contract(rows_apart=True).apart
    assert not contract(bundle=proven, rows_apart=False).apart
    assert contract(bundle=mixed, rows_apart=True).apart
    assert contract(bundle=mixed).reason == "node Softmax mixes the batch"
    fixed = replace(TWO, shapes={"ids": (1, "seq"), "mask": (1, "seq", 2)})
    assert "batch axis" in contract(fixed, rows_apart=True).reason
    shared = replace(TWO, share=frozenset({"mask"}))
    assert "fed once" in contract(shared, rows_apart=True).reason
    whole = files.PretendSession(TWO)
    for argument in whole._outputs:
        argument.shape = argument.shape[1:]
    assert "has no batch axis" in Contract.read(whole, rows_apart=True).reason


def test_the_batch_is_the_first_axis_and_no_other() -> None:
    assert contract().file.batch == {"B"}
    square = replace(TWO, shapes={"ids": ("B", "B"), "mask": ("B", 1, 2)})
    assert not contract(square).file.batch
    boxes = replace(TWO, shapes={"ids": ("B", "seq"), "mask": ("boxes", 4)})
    session = files.PretendSession(boxes)
    assert not Contract.read(session).file.batch  # both stand first in outputs
    for argument in session._outputs:
        argument.shape = ["B", 4]
    assert Contract.read(session).file.batch == {"B"}
    unnamed = replace(TWO, shapes={"ids": (None, 2), "mask": ("seq", 1, 2)})  # type: ignore[dict-item]
    found = contract(unnamed)
    assert not found.file.batch and found.axes == ("ids.0", "seq")
    single = replace(SINGLE, shapes={"x": (None, 2)})  # type: ignore[dict-item]
    assert contract(single).file.batch == {"x.0"}
    assert contract(single, rows_apart=True).apart and not contract(single).apart


# --------------------------------------------------------------------------- what passes


@pytest.mark.parametrize("model", ["alice", "bob"])
def test_a_good_request_passes_as_it_is(model: str) -> None:
    found = contract()
    for _ in range(2):  # the second time its shapes are known
        one = found.check(model, GOOD)
        assert (one.model, one.rows) == (("alice", "bob").index(model), 2)
        assert all(a is b for a, b in zip(one.inputs, GOOD.values(), strict=True))
        assert found.check(model, dict(reversed(GOOD.items()))).inputs[0] is GOOD["ids"]
        assert one.form.sizes == (3,)  # type: ignore[attr-defined]
    odd = GOOD | {"mask": np.full((2, 3, 2), np.nan, F)}
    assert np.isnan(found.check(model, odd).inputs[1]).all()


def test_arrays_of_any_make_pass() -> None:
    found = contract(SINGLE)
    plain = np.arange(8, dtype=F).reshape(4, 2)
    frozen = plain.copy()
    frozen.flags.writeable = False
    for value in (plain[::2], np.asfortranarray(plain), frozen, plain.astype(">f4"), plain[::-1]):
        (taken,) = found.check("bob", {"x": value}).inputs
        np.testing.assert_array_equal(taken, value)
        assert taken.dtype == np.dtype(F) and taken.dtype.isnative


def test_a_copy_is_not_changed_by_its_caller() -> None:
    for spec, feeds in ((TWO, GOOD), (SINGLE, {"x": np.ones((1, 2), F)})):
        mine = {name: value.copy() for name, value in feeds.items()}
        found = contract(spec)
        found.check("bob", mine)
        one = found.check("bob", mine, copy=True)
        for value in mine.values():
            value[...] = 7
        for taken, value in zip(one.inputs, feeds.values(), strict=True):
            np.testing.assert_array_equal(taken, value)
    shared = contract(replace(TWO, share=frozenset({"mask"}), shapes={"ids": ("B",), "mask": (2,)}))
    mask = np.ones(2, F)
    one = shared.check("bob", {"ids": np.ones(1, np.int64), "mask": mask}, copy=True)
    mask[0] = 7
    assert one.form.once[0][1] == one.inputs[1].tobytes() != mask.tobytes()  # type: ignore[attr-defined]
    view = np.ones((4, 2), F)
    assert contract(SINGLE).check("bob", {"x": view[1:3]}, copy=True).inputs[0].base is None


LISTS = [
    ("float", [[0.1, 2]], F), ("float", [[1, 2]], F), ("float", [[float("inf"), float("nan")]], F),
    ("float16", [[1.5, 2]], np.float16), ("double", [[0.1, 1]], np.float64), ("int64", [[1, 2]], np.int64),
    ("uint8", [[255, 0]], np.uint8), ("bool", [[True, False]], np.bool_), ("string", [["a", "b"]], object),
    ("int64", ((1, 2),), np.int64),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "dtype"), LISTS)
def test_lists_are_converted_where_nothing_is_lost(kind: str, value: Any, dtype: Any) -> None:
    (taken,) = contract(replace(SINGLE, types={"x": kind})).check("bob", {"x": value}).inputs
    assert taken.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(taken, np.array(value, dtype))


LOST = [
    ("float", [[1e300, 0.0]]), ("float", [[2**24 + 1, 0]]), ("float", [[True, False]]), ("float", [["1", "2"]]),
    ("float16", [[70000.0, 0.0]]), ("float16", [[2049, 0]]), ("int64", [[1.0, 2.0]]), ("int64", [[2**63, 0]]),
    ("int64", [[True, False]]), ("uint8", [[256, 0]]), ("uint8", [[-1, 0]]), ("bool", [[0, 1]]),
    ("bool", [[0.5, 1.0]]), ("string", [[1, 2]]), ("string", [["a", 2]]), ("string", [[b"a", b"b"]]),
    ("float", [[1.0], [1.0, 2.0]]), ("float", [[None, 1.0]]), ("float", [[{}, 1.0]]), ("float", {"a": 1}),
    ("float", None), ("float", np.ma.masked_array([[1.0, 2.0]], [[0, 1]], F)), ("bfloat16", [[1.0, 2.0]]),
    ("float", [np.ones(2, np.float64)]), ("float", [[np.float64(1), np.float64(2)]]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), LOST)
def test_what_a_conversion_would_change_is_refused(kind: str, value: Any) -> None:
    error = refused(replace(SINGLE, types={"x": kind}), "bob", {"x": value})
    assert isinstance(error, BadInput) and (error.model, error.input) == ("bob", "x")
    assert error.expected == (
        "str" if kind == "string" else np.dtype(files.TYPES[kind]).name.replace("uint16", kind)
    )


@pytest.mark.parametrize("kind", list(files.TYPES))
@pytest.mark.parametrize("other", list(files.TYPES))
def test_an_array_must_have_the_type_of_its_input(kind: str, other: str) -> None:
    """A type is never changed without being asked: float64 would be rounded, and int32 copied in silence."""
    spec = replace(SINGLE, types={"x": kind})
    value = files.draw(replace(SINGLE, types={"x": other}), {"B": 1}, 0)["x"]
    if files.TYPES[kind] is files.TYPES[other]:
        contract(spec).check("bob", {"x": value})
        return
    error = refused(spec, "bob", {"x": value})
    assert isinstance(error, BadInput) and error.input == "x"


def test_bfloat16_is_taken_as_its_own_type_or_as_bits() -> None:
    spec = replace(SINGLE, types={"x": "bfloat16"})
    value = np.array([[1.5, -2]], ml_dtypes.bfloat16)
    for taken in (value, value.view(np.uint16), value[:, ::-1][:, ::-1]):
        (bits,) = contract(spec).check("bob", {"x": taken}).inputs
        assert bits.dtype == np.uint16
        np.testing.assert_array_equal(bits, value.view(np.uint16))
    for other in (np.int16, np.float16, ml_dtypes.float8_e5m2):
        assert refused(spec, "bob", {"x": np.ones((1, 2)).astype(other)}).expected == "bfloat16"


def test_strings_come_in_any_array_of_strings() -> None:
    spec = replace(SINGLE, types={"x": "string"})
    for value in (np.array([["a", "b"]]), np.array([["a", "b"]], object), [["a", "b"]]):
        (taken,) = contract(spec).check("bob", {"x": value}).inputs
        assert taken.dtype == object and taken.tolist() == [["a", "b"]]
    for odd in (np.array([["a", 1]], object), np.array([[b"a", b"b"]]), np.array([["a", None]], object)):
        assert refused(spec, "bob", {"x": odd}).input == "x"


# --------------------------------------------------------------------------- what is refused


def test_an_unknown_model_is_told_with_its_nearest_names() -> None:
    for name in ("alise", "", 3, None, ["alice"], "ALICE"):
        error = refused(TWO, name, GOOD)
        assert isinstance(error, UnknownModel) and error.model == str(name)
    assert refused(TWO, "alise", GOOD).expected == "alice"
    many = replace(TWO, models=tuple(f"tenant{m}" for m in range(100)))
    assert len(str(refused(many, "nobody", GOOD))) < 300


@pytest.mark.parametrize(
    ("feeds", "name"),
    [
        ({}, "ids"),
        ({"ids": GOOD["ids"]}, "mask"),
        (GOOD | {"more": 1}, "more"),
        ({"ids": GOOD["ids"], "Mask": GOOD["mask"]}, "mask"),
    ],
)
def test_missing_and_unknown_inputs_are_named(feeds: dict[str, Any], name: str) -> None:
    error = refused(TWO, "bob", feeds)
    assert isinstance(error, BadInput)
    assert (error.model, error.input, error.expected) == ("bob", name, "ids, mask")


@pytest.mark.parametrize("feeds", [None, [GOOD["ids"]], GOOD["ids"], "ids", 3])
def test_feeds_must_be_a_mapping(feeds: Any) -> None:
    for spec in (TWO, SINGLE):
        error = refused(spec, "bob", feeds)
        assert isinstance(error, BadInput) and error.expected == ", ".join(spec.types)
    proxy = types.MappingProxyType(GOOD)
    assert contract().check("bob", proxy).rows == 2


SHAPES = [
    ("ids", (6,), "rank"), ("ids", (2, 3, 1), "rank"), ("ids", (), "rank"), ("mask", (2, 3, 3), "is 3, not 2"),
    ("mask", (2, 4, 2), "'seq' is 4 here, and 3 elsewhere"), ("mask", (3, 3, 2), "'B' is 3 here, and 2 elsewhere"),
    ("ids", (0, 3), "no rows"), ("mask", (0, 3, 2), "no rows"), ("mask", (2, 1, 2), "'seq'"),
    ("mask", (1, 3, 2), "'B'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "why"), SHAPES)
def test_a_wrong_shape_is_told_with_the_right_one(name: str, shape: tuple[int, ...], why: str) -> None:
    found = contract()
    for warm in (False, True):
        if warm:
            found.check("bob", GOOD)
        with pytest.raises(BadInput, match=why) as caught:
            found.check("bob", GOOD | {name: np.ones(shape, GOOD[name].dtype)})
        error = caught.value
        assert (error.model, error.input) == ("bob", name)
        assert error.expected == {"ids": "[B, seq]", "mask": "[B, seq, 2]"}[name]
        assert str(list(shape)) in str(error)


def test_two_batches_must_have_as_many_rows() -> None:
    spec = replace(TWO, shapes={"ids": ("B", 2), "mask": ("C", 2)})
    found = contract(spec, bundle=bundle(spec, batch=("B", "C")))
    found.check("bob", {"ids": np.ones((2, 2), np.int64), "mask": np.ones((2, 2), F)})
    with pytest.raises(BadInput, match="3 rows"):
        found.check("bob", {"ids": np.ones((2, 2), np.int64), "mask": np.ones((3, 2), F)})


def test_limits_are_those_of_one_request() -> None:
    found = contract(SINGLE, max_rows=3, max_bytes=20)
    found.check("bob", {"x": np.ones((2, 2), F)})
    for rows, what in ((3, "bytes"), (4, "rows")):
        with pytest.raises(TooLarge, match=what) as caught:
            found.check("bob", {"x": np.ones((rows, 2), F)})
        assert caught.value.model == "bob" and what in caught.value.expected


def test_long_strings_are_too_large() -> None:
    found = contract(replace(SINGLE, types={"x": "string"}), max_bytes=100)
    found.check("bob", {"x": [["a", "b"]]})
    with pytest.raises(TooLarge, match="bytes"):
        found.check("bob", {"x": [["a", "b" * 101]]})


def test_what_was_wrong_once_stays_wrong() -> None:
    """Only shapes that were right are remembered, by models that take the same ones."""
    found = contract(SINGLE)
    bad = np.ones((1, 3), F)
    for _ in range(2):
        with pytest.raises(BadInput):
            found.check("bob", {"x": bad})
    for size in range(1, 70):
        found.check("alice", {"x": np.ones((min(size, 60), 2), F)})
    assert len(found.own["bob"].seen) <= KEPT_SHAPES
    with pytest.raises(BadInput):
        found.check("bob", {"x": np.ones((1, 2), np.float64)})


def test_models_of_other_sizes_are_checked_apart() -> None:
    """Merged with --partial, models may take other sizes; what is right for one is wrong for another."""
    session = files.PretendSession(replace(SINGLE, io="separate"))
    session._inputs[1].shape = ["B", 3]
    found = Contract.read(session, rows_apart=True)
    for _ in range(2):
        found.check("alice", {"x": np.ones((1, 2), F)})
        found.check("bob", {"x": np.ones((1, 3), F)})
        for name, size in (("alice", 3), ("bob", 2)):
            with pytest.raises(BadInput):
                found.check(name, {"x": np.ones((1, size), F)})
    open_size = files.PretendSession(replace(SINGLE, io="separate"))
    open_size._inputs[1].shape = ["B", "wide"]
    found = Contract.read(open_size, rows_apart=True)
    forms = [found.check("bob", {"x": np.ones((1, n), F)}).form for n in (1, 2)]
    assert forms[0] != forms[1] and found.check("alice", {"x": np.ones((1, 2), F)}).form not in forms


# --------------------------------------------------------------------------- forms


def test_requests_that_may_not_share_a_call_have_other_forms() -> None:
    spec = replace(TWO, share=frozenset({"mask"}), shapes={"ids": ("B", "seq"), "mask": ("seq", 2)})
    found = contract(spec, rows_apart=True)
    assert found.apart
    ids, mask = np.ones((1, 2), np.int64), np.ones((2, 2), F)
    form = found.check("alice", {"ids": ids, "mask": mask}).form
    assert found.check("bob", {"ids": np.zeros((3, 2), np.int64), "mask": mask.copy()}).form == form
    assert hash(found.check("bob", {"ids": ids, "mask": mask}).form) == hash(form)
    assert found.check("bob", {"ids": ids, "mask": mask * 2}).form != form
    minus = mask * 0
    assert (
        found.check("alice", {"ids": ids, "mask": minus}).form
        != found.check("alice", {"ids": ids, "mask": -minus}).form
    )  # equal numbers, other bits
    longer = {"ids": np.ones((1, 3), np.int64), "mask": np.ones((3, 2), F)}
    assert found.check("alice", longer).form != form


def test_an_input_without_rows_is_equal_in_all_requests_of_a_batch() -> None:
    spec = replace(TWO, shapes={"ids": ("B",), "mask": (2,)})
    ids, mask = np.ones(1, np.int64), np.ones(2, F)
    for apart in (True, False):
        found = Contract(contract(spec).file, apart=apart)
        one, same = (found.check("bob", {"ids": ids * k, "mask": mask.copy()}) for k in range(2))
        other = found.check("bob", {"ids": ids, "mask": mask * 2})
        assert one.form == same.form
        assert (one.form != other.form) is apart  # else they never share one


def test_equal_bytes_of_other_shapes_are_not_one_input() -> None:
    shapes: dict[str, tuple[int | str, ...]] = {"ids": ("B",), "mask": ("p", "q")}
    spec = replace(TWO, share=frozenset({"mask"}), shapes=shapes)
    found = contract(spec, rows_apart=True, buckets=Buckets({"p": 8, "q": 8}))
    forms = {
        found.check("bob", {"ids": np.ones(1, np.int64), "mask": np.ones(shape, F)}).form
        for shape in ((2, 3), (3, 2), (6, 1))
    }
    assert len(forms) == 3


def test_one_row_stands_for_all_rows_of_a_routed_call() -> None:
    spec = replace(TWO, io="index", share=frozenset({"mask"}))
    found = contract(spec, own=files.OwnSession(spec))
    one = found.check("bob", GOOD)
    assert (
        found.apart
        and one.form == found.check("bob", {"ids": GOOD["ids"][:1], "mask": GOOD["mask"][:1]}).form
    )
    mask = GOOD["mask"].copy()
    mask[1] = 5
    with pytest.raises(BadInput, match="differ") as caught:
        found.check("bob", GOOD | {"mask": mask})
    assert caught.value.input == "mask"
    signs = GOOD["mask"] * 0
    signs[1] = -signs[1]  # equal numbers, other bits
    with pytest.raises(BadInput, match="differ"):
        found.check("bob", GOOD | {"mask": signs})
    found.check("bob", GOOD | {"mask": np.full_like(signs, np.nan)})


# --------------------------------------------------------------------------- buckets


def test_sizes_are_padded_to_their_buckets() -> None:
    for buckets, sizes in (({"seq": 4}, {1: 4, 4: 4, 5: 8}), ({"seq": [8, 2]}, {1: 2, 2: 2, 3: 8, 8: 8})):
        found = contract(buckets=Buckets(buckets), rows_apart=True)
        for size, padded in sizes.items():
            feeds = {"ids": np.ones((1, size), np.int64), "mask": np.ones((1, size, 2), F)}
            assert found.check("bob", feeds).form == ((padded,), 0, ())
    with pytest.raises(TooLarge, match="largest bucket is 8"):
        found.check("bob", {"ids": np.ones((1, 9), np.int64), "mask": np.ones((1, 9, 2), F)})


@pytest.mark.parametrize("buckets", [{"B": 2}, {"sequence": 8}, {"seq": 0}, {"seq": []}, {"seq": [4, -1]}])
def test_buckets_that_fit_nothing_are_refused(buckets: dict[str, Any]) -> None:
    with pytest.raises(UsageFault):
        contract(buckets=Buckets(buckets))
    with pytest.raises(UsageFault, match="no input"):
        contract(buckets=Buckets({"seq": 2}, pad={"nothing": 1}))
