"""--partial: models that share their first part and end in operators of their own. Everything is compared with what
each model's own file gives."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import tail_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tail_files import TAILS, agree, alone, same, tailed

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent, NotStackable, UsageFault
from netfuse_onnx.runtime.bundle import MANIFEST
from netfuse_onnx.runtime.session import MergedSession

FAMILIES = (
    ("logits", "softmax"),
    ("logits", "five", "deep"),
    ("best", "half", "softmax", "if", "deep"),
    ("features", "logits", "hidden"),
    ("two", "sigmoid"),
    ("normal", "two", "two"),
    ("passes", "logits"),
    ("logits", "passes", "best"),
    ("lookup", "scaled"),
    ("sequence", "scaled", "logits"),
)


def merged(folder: Path, paths: list[str], **options: object) -> netfuse_onnx.MergeReport:
    report = netfuse_onnx.merge(paths, str(folder / "m.onnx"), partial=True, **options)  # type: ignore[arg-type]
    assert report.proof is not None and report.proof.ok
    return report


@pytest.mark.parametrize("tails", FAMILIES, ids="-".join)
def test_each_model_gives_what_its_own_file_gives(tmp_path: Path, tails: tuple[str, ...]) -> None:
    paths = tailed(tmp_path, tails)
    report = merged(tmp_path, paths)
    agree(str(tmp_path / "m.onnx"), paths)
    agree(str(tmp_path / "m.onnx"), paths, rows=3)
    became = [row.became for row in report.lowered.nodes[:4]]
    assert became == ["batched"] * 4
    proof = netfuse_onnx.verify(str(tmp_path / "m.onnx"), paths)
    assert proof.ok and not proof.graph.note and not proof.warnings


def test_the_order_of_the_models_does_not_matter(tmp_path: Path) -> None:
    for order in itertools.permutations(("features", "two", "softmax")):
        paths = tailed(tmp_path, order)
        merged(tmp_path, paths)
        agree(str(tmp_path / "m.onnx"), paths)


@given(st.lists(st.sampled_from(sorted(TAILS)), min_size=2, max_size=5), st.integers(0, 99))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tails(tmp_path: Path, tails: list[str], seed: int) -> None:
    paths = tailed(tmp_path, tails)
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True, seed=seed)
    assert report.proof is not None and report.proof.ok
    agree(str(tmp_path / "m.onnx"), paths, seed=seed)


def test_weights_of_tails_are_proven(tmp_path: Path) -> None:
    """A weight of a tail that is changed in the merged file is found in its bytes."""
    paths = tailed(tmp_path, ("logits", "deep"))
    merged(tmp_path, paths, data="single")
    model = onnx.load(tmp_path / "m.onnx")
    tensor = next(each for each in model.graph.initializer if each.name.endswith("/v"))
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] += 1e-6
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "m.onnx")
    proof = netfuse_onnx.verify(str(tmp_path / "m.onnx"), paths)
    assert not proof.bytes.ok and "m1" in proof.bytes.problems[0]


def test_tails_that_are_exchanged_are_found(tmp_path: Path) -> None:
    """The graph proof finds a node of one tail that reads another model's value."""
    paths = tailed(tmp_path, ("softmax", "sigmoid", "softmax"))
    merged(tmp_path, paths)
    model = onnx.load(tmp_path / "m.onnx")
    one, two = (node for node in model.graph.node if node.op_type == "Softmax")
    one.input[0], two.input[0] = two.input[0], one.input[0]
    onnx.save(model, tmp_path / "m.onnx")
    proof = netfuse_onnx.verify(str(tmp_path / "m.onnx"), paths)
    assert not proof.graph.ok and not proof.values.ok


def test_a_cast_to_another_type_ends_the_common_part(tmp_path: Path) -> None:
    paths = tailed(tmp_path, ("half", "long", "half"))
    merged(tmp_path, paths)
    agree(str(tmp_path / "m.onnx"), paths)


def test_the_share_that_is_merged(tmp_path: Path) -> None:
    """The products of the common part are merged, and so are their weights."""
    report = merged(tmp_path, tailed(tmp_path, ("hidden", "deep")))
    assert report.apart is not None and report.apart.arithmetic is not None
    common, own = 2 * (8 * 16 + 16 * 16), 16 * 16 + 16 * 7
    assert report.apart.bytes == pytest.approx(common / (common + own), abs=1e-4)
    assert report.apart.arithmetic == pytest.approx(common / (common + own), abs=1e-4)
    assert [row.models for row in report.apart.rows] == [("m0",), ("m1",)]
    assert report.apart.rows[1].operators == "MatMul, Relu, MatMul"
    assert netfuse_onnx.inspect(str(tmp_path / "m.onnx")).apart == report.apart


