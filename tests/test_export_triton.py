"""netfuse-onnx export triton, without a server: what is written, what is refused, and what model.py makes of requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import MLP, MLP_TEXT, family, save
from google.protobuf import text_format
from triton_families import FORMS, alone, exported, rename
from tritonclient.grpc import model_config_pb2

import netfuse_onnx
from netfuse_onnx.deploy import repository
from netfuse_onnx.deploy.triton import Options, export
from netfuse_onnx.errors import FileFault, UsageFault


def configuration(repository: Path, model: str) -> Any:
    return text_format.Parse(
        (repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a.onnx, b.onnx, c.onnx, their bundle, a routed file and a separate one."""
    home = tmp_path_factory.mktemp("made")
    paths = family(home, count=3)
    netfuse_onnx.merge(paths, str(home / "bundle"), io="stacked", views=True, verify=False)
    netfuse_onnx.merge(paths, str(home / "routed.onnx"), io="routed", verify=False, data="external")
    netfuse_onnx.merge(paths, str(home / "merged.onnx"), verify=False, data="external")
    return home


# --------------------------------------------------------------------------- what is written


def test_each_endpoint_asks_the_family_for_its_own_outputs(made: Path, tmp_path: Path) -> None:
    report = export(str(made / "bundle"), str(tmp_path / "repo"), Options("all"))
    assert report.endpoints == {"a": "a", "b": "b", "c": "c"} and report.batches
    assert sorted(os.listdir(tmp_path / "repo")) == ["a", "all", "b", "c", "netfuse.json"]
    config = configuration(tmp_path / "repo", "all")
    assert (config.backend, config.max_batch_size) == ("python", 64)
    assert [one.name for one in config.output] == ["y", "a/y", "b/y", "c/y"]
    assert [(one.name, list(one.dims), one.optional) for one in config.input] == [
        ("x", [8], False),
        ("model", [1], True),
    ]
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    for name in "abc":
        one = configuration(tmp_path / "repo", name)
        assert (one.name, one.platform, one.max_batch_size) == (name, "ensemble", 64)
        (step,) = one.ensemble_scheduling.step
        assert dict(step.input_map) == {"x": "x"} and dict(step.output_map) == {f"{name}/y": "y"}
        assert os.listdir(tmp_path / "repo" / name / "1") == [".keep"]


def test_the_repository_holds_all_that_the_server_opens(made: Path, tmp_path: Path) -> None:
    """A merged file comes with its data, a bundle with all of its files."""
    for given, opened in (("bundle", "bundle"), ("merged.onnx", "merged.onnx")):
        out = tmp_path / opened
        export(str(made / given), str(out), Options("all"))
        home = out / "all" / "1"
        assert json.loads((home / "family.json").read_text())["file"] == opened
        with netfuse_onnx.MergedSession(home / opened, calibrate=0.0) as session:
            x = np.ones((1, 8), np.float32)
            assert np.allclose(session.run("b", {"x": x})["y"], alone(str(made / "b.onnx"), {"x": x})["y"])


def test_links_take_no_room(made: Path, tmp_path: Path) -> None:
    served = tmp_path / "bundle"
    shutil.copytree(made / "bundle", served)
    export(str(served), str(tmp_path / "repo"), Options("all", link=True))
    for name in os.listdir(served):
        assert os.path.samefile(served / name, tmp_path / "repo" / "all" / "1" / "bundle" / name)


@pytest.mark.parametrize(
    ("name", "batch", "inputs", "outputs"),
    [
        ("fixed", 0, [[1, 2, 4]], [[1, 2, 3]]),
        ("ragged", 64, [[-1, 4]], [[-1, 3]]),
        ("scalar", 0, [[-1, 4], [1]], [[-1, 3]]),
        ("table", 0, [[-1, 4], [5, 4]], [[-1, 5]]),
        ("labels", 64, [[4]], [[1], [3]]),
    ],
)
def test_shapes_are_those_of_the_source(
    tmp_path: Path, name: str, batch: int, inputs: list[list[int]], outputs: list[list[int]]
) -> None:
    exported(tmp_path, name, FORMS[name], tmp_path / "repo")
    config = configuration(tmp_path / "repo", f"{name}.b")
    assert config.max_batch_size == batch
    assert [list(one.dims) for one in config.input] == inputs
    assert [list(one.dims) for one in config.output] == outputs
    whole = configuration(tmp_path / "repo", name)
    assert whole.input[0].allow_ragged_batch == (name == "ragged")
    assert whole.HasField("dynamic_batching") == (name not in ("scalar", "table"))


