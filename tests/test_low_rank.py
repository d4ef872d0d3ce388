"""--low-rank: weights that differ by a product of low rank become W_0 + L R, proven on every element."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import low_rank
import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import MLP_TEXT, family, model, save, tampered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from low_rank import MLP_WEIGHTS, tuned
from onnx import numpy_helper

from netfuse_onnx import api
from netfuse_onnx.errors import FileFault, NotEquivalent, UsageFault
from netfuse_onnx.report import MergeReport

BOTH = {"w1": 3, "w2": 3}
CASES: Mapping[str, tuple[str, dict[str, tuple[int, ...]], dict[str, int]]] = {
    "matrices to the left": (
        "g (float[24, n] x) => (float[20, n] y) { h = MatMul(w1, x) r = Relu(h) y = MatMul(w2, r) }",
        {"w1": (30, 24), "w2": (20, 30)},
        BOTH,
    ),
    "rows of a batch": (
        "g (float[n, 5, 24] x) => (float[n, 5, 20] y) { h = MatMul(x, w1) r = Tanh(h) y = MatMul(r, w2) }",
        {"w1": (24, 30), "w2": (30, 20)},
        BOTH,
    ),
    "convolutions": (
        "g (float[n, 8, 6, 6] x) => (float[n, 12, 3, 3] y) { h = Conv<pads=[1, 1, 1, 1]>(x, w1, b1) r = Relu(h) "
        "y = Conv<strides=[2, 2]>(r, w2) }",
        {"w1": (16, 8, 3, 3), "b1": (16,), "w2": (12, 16, 1, 1)},
        BOTH,
    ),
    "a weight of two nodes": (
        "g (float[n, 24] x) => (float[n, 24] y) { h = MatMul(x, w1) r = Tanh(h) y = MatMul(r, w1) }",
        {"w1": (24, 24)},
        {"w1": 3},
    ),
}


def merge(paths: list[str], folder: Path, base: str | None = None, **options: Any) -> MergeReport:
    """The report of a merge, which is proved twice: as it is written, and again from the file."""
    out = str(folder / "merged.onnx")
    report = api.merge(paths, out, low_rank=options.pop("low_rank", 0.0), base=base, **options)
    assert report.proof is not None
    assert report.proof.ok
    proof = api.verify(out, paths)
    assert proof.ok, proof.failure
    assert proof.graph.made
    assert report.low_rank is not None
    assert report.low_rank == api.inspect(out).low_rank or _close(report, api.inspect(out).low_rank)
    if report.low_rank.weights:
        assert proof.reconstruction is not None
        assert report.proof.reconstruction is not None
        assert {row.weight: row.rank for row in proof.reconstruction.weights} == ranks(report)
        assert 0 < proof.reconstruction.error <= 1
        assert proof.reconstruction.error == report.proof.reconstruction.error
    return report


def _close(report: MergeReport, again: Any) -> bool:
    """The file holds errors with four digits."""
    assert report.low_rank is not None
    both = zip(report.low_rank.weights, again.weights, strict=True)
    return all(abs(a.error - b.error) < 1e-4 and a.bytes == b.bytes and a.nodes == b.nodes for a, b in both)


def ranks(report: MergeReport) -> dict[str, int]:
    assert report.low_rank is not None
    return {row.weight: row.rank for row in report.low_rank.weights}


# --------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["generic", "cpu", "cuda"])
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_differences_from_a_base_are_found(case: str, target: str, io: str, tmp_path: Path) -> None:
    text, weights, found = CASES[case]
    paths, base = tuned(tmp_path, [found] * 4, text, weights)
    report = merge(paths, tmp_path, base, target=target, io=io)
    assert report.low_rank is not None
    assert ranks(report).items() <= found.items()
    if target == "generic":
        assert ranks(report) == found
        stored = sum(row.bytes for row in report.low_rank.weights)
        biases = 4 * sum(int(np.prod(shape)) for name, shape in weights.items() if name not in found)
        assert report.distinct_bytes <= stored + biases + 400  # constants


def test_without_a_base_w0_is_that_of_the_first_model(tmp_path: Path) -> None:
    paths, _ = tuned(tmp_path, [{"w1": 2, "w2": 1}] * 3)
    report = merge(paths, tmp_path)
    assert report.low_rank is not None
    assert ranks(report) == {"w1": 4, "w2": 2}
    assert {row.base for row in report.low_rank.weights} == {"a"}


def test_a_base_that_is_one_of_the_models(tmp_path: Path) -> None:
    paths, base = tuned(tmp_path, [BOTH] * 3)
    report = merge([*paths, base], tmp_path, base)
    assert report.low_rank is not None
    assert ranks(report) == BOTH
    assert {row.base for row in report.low_rank.weights} == {"base"}
    assert not report.low_rank.sha256


def test_ranks_are_padded_to_the_largest(tmp_path: Path) -> None:
    """Models that equal the base have zeros."""
    paths, base = tuned(tmp_path, [{"w1": 1}, {}, {"w1": 4, "w2": 2}, {"w1": 2, "w2": 1}])
    assert ranks(merge(paths, tmp_path, base)) == {"w1": 4, "w2": 2}
    factors = [t for t in onnx.load(str(tmp_path / "merged.onnx")).graph.initializer if "/A" in t.name]
    assert any(4 in tensor.dims for tensor in factors)


def test_the_same_model_twice_has_its_factors_once(tmp_path: Path) -> None:
    paths, base = tuned(tmp_path, [BOTH, BOTH, {}])
    a, b, c = paths
    report = merge([a, b, a, c, a, b], tmp_path, base, names=list("uvwxyz"))
    assert ranks(report) == BOTH


def test_what_differs_by_more_stays_whole(tmp_path: Path) -> None:
    paths, base = tuned(tmp_path, [{"w1": 24, "w2": 2}, {"w1": 1, "w2": 2}, {"w1": 1, "w2": 2}])
    report = merge(paths, tmp_path, base)
    assert ranks(report) == {"w2": 2}
    assert report.low_rank is not None
    assert "of a rank above" in report.low_rank.whole["w1"]


def test_a_tolerance_that_is_given_is_that_of_the_proof(tmp_path: Path) -> None:
    paths, base = tuned(tmp_path, [BOTH] * 3)
    with_noise = []
    for seed, path in enumerate(paths):
        proto, rng = onnx.load(path), np.random.default_rng(seed)
        for tensor in proto.graph.initializer:
            values = numpy_helper.to_array(tensor)
            noise = (rng.standard_normal(values.shape) * 1e-6 * np.abs(values).max()).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
        with_noise.append(save(tmp_path / f"noisy{seed}.onnx", proto))
    assert ranks(merge(with_noise, tmp_path, base)) == {}
    report = merge(with_noise, tmp_path, base, low_rank=3e-5)
    assert ranks(report) == BOTH
    assert report.proof is not None
    assert report.proof.reconstruction is not None
    assert report.proof.reconstruction.tolerance == 3e-5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    every=st.lists(
        st.fixed_dictionaries({"w1": st.integers(0, 6), "w2": st.integers(0, 6)}), min_size=1, max_size=6
    ),
    dims=st.tuples(st.integers(2, 6), st.integers(2, 24), st.integers(2, 24)),
    with_base=st.booleans(),
    io=st.sampled_from(["separate", "stacked"]),
    target=st.sampled_from(["generic", "generic", "cpu"]),
)
def test_any_family_is_proven(
    every: list[dict[str, int]],
    dims: tuple[int, int, int],
    with_base: bool,
    io: str,
    target: str,
    tmp_path: Path,
) -> None:
    """Any ranks, shapes and numbers of models, dims that equal that number among them."""
    k, h, o = dims
    text = (
        f"g (float[n, {k}] x) => (float[n, {o}] y) "
        "{ h = MatMul(x, w1) r = Tanh(h) y = Gemm<transB=1>(r, w2, b2) }"
    )
    weights = {"w1": (k, h), "w2": (o, h), "b2": (o,)}
    paths, base = tuned(tmp_path, every, text, weights)
    report = merge(paths, tmp_path, base if with_base else None, io=io, target=target)
    for name, rank in ranks(report).items():
        most = sorted(each[name] for each in every)
        assert rank <= (most[-1] if with_base else sum(most[-2:]))


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_equals_the_base_has_zeros_in_any_form(case: str, tmp_path: Path) -> None:
    text, weights, found = CASES[case]
    paths, base = tuned(tmp_path, [found, {}, found], text, weights)
    assert ranks(merge(paths, tmp_path, base)) == found


def deep(size: int, layers: int) -> tuple[str, dict[str, tuple[int, ...]]]:
    """A network that amplifies rounding: its layers saturate."""
    body = [f"h{i} = MatMul(r{i}, w{i}) r{i + 1} = Tanh(h{i})" for i in range(layers - 1)]
    text = f"g (float[n, {size}] r0) => (float[n, {size}] y) {{ {' '.join(body)} "
    return f"{text} y = MatMul(r{layers - 1}, w{layers - 1}) }}", {
        f"w{i}": (size, size) for i in range(layers)
    }


@pytest.mark.parametrize("seed", [6, 9, 15, 18])
def test_the_rounding_of_other_sums_is_no_difference(seed: int, tmp_path: Path) -> None:
    """x W_0 + (x L) R is rounded in proportion to |x| |W|. That is more than what other kernels change in a
    result near zero."""
    text, weights = deep(768, 6)
    paths, base = tuned(tmp_path, [dict.fromkeys(weights, 8)] * 2, text, weights, size=0.002)
    report = api.merge(paths, str(tmp_path / "merged.onnx"), low_rank=0.0, base=base, seed=seed)
    assert report.proof is not None
    assert report.proof.ok
    assert ranks(report) == dict.fromkeys(weights, 8)


def test_a_base_within_the_tolerance_is_said(tmp_path: Path) -> None:
    paths, base = tuned(tmp_path, [BOTH] * 3, size=1e-5)
    report = merge(paths, tmp_path, base, low_rank=0.5)
    assert report.low_rank is not None
    assert set(report.low_rank.whole.values()) == {"the base is within the tolerance"}


# --------------------------------------------------------------------------- what is left


def test_half_precision_needs_the_base(tmp_path: Path) -> None:
    text = low_rank.MLP.replace("float[", "float16[")
    paths, base = tuned(tmp_path, [BOTH] * 3, text, MLP_WEIGHTS, np.float16)
    report = merge(paths, tmp_path)
    assert ranks(report) == {}
    assert report.low_rank is not None
    assert all("needs --base" in reason for reason in report.low_rank.whole.values())
    assert ranks(merge(paths, tmp_path, base)) == BOTH


@pytest.mark.parametrize(
    ("text", "weights", "word"),
    [
        ("g (int64[n] x) => (float[n, 8] y) { y = Gather(w, x) }", {"w": (16, 8)}, "another operator"),
        (
            "g (float[n, 16] x) => (float[n, 8] y, float[16, 8] z) { y = MatMul(x, w) z = Relu(w) }",
            {"w": (16, 8)},
            "another operator",
        ),
        (
            "g (float[8, 8] x) => (float[8, 8] y) { h = MatMul(x, w) r = Tanh(h) y = MatMul(w, r) }",
            {"w": (8, 8)},
            "several forms",
        ),
        (
            "g (float[n, 4, 3, 3] x) => (float[n, 8, 3, 3] y) { y = Conv<group=2>(x, w) }",
            {"w": (8, 2, 1, 1)},
            "groups",
        ),
        (
            "g (float[n, 8] x, bool c) => (float[n, 8] y) { y = If(c) <then_branch = t () => (float[n, 8] a) "
            "{ a = MatMul(x, w) }, else_branch = e () => (float[n, 8] b) { b = Relu(x) }> }",
            {"w": (8, 8)},
            "another operator",
        ),
    ],
)
def test_what_can_not_be_low_rank_stays_whole(
    text: str, weights: dict[str, tuple[int, ...]], word: str, tmp_path: Path
) -> None:
    paths, base = tuned(tmp_path, [{"w": 1}] * 3, text, weights)
    report = merge(paths, tmp_path, base)
    assert report.low_rank is not None
    assert not report.low_rank.weights
    assert word in report.low_rank.whole["w"]


def test_one_model_has_no_differences(tmp_path: Path) -> None:
    paths, base = tuned(tmp_path, [BOTH])
    assert ranks(merge(paths, tmp_path, base)) == {}


def test_a_target_may_keep_weights_whole(tmp_path: Path) -> None:
    """With many rows, two products more cost more than the bytes that they spare."""
    paths, base = tuned(
        tmp_path,
        [{"w": 20}] * 4,
        "g (float[n, 96] x) => (float[n, 96] y) { y = MatMul(x, w) }",
        {"w": (96, 96)},
    )
    assert ranks(merge(paths, tmp_path, base)) == {"w": 20}
    report = merge(paths, tmp_path, base, target="cpu", dims={"n": 256})
    assert report.low_rank is not None
    assert "faster with --target cpu" in report.low_rank.whole["w"]


def test_a_plan_by_measuring_has_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths, base = tuned(tmp_path, [BOTH] * 3)
    report = merge(paths, tmp_path, base, tune=3.0)
    assert report.tuning is not None


# --------------------------------------------------------------------------- what is found in a file that was changed


def _merged(folder: Path) -> tuple[str, list[str]]:
    paths, base = tuned(folder, [BOTH] * 3)
    merge(paths, folder, base)
    return str(folder / "merged.onnx"), paths


def _changed(out: str, part: str, change: Any) -> None:
    def apply(proto: onnx.ModelProto) -> None:
        found = [tensor for tensor in proto.graph.initializer if part in tensor.name]
        assert found
        for tensor in found:
            values = numpy_helper.to_array(tensor).copy()
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(values)), tensor.name))

    tampered(out, apply)


@pytest.mark.parametrize("part", ["w1/A", "w1/B", "w2/A", "w2/B"])
def test_factors_of_exchanged_models_are_found(part: str, tmp_path: Path) -> None:
    out, paths = _merged(tmp_path)
    _changed(out, part, lambda values: values[[1, 0, 2]])
    proof = api.verify(out, paths)
    assert not proof.ok
    assert proof.reconstruction is not None
    assert not proof.reconstruction.ok
    assert "is not W_0 + L R" in proof.failure


@pytest.mark.parametrize("part", ["w1", "w1/A", "w2/B"])
def test_one_changed_element_is_found(part: str, tmp_path: Path) -> None:
    out, paths = _merged(tmp_path)
    names = [tensor.name for tensor in onnx.load(out).graph.initializer]
    (name,) = [n for n in names if n == part or (n.startswith(part) and "/" in part)]

    def change(values: Any) -> Any:
        values.reshape(-1)[7] *= 1.0001
        return values

    def apply(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name == name:
                values = numpy_helper.to_array(tensor).copy()
                tensor.CopyFrom(numpy_helper.from_array(change(values), name))

    tampered(out, apply)
    proof = api.verify(out, paths)
    assert proof.reconstruction is not None
    assert not proof.reconstruction.ok
    assert proof.exit_code == 1


def _metadata(out: str, change: Any) -> None:
    import json

    def apply(proto: onnx.ModelProto) -> None:
        for entry in proto.metadata_props:
            if entry.key == "netfuse_onnx":
                value = json.loads(entry.value)
                change(value)
                entry.value = json.dumps(value)

    tampered(out, apply)


def test_metadata_that_exchange_models_are_found(tmp_path: Path) -> None:
    out, paths = _merged(tmp_path)
    _changed(out, "w1/A", lambda values: values[[1, 0, 2]])
    (name,) = [t.name for t in onnx.load(out).graph.initializer if t.name.startswith("w1/A")]
    _metadata(out, lambda value: value["weights"][name].update(parts=[1, 0, 2]))
    proof = api.verify(out, paths)
    assert proof.reconstruction is not None
    assert proof.reconstruction.ok, "as the metadata say, the factors are right"
    assert not proof.graph.ok
    assert not proof.ok


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["low_rank"]["weights"]["w1"].update(rank=2),
        lambda value: value["low_rank"]["weights"]["w1"].update(rank=2**31 - 1),
        lambda value: value["low_rank"]["weights"]["w1"].update(rank=0),
        lambda value: value["low_rank"]["weights"]["w1"].update(a=[0]),
        lambda value: value["low_rank"]["weights"]["w1"].update(a=[2, 1, 0]),
        lambda value: value["low_rank"]["weights"]["w1"].update(b=[0, 9, 9]),
        lambda value: value["low_rank"]["weights"]["w1"].update(model=7),
        lambda value: value["low_rank"]["weights"].update(b1={"rank": 1}),
        lambda value: value["low_rank"]["weights"].update(nothing={"rank": 1}),
        lambda value: value["low_rank"].pop("weights"),
    ],
)
def test_odd_metadata_are_refused(change: Any, tmp_path: Path) -> None:
    out, paths = _merged(tmp_path)
    _metadata(out, change)
    with pytest.raises(FileFault, match=r"usable|damaged"):
        api.verify(out, paths)


def test_other_models_are_found(tmp_path: Path) -> None:
    out, paths = _merged(tmp_path)
    other, _ = tuned(tmp_path, [BOTH] * 4)
    proof = api.verify(out, [paths[0], paths[1], other[3]])
    assert not proof.ok
    assert proof.warnings


# --------------------------------------------------------------------------- the command line


def test_the_command_says_what_it_found(tmp_path: Path, run: Run) -> None:
    paths, base = tuned(tmp_path, [BOTH] * 4)
    out = tmp_path / "merged.onnx"
    code, _, err = run("merge", "--low-rank", *paths, "-o", out, "--base", base)
    assert code == 0
    assert "2 of 2 weights that differ are W0 + L R, with W0 of the base: rank 3" in err
    assert "Factors: W0 + L R of 2 weights" in err
    code, told, _ = run("inspect", out)
    assert code == 0
    assert "rank 3" in told
    code, _, err = run("verify", out, *paths)
    assert code == 0
    assert "Factors: W0 + L R of 2 weights" in err


def test_misuse_is_refused(tmp_path: Path, run: Run) -> None:
    paths, base = tuned(tmp_path, [BOTH] * 2)
    out = tmp_path / "merged.onnx"
    other = save(tmp_path / "other.onnx", model(MLP_TEXT, {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}))
    refused(run("merge", *paths, "-o", out, "--base", base), 2, "Give --low-rank")
    refused(run("merge", *paths, "-o", out, "--low-rank", "1.5"), 2, "can't take 1.5")
    refused(run("merge", *paths, "-o", out, "--low-rank", "--partial"), 2, "one architecture")
    refused(run("merge", *paths, "-o", out, "--low-rank", "--base", other), 1, "base is not of the models'")
    refused(run("merge", *paths, "-o", out, "--low-rank", "--base", tmp_path / "no.onnx"), 3, "no.onnx")
    refused(run("merge", *paths, "-o", base, "--low-rank", "--base", base), 3, "base.onnx")
    assert not os.path.exists(out)


@pytest.mark.parametrize("tolerance", [-1.0, 1.0, float("nan"), float("inf")])
def test_a_tolerance_is_a_part(tolerance: float, tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="relative"):
        api.merge(family(tmp_path), str(tmp_path / "merged.onnx"), low_rank=tolerance)


def test_a_base_of_another_architecture_is_refused(tmp_path: Path) -> None:
    paths, _ = tuned(tmp_path, [BOTH] * 2)
    other = save(tmp_path / "other.onnx", model(MLP_TEXT, {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}))
    with pytest.raises(NotEquivalent, match="The base is not of the models' architecture"):
        api.merge(paths, str(tmp_path / "merged.onnx"), low_rank=0.0, base=other)
