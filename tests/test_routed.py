"""Routed files: rows of any models in one call, each as its own model's file gives it, and never another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import onnx
import onnxruntime as ort
import oracle
import pytest
from routed_families import KINDS, Kind

import netfuse_onnx
from netfuse_onnx.errors import NotRoutable, NotStackable, UsageFault

LEVELS = (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
LOWERINGS = ("slots", "index")
FAILS = "cannot be less than -1, got -"
"""The text of the check, which fails before anything else."""
FAILS_ON_NOTHING = f"{FAILS}|{oracle.NOTHING_TO_REDUCE}" if oracle.PROVIDER == "cuda" else FAILS
"""The text for a call without ids: CUDA fails before the check (gaps.REDUCE_OF_NOTHING)."""
RIGHT = {name: kind for name, kind in KINDS.items() if "slots" not in kind.refused}
WRONG_IDS = (-1, None, 2**40, 2**62, 2**63 - 1, -(2**63))
"""None stands for the number of models."""


def session(path: str, level: ort.GraphOptimizationLevel = LEVELS[0]) -> ort.InferenceSession:
    return oracle.session(path, level)


def merged(paths: list[str], by: str, share: tuple[str, ...] = ()) -> str:
    out = str(Path(paths[0]).parent / f"{by}.onnx")
    netfuse_onnx.merge(paths, out, io="routed", routing=by, share=share, verify=False)
    return out


def ask(runner: ort.InferenceSession, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(zip([out.name for out in runner.get_outputs()], runner.run(None, feeds), strict=True))


def mixes(models: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The model of each row: one row, all of one model, none of some, one of each in order, and many."""
    return [
        np.array([models - 1]),
        np.zeros(4, np.int64),
        rng.permutation(np.repeat(rng.permutation(models)[: models // 2 + 1], 2)),
        np.arange(models),
        rng.integers(0, models, 11),
    ]


def check(
    kind: Kind, paths: list[str], runner: ort.InferenceSession, ids: np.ndarray, shared: str = ""
) -> None:
    """Each row is what its own file gives for all rows of the model together."""
    feeds = kind.draw(len(ids), seed=len(ids), once=len(ids))
    if shared:
        feeds[shared] = feeds[shared][:1]
    got = ask(runner, {**feeds, "model": ids.astype(np.int64)})
    for m in set(ids.tolist()):
        mine = ids == m
        own = {
            n: v if n in kind.once else np.repeat(v, mine.sum(), 0) if n == shared else v[mine]
            for n, v in feeds.items()
        }
        for name, want in ask(session(paths[m]), own).items():
            assert got[name][mine].shape == want.shape
            np.testing.assert_allclose(got[name][mine], want, rtol=2e-4, atol=2e-5, err_msg=f"{name} {ids}")


@pytest.mark.parametrize("by", LOWERINGS)
@pytest.mark.parametrize("name", RIGHT)
def test_rows_of_any_mix_are_their_own_models(name: str, by: str, tmp_path: Path) -> None:
    kind = RIGHT[name]
    for models in (3, 8, 1) if name in ("mlp", "adapters") else (3,):
        paths = kind.write(tmp_path, models)
        if by in kind.refused:
            with pytest.raises(NotRoutable, match=kind.refused[by]):
                merged(paths, by)
            return
        out = merged(paths, by) if models > 1 else ""
        for level in LEVELS if out else ():
            runner = session(out, level)
            for ids in mixes(models, np.random.default_rng(models)):
                check(kind, paths, runner, ids)


@pytest.mark.parametrize("by", LOWERINGS)
@pytest.mark.parametrize("name", RIGHT)
def test_what_names_no_model_fails(name: str, by: str, tmp_path: Path) -> None:
    """Gather takes -1 for the last model, so another tenant would get an answer."""
    kind = RIGHT[name]
    if by in kind.refused:
        return
    out = merged(kind.write(tmp_path, 3), by)
    for level in LEVELS:
        runner = session(out, level)
        for wrong in WRONG_IDS:
            for place in (0, 3):
                ids = np.array([0, 1, 2, 1])
                ids[place] = 3 if wrong is None else wrong
                with pytest.raises(Exception, match=FAILS):
                    ask(runner, {**kind.draw(4, seed=1), "model": ids})


@pytest.mark.parametrize("by", LOWERINGS)
@pytest.mark.parametrize("name", RIGHT)
def test_rows_that_disagree_fail(name: str, by: str, tmp_path: Path) -> None:
    """One id beside four rows would be broadcast, and each input has its own number of rows."""
    kind = RIGHT[name]
    if by in kind.refused:
        return
    out = merged(kind.write(tmp_path, 3), by)
    rows = [n for n in kind.inputs if n not in kind.once]
    for level in LEVELS:
        runner = session(out, level)
        for count in (1, 3, 5, 0):
            with pytest.raises(Exception, match=FAILS if count else FAILS_ON_NOTHING):
                ask(runner, {**kind.draw(4, seed=1), "model": np.zeros(count, np.int64)})
        for one in rows if len(rows) > 1 else ():
            for count in (1, 3, 5):
                feeds = kind.draw(4, seed=1) | {one: kind.draw(count, seed=1)[one]}
                with pytest.raises(Exception, match=FAILS):
                    ask(runner, {**feeds, "model": np.array([0, 1, 2, 0])})


@pytest.mark.parametrize("by", LOWERINGS)
def test_one_row_of_bfloat16_is_repeated_for_all(by: str, tmp_path: Path) -> None:
    """Expand has no kernel for it (gaps.TILE_STAYS)."""
    text = """g (float[n,4] x, bfloat16[n,3] z) => (float[n,3] y) {
        h = MatMul(x, w)  f = Cast<to = 1>(z)  y = Add(h, f) }"""
    paths = families.family(tmp_path, text, {"w": (4, 3)}, 3)
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), io="routed", routing=by, share=("z",))
    assert report.proof is not None and report.proof.ok


@pytest.mark.parametrize("by", LOWERINGS)
def test_an_input_that_is_fed_once_is_one_row_for_all(by: str, tmp_path: Path) -> None:
    kind = KINDS["two heads"]
    paths = kind.write(tmp_path, 3)
    out = merged(paths, by, share=("z",))
    assert [d.dim_value for d in onnx.load(out).graph.input[1].type.tensor_type.shape.dim] == [1, 8]
    for level in LEVELS:
        runner = session(out, level)
        for ids in mixes(3, np.random.default_rng(5)):
            check(kind, paths, runner, ids, shared="z")
        for wrong in (-1, 3):
            feeds = kind.draw(2, seed=1)
            feeds["z"] = feeds["z"][:1]
            with pytest.raises(Exception, match=FAILS):
                ask(runner, {**feeds, "model": np.array([0, wrong])})


@pytest.mark.parametrize("name", [name for name in KINDS if name not in RIGHT])
def test_what_mixes_rows_is_refused(name: str, tmp_path: Path) -> None:
    paths = KINDS[name].write(tmp_path, 2)
    for by in ("auto", *LOWERINGS):
        with pytest.raises(NotRoutable, match=KINDS[name].refused["slots"]) as refusal:
            merged(paths, by)
        assert refusal.value.exit_code == 1
        assert refusal.value.hint


def test_without_a_batch_axis_there_are_no_rows(tmp_path: Path) -> None:
    paths = families.family(
        tmp_path, "g (float[5, 8] x) => (float[5, 4] y) { y = MatMul(x, w) }", {"w": (8, 4)}
    )
    with pytest.raises(NotRoutable, match=r"No input of .* has a leading batch axis \(x \[5, 8\]\)"):
        merged(paths, "auto")


@pytest.mark.parametrize("by", ["auto", "index"])
def test_a_batch_of_one_is_a_row(by: str, tmp_path: Path) -> None:
    """Each row is a call of its own, so that nothing can mix rows, and several rows of a model find no slot."""
    text = "g (float[1, 8] x) => (float[1, 4] y) { h = MatMul(x, w) y = Softmax <axis: int = 0> (h) }"
    paths = families.family(tmp_path, text, {"w": (8, 4)}, count=3)
    runner, kind = session(merged(paths, by)), Kind("", {}, {"x": ("R", 8)})
    feeds, ids = kind.draw(5, seed=0), np.array([2, 0, 2, 1, 2])
    got = ask(runner, {**feeds, "model": ids})["y"]
    for row, m in enumerate(ids):
        np.testing.assert_allclose(
            got[row], session(paths[m]).run(None, {"x": feeds["x"][row : row + 1]})[0][0]
        )
    with pytest.raises(NotRoutable, match="is fixed at 1"):
        merged(paths, "slots")


@pytest.mark.parametrize("by", LOWERINGS)
def test_a_cache_may_be_empty(by: str, tmp_path: Path) -> None:
    """The first step of a decoder has no past: no size may be left to a Reshape beside an axis of 0."""
    kind = KINDS["decoder with a cache"]
    kind = replace(kind, inputs={**kind.inputs, "cache": ("R", 0, 8), "bias": (1,)})
    paths = kind.write(tmp_path, 3)
    out = merged(paths, by)
    for level in LEVELS:
        for ids in mixes(3, np.random.default_rng(1)):
            check(kind, paths, session(out, level), ids)


def test_another_input_may_be_called_model(tmp_path: Path) -> None:
    text = "g (float[batch, 8] model) => (float[batch, 4] y) { y = MatMul(model, w) }"
    paths = families.family(tmp_path, text, {"w": (8, 4)})
    for by in LOWERINGS:
        names = [info.name for info in session(merged(paths, by)).get_inputs()]
        assert names == ["model", "netfuse/model"]


@pytest.mark.parametrize("by", LOWERINGS)
def test_the_proofs_hold_and_are_told(by: str, tmp_path: Path) -> None:
    kind = KINDS["decoder with a cache"]
    paths, out = kind.write(tmp_path, 3), str(tmp_path / "out.onnx")
    report = netfuse_onnx.merge(paths, out, io="routed", routing=by)
    assert report.io == by and report.proof is not None and report.proof.ok
    values = report.proof.values
    assert values.mixes is not None and values.mixes.ok
    assert values.mixes.refused >= 8 and values.mixes.calls >= 5
    assert [row.by for row in report.routing if row.chosen] == [by]
    assert netfuse_onnx.inspect(out).io == by
    again = netfuse_onnx.verify(out, paths)
    assert again.ok and again.graph.ok and not again.graph.note and again.values.mixes is not None


def tampered(path: str, change: Callable[[onnx.NodeProto], bool]) -> None:
    """Change the nodes of a file for which `change` says that it did."""
    model = onnx.load(path)
    changed = [change(node) for node in model.graph.node]
    assert any(changed)
    onnx.save(model, path)


@pytest.mark.parametrize("by", LOWERINGS)
def test_a_file_without_its_check_is_seen(by: str, tmp_path: Path) -> None:
    """Without it, -1 is the last model for Gather."""
    paths = KINDS["mlp"].write(tmp_path, 3)
    out = merged(paths, by)

    def unchecked(node: onnx.NodeProto) -> bool:
        made = node.op_type == "Reshape" and "Add" in node.input[1]
        if made:
            node.op_type = "Identity"
            del node.input[1:]
        return made

    tampered(out, unchecked)
    mixes = netfuse_onnx.verify(out, paths).values.mixes
    assert mixes is not None and any("must fail" in problem for problem in mixes.problems)


def test_a_file_that_is_right_for_equal_numbers_of_rows_is_seen(tmp_path: Path) -> None:
    """The cases of the proof have as many rows of each model; its mixes have not."""
    paths = KINDS["mlp"].write(tmp_path, 3)
    out = merged(paths, "slots")

    model = onnx.load(out)
    nodes = list(model.graph.node)
    (most,) = [k for k, node in enumerate(nodes) if node.op_type == "ReduceMax"]
    (slot,) = [node for node in nodes if node.op_type == "Mul" and node.input[0] == "model"]
    fewest = onnx.NodeProto()
    fewest.CopyFrom(nodes[most])
    fewest.op_type, fewest.name, fewest.output[0], slot.input[1] = "ReduceMin", "fewest", "fewest", "fewest"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:most], fewest, *nodes[most:]])
    onnx.save(model, out)
    values = netfuse_onnx.verify(out, paths).values
    assert values.mixes is not None and not values.mixes.ok
    assert all("differs" in problem for problem in values.mixes.problems)
    assert all(row.ok for row in values.outputs)