def test_options_reach_the_configuration(made: Path, run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "repo")
    code, said, err = run(
        "export", "triton", str(made / "bundle"), "-o", out, "--name", "all", "--provider", "cuda",
        "--delay", "250", "--max-queue", "99", "--endpoint", "a=first", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(said)["endpoints"] == {"a": "first", "b": "b", "c": "c"}
    config = configuration(tmp_path / "repo", "all")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert config.parameters["providers"].string_value == "CUDAExecutionProvider,CPUExecutionProvider"
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 99


@pytest.mark.parametrize(
    ("libraries", "code", "said"),
    [
        (["none.so"], 3, "none.so is no file"),
        (["."], 3, "is no file"),
        (["x/o.so", "y/o.so"], 2, "called 'o.so'"),
        (["x/model.py"], 2, "called 'model.py'"),
    ],
)
def test_libraries_that_would_be_lost_are_refused(
    made: Path, run: Run, tmp_path: Path, libraries: list[str], code: int, said: str
) -> None:
    for name in ("x/o.so", "y/o.so", "x/model.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    given = [one for name in libraries for one in ("--ort-library", tmp_path / name)]
    refused(run("export", "triton", made / "bundle", "-o", tmp_path / "repo", *given), code, said)
    assert not (tmp_path / "repo").exists()


def test_a_clash_of_outputs_gives_them_other_names(tmp_path: Path) -> None:
    """The family's output b/y is that of model a, and not model b's output y."""
    paths = family(tmp_path)
    proto = onnx.load(paths[0])
    rename(proto, {"y": "b/y", "x": "model"})
    save(Path(paths[0]), proto)
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), views=True, verify=False)
    export(str(tmp_path / "bundle"), str(tmp_path / "repo"), Options("all"))
    config = configuration(tmp_path / "repo", "all")
    assert [one.name for one in config.output] == ["b/y", "netfuse/0/b/y", "netfuse/1/y"]
    assert [one.name for one in config.input] == ["model", "netfuse/model"]


# --------------------------------------------------------------------------- without Python


def _step(model: str, folder: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run a step as ONNX Runtime's backend does: with the reshapes of the configuration."""
    config = configuration(folder, model)
    for one in config.input:
        if one.HasField("reshape"):
            feeds[one.name] = feeds[one.name].reshape(-1)
    file = folder / model / "1" / (config.default_model_filename or "model.onnx")
    return alone(str(file), feeds)


def test_the_variant_without_python_gives_each_models_values(made: Path, tmp_path: Path) -> None:
    """The ensemble by hand: the index, then the routed file."""
    out = tmp_path / "repo"
    export(str(made / "routed.onnx"), str(out), Options(backend="onnxruntime"))
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    for name in "abc":
        config = configuration(out, name)
        values: dict[str, Any] = {"x": x}
        for step in config.ensemble_scheduling.step:
            results = _step(step.model_name, out, {k: values[v] for k, v in step.input_map.items()})
            values |= {v: results[k] for k, v in step.output_map.items()}
        assert np.allclose(values["y"], alone(str(made / f"{name}.onnx"), {"x": x})["y"], atol=1e-5)
    assert configuration(out, "routed").backend == "onnxruntime"
    assert not list(out.rglob("*.py"))


def test_a_file_that_is_not_routed_is_no_variant_without_python(made: Path, tmp_path: Path, run: Run) -> None:
    answer = run(
        "export", "triton", str(made / "bundle"), "-o", str(tmp_path / "r"), "--backend", "onnxruntime"
    )
    refused(answer, 2, "--io routed")
    assert not os.listdir(tmp_path)


def test_a_routed_bundle_is_served_without_python(made: Path, tmp_path: Path) -> None:
    """Its merged file goes into the repository, and its views don't."""
    paths = [str(made / f"{name}.onnx") for name in "abc"]
    netfuse_onnx.merge(paths, str(tmp_path / "bundle"), io="routed", views=True, verify=False)
    export(str(tmp_path / "bundle"), str(tmp_path / "repo"), Options("all", backend="onnxruntime"))
    config = configuration(tmp_path / "repo", "all")
    names = os.listdir(tmp_path / "repo" / "all" / "1")
    assert config.default_model_filename in names and not [name for name in names if "view" in name]


def test_an_input_that_a_call_takes_once_has_no_batch(tmp_path: Path, run: Run) -> None:
    form = FORMS["table"]
    paths = family(tmp_path, form.text, form.weights)
    netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), io="routed", share=["t"], verify=False)
    out = str(tmp_path / "r")
    answer = run("export", "triton", str(tmp_path / "m.onnx"), "-o", out, "--backend", "onnxruntime")
    refused(answer, 2, "'t'", "--backend python")
    assert not os.path.lexists(out)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("names", "family_name", "said"),
    [
        (["a", "é"], "all", "é"), (["a", ".."], "all", "'..'"), (["a", "my b"], "all", "my b"),
        (["a", "b"], "b", "'b'"), (["a", "b"], "x/y", "x/y"),
    ],
)  # fmt: skip
def test_names_that_are_no_folders_are_refused(
    tmp_path: Path, names: list[str], family_name: str, said: str
) -> None:
    netfuse_onnx.merge(family(tmp_path), str(tmp_path / "m"), names=names, views=True, verify=False)
    with pytest.raises(UsageFault, match="--") as caught:
        export(str(tmp_path / "m"), str(tmp_path / "repo"), Options(family_name))
    assert said in caught.value.message
    assert not (tmp_path / "repo").exists()
    if names[1] != "b":
        report = export(str(tmp_path / "m"), str(tmp_path / "repo"), Options("all", {names[1]: "other"}))
        assert report.endpoints[names[1]] == "other"


