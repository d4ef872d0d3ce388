"""verify: what is right passes, and whatever is wrong is seen and named."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from families import WIDE, WIDE_WEIGHTS, family, merged, model, save, tampered
from onnx import TensorProto

import netfuse_onnx
from netfuse_onnx import library
from netfuse_onnx.errors import FileFault, NotEquivalent, UsageFault, ValuesDiffer
from netfuse_onnx.run import runtime

# --------------------------------------------------------------------------- what is right


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_merge_is_proved_with_batches_of_1_2_and_n(tmp_path: Path, io: str, count: int) -> None:
    report = netfuse_onnx.merge(family(tmp_path, WIDE, WIDE_WEIGHTS, count), str(tmp_path / "m.onnx"), io=io)
    assert report.proof is not None
    assert report.proof.ok
    assert report.proof.values.cases == tuple(f"n={n}" for n in sorted({1, 2, count}))
    assert len(report.proof.values.outputs) == count
    assert report.proof.bytes.weights > 0


def test_a_shared_input_is_fed_once(tmp_path: Path) -> None:
    report = netfuse_onnx.merge(family(tmp_path), str(tmp_path / "m.onnx"), share=["x"])
    assert report.ok
    assert [info.name for info in onnx.load(tmp_path / "m.onnx").graph.input] == ["x"]


def test_verify_again_from_the_file_alone(tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    report = netfuse_onnx.verify(merged(tmp_path, paths), paths)
    assert report.ok
    assert not report.warnings
    assert report.values.spread is not None
    assert report.values.spread.telling


def test_inputs_and_outputs_pair_by_position_where_names_differ(tmp_path: Path) -> None:
    text = "g (float[n, 3] {0}, float[n, 3] {1}) => (float[n, 3] {2}) {{ {2} = Sub({0}, {1}) }}"
    paths = [
        save(tmp_path / "a.onnx", model(text.format("x", "y", "z"))),
        save(tmp_path / "b.onnx", model(text.format("p", "q", "r"))),
    ]
    assert netfuse_onnx.verify(merged(tmp_path, paths), paths).ok


# --------------------------------------------------------------------------- what is wrong


def test_a_changed_weight_is_seen_by_both_proofs(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        (tensor,) = (t for t in proto.graph.initializer if len(t.raw_data) == 2 * 64 * 16 * 4)
        raw = bytearray(tensor.raw_data)
        raw[64 * 16 * 4 + 23] ^= 0x40  # the exponent of one element of model b
        tensor.raw_data = bytes(raw)

    paths = family(tmp_path, WIDE, WIDE_WEIGHTS)
    report = netfuse_onnx.verify(tampered(merged(tmp_path, paths), change), paths)
    assert not report.ok
    assert "is not 'w1' of b: byte 23 differs" in report.bytes.problems[0]
    assert [row.model for row in report.values.outputs if not row.ok] == ["b"]


def test_every_weight_takes_part_in_the_proof_of_the_bytes(tmp_path: Path) -> None:
    """Those that stand inside of the graph too: small ones, scalars, empty ones, strings."""
    text = """g (float[n, 8] x, int64[n] k) => (float[n, 4] y, string[n] z) {
        h = MatMul(x, w1)  i = Add(h, b1)  j = Mul(i, s)  c = Concat <axis = 1> (j, e)
        y = MatMul(c, w2)  z = Gather(t, k)
    }"""
    paths = family(tmp_path, text, {"w1": (8, 16), "b1": (16,), "s": (), "e": (1, 0), "w2": (16, 4)})
    paths = [path for path in paths if _with_words(path, [f"{path[-6]}{i}" for i in range(5)])]
    out = merged(tmp_path, paths)
    assert netfuse_onnx.inspect(out).weights == 6
    whole = netfuse_onnx.verify(out, paths)
    assert whole.ok
    assert (whole.bytes.weights, whole.bytes.bytes) == (6, 4 * 2 * (128 + 16 + 1 + 64) + 4 * 5)
    for tensor in onnx.load(out).graph.initializer:
        if 0 in tensor.dims or tensor.name not in _recipes(out):
            continue

        def change(proto: onnx.ModelProto, name: str = tensor.name) -> None:
            (found,) = (t for t in proto.graph.initializer if t.name == name)
            if found.string_data:
                found.string_data[7] = b"other"
            else:
                found.raw_data = found.raw_data[:-1] + bytes([found.raw_data[-1] ^ 1])

        before = Path(out).read_bytes()
        report = netfuse_onnx.verify(tampered(out, change), paths)
        assert [
            f"of b: {'string 2' if tensor.string_data else 'byte'}" in p for p in report.bytes.problems
        ] == [True]
        Path(out).write_bytes(before)


def _with_words(path: str, words: list[str]) -> str:
    proto = onnx.load(path)
    proto.graph.initializer.append(onnx.helper.make_tensor("t", TensorProto.STRING, [5], words))
    return save(Path(path), proto)


def _recipes(path: str) -> dict[str, dict[str, object]]:
    (entry,) = (p for p in onnx.load(path).metadata_props if p.key == "netfuse_onnx")
    found: dict[str, dict[str, object]] = json.loads(entry.value)["weights"]
    return found


@pytest.mark.parametrize(
    "line",
    [
        {"value": "w1", "outer": 0},
        {"value": "b1"},
        {"value": "w1", "transform": "xy"},
        {"parts": 3},
        {"value": "b1", "transform": "T"},
    ],
)
def test_metadata_that_do_not_fit_are_a_damaged_file(tmp_path: Path, line: dict[str, object]) -> None:
    def change(proto: onnx.ModelProto) -> None:
        (entry,) = (p for p in proto.metadata_props if p.key == "netfuse_onnx")
        value = json.loads(entry.value)
        (name,) = (n for n, known in value["weights"].items() if known["value"] == "w1")
        value["weights"][name] = line
        entry.value = json.dumps(value)

    paths = family(tmp_path)
    with pytest.raises(FileFault, match=r"nothing usable|is damaged"):
        netfuse_onnx.verify(tampered(merged(tmp_path, paths), change), paths)


def test_a_weight_of_another_type_or_gone_is_a_failed_proof(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if len(tensor.raw_data) == 2 * 16 * 4:
                tensor.data_type = TensorProto.INT32

    paths = family(tmp_path)
    report = netfuse_onnx.verify(tampered(merged(tmp_path, paths), change), paths)
    assert "another type or shape" in report.bytes.problems[0]


def test_a_changed_operator_is_seen_by_the_values(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        (node,) = (n for n in proto.graph.node if n.op_type == "Relu")
        node.op_type = "Softplus"

    paths = family(tmp_path)
    report = netfuse_onnx.verify(tampered(merged(tmp_path, paths), change), paths)
    assert report.bytes.ok
    assert not report.values.ok
    assert report.failure.startswith("Output y of model ")


def test_swapped_models_are_seen(tmp_path: Path) -> None:
    def change(proto: onnx.ModelProto) -> None:
        outputs = proto.graph.output
        for node in proto.graph.node:
            for i, name in enumerate(node.output):
                node.output[i] = {"a/y": "b/y", "b/y": "a/y"}.get(name, name)
        assert {o.name for o in outputs} == {"a/y", "b/y"}

    paths = family(tmp_path)
    report = netfuse_onnx.verify(tampered(merged(tmp_path, paths), change), paths)
    assert [row.ok for row in report.values.outputs] == [False, False]


def test_a_failed_proof_leaves_the_target_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from netfuse_onnx.prove import judge
    from netfuse_onnx.prove.noise import Noise

    out = tmp_path / "m.onnx"
    out.write_bytes(b"the old model")
    impossible = dict.fromkeys(judge.BY_PRECISION, judge.Tolerance(0.0, 0.0, -1.0))
    monkeypatch.setattr(judge, "BY_PRECISION", impossible)
    nothing = {"y": np.zeros(())}
    monkeypatch.setattr(judge, "measure", lambda trial, model, cases: Noise(dict.fromkeys(cases, nothing)))
    with pytest.raises(ValuesDiffer) as caught:
        netfuse_onnx.merge(family(tmp_path), str(out), atol=0.0, rtol=0.0)
    assert caught.value.report is not None
    assert out.read_bytes() == b"the old model"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "m.onnx"]


def test_equal_models_could_be_swapped_unseen(tmp_path: Path) -> None:
    paths = family(tmp_path, count=1)
    twice = [*paths, save(tmp_path / "again.onnx", onnx.load(paths[0]))]
    report = netfuse_onnx.verify(merged(tmp_path, twice), twice)
    assert report.ok
    assert "a and again give exactly the same: are they one model?" in report.warnings[0]
    assert "could not have shown the two exchanged" in report.warnings[0]


# --------------------------------------------------------------------------- the right sources


def test_another_order_is_refused(tmp_path: Path) -> None:
    paths = family(tmp_path)
    with pytest.raises(UsageFault, match="another order"):
        netfuse_onnx.verify(merged(tmp_path, paths), paths[::-1])


def test_the_right_order_is_given_for_a_shell(tmp_path: Path) -> None:
    (tmp_path / "it's here").mkdir()
    paths = family(tmp_path / "it's here")
    with pytest.raises(UsageFault) as caught:
        netfuse_onnx.verify(merged(tmp_path, paths), paths[::-1])
    assert caught.value.hint == f"Give {shlex.join(paths)}"


def test_another_number_is_refused(tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    with pytest.raises(UsageFault, match="holds 3 models"):
        netfuse_onnx.verify(merged(tmp_path, paths), paths[:2])


def test_a_strange_source_is_named(tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    report = netfuse_onnx.verify(merged(tmp_path, paths[:2]), [paths[0], paths[2]])
    assert not report.ok
    assert "c.onnx is not the file that was merged as b" in report.warnings[0]


def test_one_model_in_place_of_all_is_named(tmp_path: Path) -> None:
    """Its weights are one where there were three, so nothing can be undone."""
    paths = family(tmp_path, count=3)
    with pytest.raises(ValuesDiffer, match=r"a\.onnx is not the file that was merged as b"):
        netfuse_onnx.verify(merged(tmp_path, paths), paths[:1] * 3)


def test_external_data_of_another_version_are_strange(tmp_path: Path) -> None:
    """The model file alone is the same; under another name it still is."""
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS)
    for path in paths:
        data = {"save_as_external_data": True, "location": f"{path[-6]}.bin", "size_threshold": 0}
        onnx.save_model(onnx.load(path), path, **data)
    out = merged(tmp_path, paths)
    moved = str(Path(paths[1]).rename(tmp_path / "moved.onnx"))
    assert not netfuse_onnx.verify(out, [paths[0], moved]).warnings
    data_file = tmp_path / "b.bin"
    data_file.write_bytes(data_file.read_bytes()[:-1] + b"\0")
    report = netfuse_onnx.verify(out, [paths[0], moved])
    assert "moved.onnx is not the file that was merged as b" in report.warnings[0]
    assert not report.bytes.ok


def test_a_file_of_another_maker_is_refused(tmp_path: Path) -> None:
    paths = family(tmp_path)
    with pytest.raises(FileFault, match="not written by netfuse-onnx"):
        netfuse_onnx.verify(paths[0], paths)


# --------------------------------------------------------------------------- ONNX Runtime


@pytest.fixture
def fresh() -> Iterator[None]:
    """What was found out about ONNX Runtime is forgotten before and after."""
    caches = (library.onnxruntime, runtime.onnxruntime, runtime.cuda_problem)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_missing_onnx_runtime_is_said_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageFault, match=r"netfuse-onnx\[cpu\]"):
        netfuse_onnx.merge(["missing.onnx", "too.onnx"], str(tmp_path / "m.onnx"))
    paths = family(tmp_path)
    assert netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), verify=False).proof is None


@pytest.mark.usefixtures("fresh")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_that_falls_back_is_not_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = runtime.onnxruntime()
    listed = [runtime.CUDA, runtime.CPU]
    monkeypatch.setattr(ort, "get_available_providers", lambda: listed)
    if runtime.cuda_problem() == "":
        pytest.skip("this machine has CUDA")
    with pytest.raises(UsageFault, match="CUDA was asked for"):
        runtime.choose("cuda")
    chosen = runtime.choose("auto")
    assert chosen.provider == "cpu"
    assert chosen.note


def test_bfloat16_travels_both_ways() -> None:
    proto = model("g (bfloat16[3] x) => (bfloat16[3] y) { y = Identity(x) }")
    session = runtime.Session(proto.SerializeToString(), runtime.Runtime("cpu"))
    x = np.array([1.5, -2, np.inf]).astype(onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    y = session.run({"x": x})["y"]
    assert isinstance(y, np.ndarray)
    assert y.dtype == x.dtype
    assert y.tobytes() == x.tobytes()


def test_what_onnx_runtime_refuses_is_one_line() -> None:
    with pytest.raises(runtime.RunFailed) as caught:
        runtime.Session(b"no model", runtime.Runtime("cpu"))
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_sources_that_do_not_match_are_no_proof(tmp_path: Path) -> None:
    paths = family(tmp_path)
    out = merged(tmp_path, paths)
    save(tmp_path / "b.onnx", model("g (float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }"))
    with pytest.raises(NotEquivalent):
        netfuse_onnx.verify(out, paths)