def test_what_check_says_of_all_models(tmp_path: Path) -> None:
    """Three that --partial merges, and one that it refuses."""
    other = tmp_path / "other"
    other.mkdir()
    paths = tailed(tmp_path, ("logits", "deep", "two"))
    paths.append(tailed(other, ("logits",), f"z = Neg(x) {tail_files.BODY.replace('(x,', '(z,')}")[0])
    report = netfuse_onnx.check(paths, names=["a", "b", "c", "d"])
    assert not report.ok
    fits, refused = report.partial
    assert fits.models == ("a", "b", "c") and fits.apart is not None and 0.5 < fits.apart.bytes < 1
    assert sum("of its own" in sentence for sentence in fits.differences) == 2
    assert refused.models == ("d",) and "no operator in common" in refused.reason


# --------------------------------------------------------------------------- inputs and outputs


@pytest.mark.parametrize("io", ["stacked", "selected", "routed"])
def test_outputs_that_are_not_alike_are_not_stacked(tmp_path: Path, io: str) -> None:
    paths = tailed(tmp_path, ("logits", "softmax"))
    with pytest.raises(NotStackable, match="end in operators of their own"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True, io=io)
    assert not (tmp_path / "m.onnx").exists()


def test_outputs_that_are_not_alike_are_not_combined(tmp_path: Path) -> None:
    paths = tailed(tmp_path, ("logits", "softmax"))
    with pytest.raises(UsageFault, match="can't be combined"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True, combine="mean")


def test_an_input_is_fed_once(tmp_path: Path) -> None:
    paths = tailed(tmp_path, ("two", "passes", "softmax"))
    merged(tmp_path, paths, share=["x"])
    x = np.random.default_rng(3).standard_normal((2, 8)).astype(np.float32)
    got = alone(str(tmp_path / "m.onnx"), {"x": x})
    same(got, {f"m{k}/{n}": v for k, path in enumerate(paths) for n, v in alone(path, {"x": x}).items()})


def test_inspect_names_the_outputs_of_each_model(tmp_path: Path) -> None:
    merged(tmp_path, tailed(tmp_path, ("two", "best", "sigmoid")))
    rows = netfuse_onnx.inspect(str(tmp_path / "m.onnx")).names
    outputs = [(row.model, row.own, row.merged) for row in rows if row.what == "output"]
    assert sorted(outputs) == [
        ("m0", "best", "m0/best"),
        ("m0", "y", "m0/y"),
        ("m1", "y", "m1/y"),
        ("m2", "scores", "m2/scores"),
    ]


def test_a_batch_that_one_model_fixes(tmp_path: Path) -> None:
    one = tailed(tmp_path / "1", ("softmax",), batch="1") if (tmp_path / "1").mkdir() is None else []
    two = tailed(tmp_path, ("features", "logits"))[1]
    merged(tmp_path, [one[0], two], names=["m0", "m1"])
    agree(str(tmp_path / "m.onnx"), [one[0], two], rows=1)
    types = {out.name: out.type.tensor_type.shape for out in onnx.load(tmp_path / "m.onnx").graph.output}
    assert [dim.dim_value for dim in types["m1/y"].dim] == [1, 3]


# --------------------------------------------------------------------------- sessions and bundles


@pytest.mark.parametrize("views", [False, True])
def test_a_session_answers_each_model_with_its_own_outputs(tmp_path: Path, views: bool) -> None:
    tails = ("two", "best", "sigmoid", "passes")
    paths = tailed(tmp_path, tails)
    out = str(tmp_path / ("bundle" if views else "m.onnx"))
    report = netfuse_onnx.merge(paths, out, partial=True, views=views)
    assert report.proof is not None and report.proof.ok
    rng = np.random.default_rng(1)
    fed = [{"x": rng.standard_normal((rows, 8)).astype(np.float32)} for rows in (1, 1, 1, 1)]
    with MergedSession(out) as session:
        assert [out.name for out in session.signature("m0").outputs] == ["y", "best"]
        assert [out.name for out in session.signature("m2").outputs] == ["scores"]
        assert session.signature("m1").outputs[0].datatype == "INT64"
        for k, path in enumerate(paths):
            same(session.run(f"m{k}", fed[k]), alone(path, fed[k]))
        both = [(f"m{k}", fed[k]) for k in range(4)]
        for k, answer in enumerate(session.run_many(both)):
            same(answer, alone(paths[k], fed[k]))
        for k, answer in enumerate(session.run_many(both[1:3])):
            same(answer, alone(paths[k + 1], fed[k + 1]))
        every = session.run_all(fed[0])
        for k, path in enumerate(paths):
            same(every[f"m{k}"], alone(path, fed[0]))
        with pytest.raises(UsageFault, match="outputs"):
            session.run_all(fed[0], reduce="mean")


