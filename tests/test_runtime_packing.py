"""Requests are packed into merged calls, and each gets the outputs of its own model and rows, whoever else is
in the call: in all I/O modes, compared with what each model computes alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import routed_families
import served_files as files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import netfuse_onnx
from netfuse_onnx import edges
from netfuse_onnx.errors import InternalError
from netfuse_onnx.run.packing import Packing as CompilersPacking
from netfuse_onnx.runtime.contract import Contract
from netfuse_onnx.runtime.packing import KEPT, Packing
from netfuse_onnx.runtime.types import Request

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def feeds_of(spec: files.Spec, model: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs by the names of the model itself."""
    return {spec.edges[model].inputs[name]: value for name, value in values.items()}


@st.composite
def specs(draw: st.DrawFn, io: str = "") -> files.Spec:
    """Models with one to three inputs, whose sizes are often the number of models; some have own names."""
    io = io or draw(st.sampled_from(edges.MODES))
    count = draw(st.integers(1, 4))
    sizes = st.sampled_from([1, 2, 3, count, "seq"])
    types: dict[str, str] = {}
    shapes: dict[str, tuple[int | str, ...]] = {}
    share = set()
    for k in range(draw(st.integers(1, 3))):
        name = f"x{k}"
        types[name] = draw(st.sampled_from(list(files.TYPES)))
        rest = tuple(draw(st.lists(sizes, max_size=2)))
        shapes[name] = ("B", *rest)
        if k and draw(st.booleans()):
            share.add(name)
            repeated = edges.is_routed(io) and draw(st.booleans())
            shapes[name] = shapes[name] if repeated else rest
    own = ()
    if draw(st.booleans()):
        outs = [f"y_{name}" for name in types if name not in share]
        own = tuple({n: n if m == 0 else f"{n}of{m}" for n in (*types, *outs)} for m in range(count))
    return files.Spec(tuple(f"m{m}" for m in range(count)), io, types, shapes, frozenset(share), own=own)


def opened(spec: files.Spec, **options: Any) -> Contract:
    options.setdefault("rows_apart", True)
    return Contract.read(files.PretendSession(spec), own=files.OwnSession(spec), **options)