def test_the_cheaper_lowering_is_chosen_and_the_other_told(tmp_path: Path) -> None:
    report = netfuse_onnx.merge(
        KINDS["adapters"].write(tmp_path, 200), str(tmp_path / "out.onnx"), io="routed", verify=False
    )
    prices = {row.by: row.microseconds for row in report.routing}
    assert set(prices) == {"slots", "index"}
    assert report.io == min(prices, key=lambda by: prices[by] or 0.0) == "index"
    assert {row.rows for row in report.routing} == {16}


def test_a_family_without_a_lowering_is_told_why(tmp_path: Path) -> None:
    """No hint names the lowering that is refused as well."""
    text = """g (float[1, 4, 3] x) => (float[1, 5] y) {
        t = Transpose <perm: ints = [1, 0, 2]> (x)
        h, last = LSTM <hidden_size: int = 5> (t, w, r)
        y = Squeeze(last, axes0)
    }"""
    kind = Kind(
        text, {"w": (1, 20, 3), "r": (1, 20, 5)}, {"x": ("R", 4, 3)}, constants={"axes0": np.array([0])}
    )
    paths = kind.write(tmp_path, 2)
    with pytest.raises(NotRoutable, match=r"fixed at 1.* can't be routed by index") as refusal:
        merged(paths, "auto")
    assert "--routing" not in refusal.value.hint


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    """A transposed convolution has its groups in the file."""
    text = "g (float[batch, 2, 4] x) => (float[batch, 2, 5] y) { y = ConvTranspose(x, w) }"
    paths = Kind(text, {"w": (2, 2, 2)}).write(tmp_path, 2)
    fixed = "a number of models that is fixed in the file"
    with pytest.raises(NotRoutable, match=f"can't be routed by index.*{fixed}") as refusal:
        merged(paths, "index")
    assert refusal.value.hint == "Use --routing slots."
    with pytest.raises(NotStackable, match=f"A call can't choose among the models.*{fixed}") as refusal:
        netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"), io="selected", verify=False)
    assert "--routing slots" in refusal.value.hint


def test_routing_is_for_routed_files(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="--routing slots"):
        netfuse_onnx.merge(families.family(tmp_path), str(tmp_path / "out.onnx"), routing="slots")


def test_a_target_plans_for_so_many_rows(tmp_path: Path) -> None:
    paths, out = KINDS["mlp"].write(tmp_path, 4), str(tmp_path / "out.onnx")
    for by in LOWERINGS:
        report = netfuse_onnx.merge(
            paths, out, io="routed", routing=by, target="cpu", dims={"rows": 64}, verify=False
        )
        assert [row.rows for row in report.routing] == [64]
        assert netfuse_onnx.verify(out, paths).graph.ok


def test_plans_whose_models_a_call_chooses_are_not_measured(tmp_path: Path) -> None:
    paths, out = KINDS["mlp"].write(tmp_path, 3), str(tmp_path / "out.onnx")
    for how in ({"io": "routed", "routing": "index"}, {"io": "selected"}):
        with pytest.raises(UsageFault, match="--tune can't measure"):
            netfuse_onnx.merge(paths, out, tune=1.0, **how)
