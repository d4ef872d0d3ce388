"""A quantised file for CUDA is proven as CUDA runs it, without the CPU's fusions into operators on bytes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import netfuse_onnx
from cli.main import main
from netfuse_onnx.prove.level import FUSIONS_OF_BYTES
from netfuse_onnx.run import runtime

LINEAR = """<ir_version: 8, opset_import: ["" : 17]> g (float[b, 6] x) => (float[b, 4] y) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear(w, ws, wz)
    y = MatMul(d, wd) }"""
PLAIN = '<ir_version: 8, opset_import: ["" : 17]> g (float[b, 6] x) => (float[b, 4] y) { y = MatMul(x, f) }'


def sources(folder, text=LINEAR):
    files = []
    for k in range(2):
        model, r = parser.parse_model(text), np.random.default_rng(k)
        weights = {"f": r.standard_normal((6, 4)).astype("f")} if text == PLAIN else {
            "w": r.integers(0, 255, (6, 4)).astype(np.uint8), "ws": np.float32(0.01 + 0.001 * k),
            "wz": np.uint8(100 + 20 * k), "s": np.float32(0.02 + 0.01 * k), "z": np.uint8(120 + k)}  # fmt: skip
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items())
        files.append(str(folder / f"m{k}.onnx"))
        onnx.save(model, files[-1])
    return files


def target_file(folder, provider):
    """A file of constants, as bench/calibrate.py writes it."""
    from importlib import resources

    text = resources.files("netfuse_onnx").joinpath("targets", f"{provider}.json").read_text()
    path = folder / f"{provider}-here.json"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_a_quantised_file_for_cuda(io, tmp_path):
    files, out = sources(tmp_path), str(tmp_path / "out.onnx")
    report = netfuse_onnx.merge(files, out, io=io, target="cuda", provider="cpu")
    assert report.ok and report.proof.values.left_out == FUSIONS_OF_BYTES
    again = netfuse_onnx.verify(out, files, provider="cpu")
    assert again.ok and again.values.left_out == FUSIONS_OF_BYTES
    assert again.to_json()["values"]["left_out"] == list(FUSIONS_OF_BYTES)


@pytest.mark.parametrize(("target", "text"), [("cuda", PLAIN), ("cpu", LINEAR), ("generic", LINEAR)])
def test_all_other_files_run_as_they_are(target, text, tmp_path):
    report = netfuse_onnx.merge(
        sources(tmp_path, text), str(tmp_path / "out.onnx"), target=target, provider="cpu"
    )
    assert report.ok and not report.proof.values.left_out


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
def test_a_target_of_a_machine_names_its_provider(provider, tmp_path, monkeypatch):
    """The merged file says for which provider it was made, since the file of constants may be gone."""
    monkeypatch.chdir(tmp_path)
    files, out, target = sources(tmp_path), str(tmp_path / "out.onnx"), target_file(tmp_path, provider)
    expected = FUSIONS_OF_BYTES if provider == "cuda" else ()
    assert netfuse_onnx.merge(files, out, target=target, provider="cpu").proof.values.left_out == expected
    (tmp_path / target).unlink()
    again = netfuse_onnx.verify(out, files, provider="cpu")
    assert again.ok and again.values.left_out == expected
    assert "could not be compared" in again.graph.note


def test_the_printed_proof_names_what_was_left_out(tmp_path, capsys):
    files = sources(tmp_path)
    assert (
        main(["merge", *files, "-o", str(tmp_path / "out.onnx"), "--target", "cuda", "--provider", "cpu"])
        == 0
    )
    printed = capsys.readouterr().err
    assert "as CUDA runs the file" in printed and all(name in printed for name in FUSIONS_OF_BYTES)


def test_a_wrong_scale_fails_all_the_same(tmp_path):
    files, out = sources(tmp_path), str(tmp_path / "out.onnx")
    netfuse_onnx.merge(files, out, io="stacked", target="cuda", provider="cpu")
    model = onnx.load(out)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    name = next(
        n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored
    )
    wrong = numpy_helper.to_array(stored[name]) * np.float32([1, 2])
    stored[name].CopyFrom(numpy_helper.from_array(wrong, name))
    onnx.save(model, out)
    report = netfuse_onnx.verify(out, files, provider="cpu")
    assert not report.ok and not report.values.ok


def test_the_names_are_those_of_onnx_runtime(tmp_path):
    """An unknown name would be passed over: nothing would be left out."""
    (file, _) = sources(tmp_path)
    operators = {}
    for left_out in ((), FUSIONS_OF_BYTES):
        options = runtime.session_options()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        used = runtime.Runtime("cpu", left_out=left_out)
        runtime.open_session(file, options, used, runtime.providers("cpu", tf32=False))
        operators[left_out] = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "MatMulIntegerToFloat" in operators[()]
    assert "DequantizeLinear" in operators[FUSIONS_OF_BYTES] and "MatMul" in operators[FUSIONS_OF_BYTES]