def answers(spec: files.Spec, packing: Packing, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """The outputs of one merged call."""
    packed = packing.merged(requests)
    results = files.run(spec, packed.feeds)
    found = packed.split({name: results[name] for name in packed.wanted})
    packed.release()
    return found


def equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        one = found[name]
        assert isinstance(one, np.ndarray)
        if one.dtype == ml_dtypes.bfloat16:
            one = one.view(np.uint16)
        assert one.dtype == value.dtype and one.shape == value.shape
        np.testing.assert_array_equal(one, value)


@EXAMPLES
@given(data=st.data())
def test_each_request_gets_what_its_model_computes(data: st.DataObject) -> None:
    """Several calls in a row use the same buffers, with other models, rows and values in each."""
    spec = data.draw(specs())
    contract = opened(spec)
    assert contract.apart
    packing = Packing(contract)
    earlier = []
    for call in range(3):
        seq = data.draw(st.integers(1, 2))
        wanted = data.draw(
            st.lists(
                st.tuples(st.integers(0, len(spec.models) - 1), st.integers(1, 3)), min_size=1, max_size=5
            )
        )
        requests = []
        for k, (model, rows) in enumerate(wanted):
            values = files.draw(spec, {"B": rows, "seq": seq}, seed=100 * call + k, once=call)
            requests.append(contract.check(spec.models[model], feeds_of(spec, model, values)))
        assert len({request.form for request in requests}) == 1
        found = answers(spec, packing, requests)
        earlier += [(out, files.alone(spec, request)) for out, request in zip(found, requests, strict=True)]
    for out, expected in earlier:
        equal(out, expected)


@EXAMPLES
@given(data=st.data())
def test_rows_that_may_not_be_apart_never_meet(data: st.DataObject) -> None:
    """Without a word or a proof, a model has one request in a call, and all have equal numbers of rows."""
    io = data.draw(st.sampled_from([edges.SEPARATE, edges.ALL_MODELS, edges.SELECTED]))
    spec = data.draw(specs(io))
    contract = opened(spec, rows_apart=None)
    assert not contract.apart and contract.reason
    packing = Packing(contract)
    for call in range(2):
        sizes = {"B": data.draw(st.integers(1, 3)), "seq": 2}
        models = data.draw(st.lists(st.integers(0, len(spec.models) - 1), min_size=1, unique=True))
        requests = [
            contract.check(spec.models[m], feeds_of(spec, m, files.draw(spec, sizes, 10 * call + m, call)))
            for m in models
        ]
        for out, request in zip(answers(spec, packing, requests), requests, strict=True):
            equal(out, files.alone(spec, request))
        with pytest.raises(InternalError):
            packing.merged([requests[0], requests[0]])
        with pytest.raises(InternalError):
            packing.alone([requests[0], requests[0]])
        more = contract.check(
            spec.models[0], feeds_of(spec, 0, files.draw(spec, sizes | {"B": sizes["B"] + 1}, 0, call))
        )
        assert more.form != requests[0].form


@EXAMPLES
@given(data=st.data())
def test_a_call_of_all_models_is_what_the_compiler_packs(data: st.DataObject) -> None:
    spec = data.draw(specs())
    contract = opened(spec)
    values = [files.draw(spec, {"B": 2, "seq": 3}, seed=m) for m in range(len(spec.models))]
    requests = [contract.check(name, feeds_of(spec, m, values[m])) for m, name in enumerate(spec.models)]
    packed = Packing(contract).merged(requests)
    expected = CompilersPacking(spec.labels).inputs(values)
    assert packed.feeds.keys() == expected.keys()
    ids = spec.labels.ids
    order = np.argsort(expected[ids], kind="stable") if ids else None  # the compiler mixes them up
    for name, value in expected.items():
        if order is not None and name not in spec.share:
            value = np.asarray(value)[order]
        if edges.is_routed(spec.io) and name in spec.share and spec.shapes[name][:1] == ("B",):
            value = np.asarray(value)[:1]
        np.testing.assert_array_equal(packed.feeds[name], value)
        assert packed.feeds[name].dtype == np.asarray(value).dtype
    labels, every = spec.labels, range(len(values))
    assert set(packed.wanted) == {labels.output(m, f"y_{name}") for m in every for name in spec.outs}


@EXAMPLES
@given(data=st.data())
def test_requests_of_one_model_stand_below_each_other(data: st.DataObject) -> None:
    spec = data.draw(specs())
    contract = opened(spec)
    packing, model = Packing(contract), data.draw(st.integers(0, len(spec.models) - 1))
    requests = [
        contract.check(spec.models[model], feeds_of(spec, model, files.draw(spec, {"B": rows, "seq": 2}, k)))
        for k, rows in enumerate(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    ]
    packed = packing.alone(requests)
    edge = spec.edges[model]
    assert list(packed.feeds) == list(edge.inputs.values())
    assert list(packed.wanted) == list(edge.outputs.values())
    total = sum(request.rows for request in requests)
    inputs = tuple(packed.feeds[name] for name in edge.inputs.values())
    results = files.alone(spec, Request(model, inputs, total, ()))
    for out, request in zip(packed.split(results, fresh=False), requests, strict=True):
        equal(out, files.alone(spec, request))
        assert not any(np.shares_memory(out[name], results[name]) for name in out)


MLP = files.Spec(("a", "b", "c"), "stacked", {"x": "float"}, {"x": ("B", 2)})


def spec_of(io: str, **more: Any) -> files.Spec:
    return files.Spec(MLP.models, io, MLP.types, MLP.shapes, **more)


def always(form: Any, models: int, rows: int) -> bool:
    return True


def request(contract: Contract, model: str, *rows: float) -> Request:
    return contract.check(model, {"x": np.array([[row, row] for row in rows], np.float32)})


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_slots_without_a_request_hold_good_rows(io: str) -> None:
    """New buffers have copies of the first request, and later ones what stood there in calls that went well."""
    spec = spec_of(io)
    contract = opened(spec)
    packing = Packing(contract)
    place = {m: (f"{m}/x" if io == "separate" else "x") for m in "abc"}

    def slot(packed: Any, model: str) -> list[float]:
        value = packed.feeds[place[model]]
        rows = value if io == "separate" else value["abc".index(model)]
        return [float(row[0]) for row in rows]

    first = packing.merged([request(contract, "b", 7, 8)])
    assert [slot(first, m) for m in "abc"] == [[7, 7], [7, 8], [7, 7]]
    first.release()
    second = packing.merged([request(contract, "a", 1), request(contract, "b", 2), request(contract, "a", 3)])
    assert [slot(second, m) for m in "abc"] == [[1, 3], [2, 8], [7, 7]]
    second.release(failed=True)
    third = packing.merged([request(contract, "c", 5, 6)])
    assert [slot(third, m) for m in "abc"] == [[5, 5], [5, 5], [5, 6]]


@pytest.mark.parametrize("io", edges.MODES)
def test_outputs_are_copies_where_results_are_used_again(io: str) -> None:
    spec = spec_of(io)
    contract = opened(spec)
    packing = Packing(contract)
    for requests in (
        [request(contract, "a", 1), request(contract, "c", 2)],
        [request(contract, "a", 1), request(contract, "a", 3, 4), request(contract, "c", 2)],
    ):
        packed = packing.merged(requests)
        results = files.run(spec, packed.feeds)
        found = packed.split(results, fresh=False)
        packed.release()
        for value in results.values():
            value[...] = -1
        for out, one in zip(found, requests, strict=True):
            equal(out, files.alone(spec, one))
            assert out["y_x"].base is None


def test_views_are_those_of_the_results() -> None:
    """Results that stay in their place are looked at in the same places; others are looked at anew."""
    spec = spec_of("stacked")
    contract = opened(spec)
    packing = Packing(contract)
    kept: dict[str, Any] = {}
    for call in range(4):
        requests = [request(contract, m, call) for m in "abc"]
        packed = packing.merged(requests)
        results = files.run(spec, packed.feeds)
        if call in (1, 2):
            kept.setdefault("y_x", results["y_x"])[...] = results["y_x"]
            results = kept
        for out, one in zip(packed.split(results, fresh=False), requests, strict=True):
            equal(out, files.alone(spec, one))
        packed.release()


@pytest.mark.parametrize("io", edges.MODES)
def test_a_result_of_another_size_is_an_error(io: str) -> None:
    """Cut at the wrong places, it would give rows to the wrong request."""
    spec = spec_of(io)
    contract = opened(spec)
    packed = Packing(contract).merged([request(contract, "a", 1), request(contract, "a", 3, 4)])
    results = files.run(spec, packed.feeds)
    for name, value in results.items():
        results[name] = value[:, :1] if edges.is_stacked(io) or edges.is_selected(io) else value[:1]
    with pytest.raises(InternalError):
        packed.split(results)


@pytest.mark.parametrize("io", edges.MODES)
def test_a_combined_output_belongs_to_no_request(io: str) -> None:
    if not (edges.is_separate(io) or edges.is_stacked(io)):
        return
    spec = files.Spec(
        MLP.models,
        io,
        {"x": "float", "z": "float"},
        {"x": ("B", 2), "z": ("B",)},
        combined=frozenset({"y_z"}),
    )
    contract = opened(spec)
    packing = Packing(contract)
    assert not contract.answers and packing.combined == ["y_z"]
    values = files.draw(spec, {"B": 1}, 0)
    (out,) = answers(spec, packing, [contract.check("b", values)])
    assert list(out) == ["y_x"]


def test_requests_of_other_forms_are_refused() -> None:
    spec = files.Spec(("a", "b"), "stacked", {"x": "float"}, {"x": ("B", "seq")})
    contract = opened(spec)
    ones = [contract.check(m, {"x": np.ones((1, n), np.float32)}) for m, n in (("a", 2), ("b", 3), ("a", 1))]
    for pair in (ones[:2], ones[1:], ones[::-1]):
        with pytest.raises(InternalError):
            Packing(contract).merged(pair)


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_requests_that_are_alike_are_packed_at_once(io: str) -> None:
    spec = spec_of(io)
    contract = opened(spec, rows_apart=None)
    packing = Packing(contract)

    def pairs(*models: str, rows: int = 1, kind: Any = np.float32) -> list[tuple[str, dict[str, Any]]]:
        return [(m, {"x": np.full((rows, 2), k, kind)}) for k, m in enumerate(models)]

    alike = pairs("c", "a")
    assert packing.express(alike, always) is None  # nothing is laid out yet
    requests = [contract.check(model, feeds) for model, feeds in alike]
    answers(spec, packing, requests)
    packed = packing.express(alike, always)
    assert packed is not None
    for fresh in (True, False):
        for out, one in zip(packed.split(files.run(spec, packed.feeds), fresh=fresh), requests, strict=True):
            equal(out, files.alone(spec, one))
    packed.release()
    wrong = [("c", {"z": alike[0][1]["x"]})]
    odd = [("c", {"x": [[1.0, 2.0]]})]
    more = [("c", {"x": alike[0][1]["x"], "z": 1})]
    unequal = pairs("a", rows=1) + pairs("b", rows=2)
    for other in (
        pairs("a", "a"),
        pairs("a", "d"),
        pairs("a", kind=np.float64),
        wrong,
        odd,
        more,
        unequal,
        [],
    ):
        assert packing.express(other, always) is None
        assert packing.express(alike[:1] + other, always) is None or not other


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_own_names_come_back_in_any_order(io: str) -> None:
    """Each model has names of its own, and requests come in another order than models."""
    own = tuple({"x": f"x{m}", "y_x": f"y{m}"} if m else {"x": "x", "y_x": "y_x"} for m in range(3))
    spec = spec_of(io, own=own)
    contract = opened(spec)
    packing = Packing(contract)
    for models in ([2, 0], [1], [0, 1, 2], [2, 1, 0], [1, 2], [2, 0]):
        pairs = [(spec.models[m], feeds_of(spec, m, {"x": np.full((1, 2), m, np.float32)})) for m in models]
        requests = [contract.check(model, feeds) for model, feeds in pairs]
        for out, one in zip(answers(spec, packing, requests), requests, strict=True):
            equal(out, files.alone(spec, one))
        packed = packing.express(pairs, always)
        assert packed is not None
        for out, one in zip(packed.split(files.run(spec, packed.feeds)), requests, strict=True):
            equal(out, files.alone(spec, one))
        packed.release()


def test_buffers_are_used_by_one_call_at_a_time() -> None:
    spec = spec_of("stacked")
    contract = opened(spec)
    packing = Packing(contract)
    one, other = (packing.merged([request(contract, "a", 1)]) for _ in range(2))
    assert one.feeds["x"] is not other.feeds["x"]
    place = one.feeds["x"]
    one.release()
    again, third = (packing.merged([request(contract, "b", 2)]) for _ in range(2))
    assert again.feeds["x"] is place and third.feeds["x"] is not place
    faults: list[BaseException] = []

    def work(model: str) -> None:
        try:
            for k in range(300):
                mine = request(contract, model, *range(k, k + 1 + k % 3))
                (out,) = answers(spec, packing, [mine])
                equal(out, files.alone(spec, mine))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(m,)) for m in "abcabc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_few_buffers_are_kept() -> None:
    spec = files.Spec(("a",), "stacked", {"x": "float"}, {"x": ("B", "seq")})
    contract = opened(spec)
    packing = Packing(contract)
    for size in range(1, 3 * KEPT):
        answers(spec, packing, [contract.check("a", {"x": np.ones((1, size), np.float32)})])
    kept = [key for key, free in packing.pool.free.items() if free]
    assert len(kept) <= KEPT and kept[-1][0] == (3 * KEPT - 1,)
    small = Packing(contract, keep_bytes=100)
    for size in (10, 20, 4, 40):
        answers(spec, small, [contract.check("a", {"x": np.ones((1, size), np.float32)})])
    assert sum(b.bytes for free in small.pool.free.values() for b in free) == 160


# --------------------------------------------------------------------------- real files


REAL = {
    "mlp": ("separate", "stacked", "selected", "slots", "index"),
    "decoder with a cache": ("separate", "stacked", "slots", "index"),
    "lstm": ("separate", "slots"),
    "two heads": ("stacked", "index"),
}


@pytest.mark.parametrize(("kind", "io"), [(kind, io) for kind, ios in REAL.items() for io in ios])
def test_a_real_file_gives_what_the_sources_give(kind: str, io: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    family = routed_families.KINDS[kind]
    paths = family.write(tmp_path, 3)
    words: dict[str, Any] = {"io": io}
    if io in ("slots", "index"):
        words = {"io": "routed", "routing": io}
    out = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out, verify=False, **words)
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (out, *paths)]
    merged, *own = sessions
    contract = Contract.read(merged, own=own[0], rows_apart=True)
    packing = Packing(contract)
    assert contract.io == io and contract.apart
    calls = [[(0, 1), (1, 1), (2, 1)], [(2, 2)], [(1, 1), (0, 3), (1, 2)], [(2, 1), (1, 1)]]
    for call, wanted in enumerate(calls):
        feeds = [family.draw(rows, 10 * call + k, once=call) for k, (_, rows) in enumerate(wanted)]
        requests = [contract.check(f"m{m}", fed) for (m, _), fed in zip(wanted, feeds, strict=True)]
        packed = packing.merged(requests)
        results = dict(zip(packed.wanted, merged.run(packed.wanted, packed.feeds), strict=True))
        for out_of_one, one, fed in zip(packed.split(results), requests, feeds, strict=True):
            names = [port.name for port in own[one.model].get_outputs()]
            expected = dict(zip(names, own[one.model].run(names, fed), strict=True))
            assert list(out_of_one) == names
            for name in names:
                np.testing.assert_allclose(out_of_one[name], expected[name], rtol=1e-4, atol=1e-5)
                assert out_of_one[name].shape == expected[name].shape
        packed.release()