@pytest.mark.parametrize(
    ("endpoints", "said"),
    [(["z=y"], "no model 'z'"), (["a=b"], "'b'"), (["a"], "MODEL=NAME"), (["a=x", "a=y"], "twice")],
)
def test_endpoints_that_make_no_sense_are_refused(
    made: Path, tmp_path: Path, run: Run, endpoints: list[str], said: str
) -> None:
    options = [part for one in endpoints for part in ("--endpoint", one)]
    refused(run("export", "triton", str(made / "bundle"), "-o", str(tmp_path / "r"), *options), 2, said)
    assert not os.listdir(tmp_path)


def test_a_folder_of_somebody_else_is_never_replaced(made: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "repo"
    out.mkdir()
    (out / "notes").write_text("mine")
    answer = run("export", "triton", str(made / "bundle"), "-o", str(out))
    refused(answer, 3, "no repository that netfuse-onnx wrote")
    assert os.listdir(out) == ["notes"] and os.listdir(tmp_path) == ["repo"]


def test_ours_is_replaced_as_a_whole(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "repo"
    export(str(made / "bundle"), str(out), Options("first"))
    (out / "first" / "1" / "__pycache__").mkdir()
    (out / "first" / "1" / "__pycache__" / "model.pyc").write_bytes(b"")
    export(str(made / "bundle"), str(out), Options("second", {"a": "one"}))
    assert sorted(os.listdir(out)) == ["b", "c", "netfuse.json", "one", "second"]
    assert os.listdir(tmp_path) == ["repo"]


@pytest.mark.parametrize("change", ["added", "edited"])
def test_what_was_changed_by_hand_is_not_lost(made: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "repo"
    export(str(made / "bundle"), str(out), Options("all"))
    path = out / "all" / "config.pbtxt" if change == "edited" else out / "mine" / "config.pbtxt"
    path.parent.mkdir(exist_ok=True)
    path.write_text('name: "mine"')
    with pytest.raises(FileFault, match="would be lost"):
        export(str(made / "bundle"), str(out), Options("all"))
    assert path.read_text() == 'name: "mine"'


def test_files_of_the_bundle_before_stay_for_who_has_it_open(made: Path, tmp_path: Path) -> None:
    """A server opens views when they are first asked for. The next export but one removes them."""
    paths = family(tmp_path, count=3, text=MLP_TEXT.replace("Relu", "Tanh"), weights=MLP)
    newer, out = str(tmp_path / "newer"), tmp_path / "repo"
    netfuse_onnx.merge(paths, newer, io="stacked", views=True, verify=False)
    export(str(made / "bundle"), str(out), Options("all"))
    home = out / "all" / "1" / "bundle"
    before = {*os.listdir(home)}
    with netfuse_onnx.MergedSession(home, calibrate=0.0) as session:
        export(newer, str(out), Options("all"))
        assert before <= {*os.listdir(home)}
        session.warm_up()
        x = np.ones((1, 8), np.float32)
        assert np.allclose(session.run("b", {"x": x})["y"], alone(str(made / "b.onnx"), {"x": x})["y"])
    export(newer, str(out), Options("all"))
    assert {*os.listdir(home)} == {*os.listdir(newer)}


def test_a_full_disk_leaves_the_old_one(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "repo"
    export(str(made / "bundle"), str(out), Options("all"))
    before = sorted(path.name for path in out.rglob("*"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository, "_write_manifest", full)
    with pytest.raises(FileFault, match="no room"):
        export(str(made / "bundle"), str(out), Options("other"))
    assert sorted(path.name for path in out.rglob("*")) == before and os.listdir(tmp_path) == ["repo"]


def test_without_an_exchange_of_folders_it_is_two_renames(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "_exchanged", lambda *_: False)
    for name in ("first", "second"):
        export(str(made / "bundle"), str(tmp_path / "repo"), Options(name))
    assert (tmp_path / "repo" / "second").is_dir() and not (tmp_path / "repo" / "first").exists()
    assert os.listdir(tmp_path) == ["repo"]


def test_without_the_extra_it_is_named(made: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["tritonclient"] = None
from netfuse_onnx.cli.main import main
sys.exit(main(["export", "triton", {str(made / "bundle")!r}, "-o", {str(tmp_path / "r")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "netfuse-onnx[serve]" in done.stderr and "Traceback" not in done.stderr


def test_bfloat16_has_no_arrays_in_the_python_backend(tmp_path: Path) -> None:
    text = "g (bfloat16[n, 4] x) => (bfloat16[n, 4] y) { u = Cast<to = 1>(x) v = Mul(u, w) y = Cast<to = 16>(v) }"
    netfuse_onnx.merge(family(tmp_path, text, {"w": (4,)}), str(tmp_path / "m"), views=True, verify=False)
    with pytest.raises(UsageFault, match="bfloat16"):
        export(str(tmp_path / "m"), str(tmp_path / "repo"), Options("all"))