def test_rows_of_several_requests_stay_apart(tmp_path: Path) -> None:
    """A bundle says that rows are computed by themselves, in the tails as well."""
    paths = tailed(tmp_path, ("softmax", "two", "deep"))
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), partial=True, views=True)
    rng = np.random.default_rng(2)
    asked = [
        (k, {"x": rng.standard_normal((rows, 8)).astype(np.float32)}) for k, rows in ((0, 1), (1, 2), (1, 1))
    ]
    with MergedSession(str(tmp_path / "bundle")) as session:
        assert all(session.signature(f"m{k}").apart for k in range(3))
        answers = session.run_many([(f"m{k}", feeds) for k, feeds in asked])
        for (k, feeds), answer in zip(asked, answers, strict=True):
            same(answer, alone(paths[k], feeds))


def test_a_tail_that_mixes_rows_is_known(tmp_path: Path) -> None:
    paths = tailed(tmp_path, ("softmax", "if", "deep"))
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), partial=True, views=True)
    with MergedSession(str(tmp_path / "bundle")) as session:
        assert not session.signature("m0").apart


def test_the_manifest_says_whose_weights_of_tails_are(tmp_path: Path) -> None:
    paths = tailed(tmp_path, ("logits", "wide", "two"))
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), partial=True, views=True)
    manifest = json.loads((tmp_path / "bundle" / MANIFEST).read_text())
    rows = [row for rows in manifest["regions"].values() for row in rows if row[1] == 16 * 600 * 4]
    assert [owners for _, _, owners in rows] == [[1]]


# --------------------------------------------------------------------------- the life of a file


def test_what_changes_later_equals_a_fresh_merge(tmp_path: Path) -> None:
    """A new file, one model less and one more, with other tails; and each source back, byte for byte."""
    names, other = ["m0", "m1", "m2"], tmp_path / "other"
    other.mkdir()
    paths, more = (
        tailed(tmp_path, ("logits", "deep", "two")),
        tailed(other, ("wide", "sigmoid", "half", "wide")),
    )
    merged(tmp_path, paths)
    now, out = str(tmp_path / "m.onnx"), str(tmp_path / "now.onnx")
    for change, wanted, called in (
        (partial(netfuse_onnx.update, now, {"m1": more[1]}), [paths[0], more[1], paths[2]], names),
        (partial(netfuse_onnx.remove, now, ["m1"]), [paths[0], paths[2]], ["m0", "m2"]),
        (partial(netfuse_onnx.add, now, [more[3]]), [*paths, more[3]], [*names, "m3"]),
    ):
        assert change(out=out).ok
        fresh = str(tmp_path / "fresh.onnx")
        netfuse_onnx.merge(wanted, fresh, partial=True, names=called)
        assert Path(out).read_bytes() == Path(fresh).read_bytes()
    netfuse_onnx.split(now, str(tmp_path / "back"))
    for k, path in enumerate(paths):
        assert (tmp_path / "back" / f"m{k}.onnx").read_bytes() == Path(path).read_bytes()


# --------------------------------------------------------------------------- refused


def test_a_layer_in_the_middle_is_refused_with_where_the_common_part_ends(tmp_path: Path) -> None:
    body = "h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w2) t = Tanh(g)"
    other = "h = MatMul(x, w1) s = Softplus(h) r = Relu(s) g = MatMul(r, w2) t = Tanh(g)"
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    paths = [tailed(one, ("logits",), body)[0], tailed(two, ("logits",), other)[0]]
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True, names=["a", "b"])
    assert "alike up to MatMul" in caught.value.hint and "operator 1 of 5" in caught.value.hint


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    paths = [
        tailed(one, ("logits",))[0],
        tailed(two, ("logits",), f"x0 = Neg(x) {tail_files.BODY.replace('(x,', '(x0,')}")[0],
    ]
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), partial=True, names=["a", "b"])
    assert "no operator in common" in caught.value.hint


def test_without_partial_they_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotEquivalent):
        netfuse_onnx.merge(tailed(tmp_path, ("logits", "softmax")), str(tmp_path / "m.onnx"))
