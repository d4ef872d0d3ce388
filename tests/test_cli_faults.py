"""Faults on the command line: each its exit code, one sentence, no traceback, and nothing left behind."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import MLP, MLP_TEXT, family, model, save
from onnx import TensorProto, numpy_helper

# --------------------------------------------------------------------------- 1: no


DIFFERENT = {
    "an operator": (MLP_TEXT.replace("Relu", "Sigmoid"), MLP),
    "a weight's shape": (MLP_TEXT, MLP | {"w1": (8, 12), "b1": (12,), "w2": (12, 4)}),
    "the number of inputs": (MLP_TEXT.replace("x)", "x, float[n] z)", 1), MLP),
    "a dtype": (
        MLP_TEXT.replace("float[n, 8] x", "double[n, 8] w").replace("h =", "x = Cast <to = 1> (w) h ="),
        MLP,
    ),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_models_that_differ(tmp_path: Path, run: Run, what: str) -> None:
    paths = family(tmp_path)
    save(tmp_path / "b.onnx", model(*DIFFERENT[what]))
    refused(run("merge", *paths, "-o", tmp_path / "m.onnx"), 1, "a.onnx", "b.onnx")
    assert not (tmp_path / "m.onnx").exists()
    assert run("check", *paths)[0] == 1


def test_models_that_differ_in_an_attribute_or_a_weights_type(tmp_path: Path, run: Run) -> None:
    text = "g (float[n, 8] x) => (float[n, 8] y) { y = LeakyRelu <alpha = 0.1> (x) }"
    one, two = (
        save(tmp_path / "a.onnx", model(text)),
        save(tmp_path / "b.onnx", model(text.replace("0.1", "0.2"))),
    )
    refused(run("merge", one, two, "-o", tmp_path / "m.onnx"), 1, "alpha")
    paths = []
    for name, dtype in (("a", np.float32), ("b", np.float64)):
        proto = model("g (int64[n] x) => (float[n] y) { v = Gather(w, x) y = Cast <to = 1> (v) }")
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, dtype), "w"))
        paths.append(save(tmp_path / f"{name}.onnx", proto))
    refused(run("merge", *paths, "-o", tmp_path / "m.onnx"), 1, "a.onnx", "b.onnx")


def test_strict(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, "g (float[n] x) => (int64[1, k] y) { y = NonZero(x) }")
    refused(run("merge", *paths, "-o", tmp_path / "m.onnx", "--strict"), 1, "1 of 1 nodes", "NonZero")
    assert run("merge", *paths, "-o", tmp_path / "m.onnx")[0] == 0


def test_not_stackable(tmp_path: Path, run: Run) -> None:
    text = """g (float[n, 4] x) => (seq(float[n, 2]) y) <int64[2] half = {2, 2}> {
        y = SplitToSequence <axis = 1> (x, half)
    }"""
    answer = run("merge", *family(tmp_path, text), "-o", tmp_path / "m.onnx", "--io", "stacked")
    refused(answer, 1, "'y'", "--io separate")


def test_a_failed_proof(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    run("merge", *paths, "-o", out)
    proto = onnx.load(out)
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Neg"
    save(out, proto)
    code, _, err = run("verify", out, *paths)
    assert code == 1
    assert "netfuse-onnx: error: Output y of model " in err
    code, text, _ = run("verify", out, *paths, "--json")
    assert code == 1
    assert json.loads(text)["values"]["ok"] is False


# --------------------------------------------------------------------------- 2: usage


def test_one_model_only(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, count=1)
    refused(run("merge", *paths, "-o", tmp_path / "m.onnx"), 2, "two or more")
    refused(run("check", *paths), 2, "two or more")
    refused(run("verify", *paths), 2, "No models were given")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--bogus",), "--bogus"),
        (("--io", "sideways"), "sideways"),
        (("--share-input", "nothing"), "no input 'nothing'"),
        (("--names", "one"), "1 names for 2 models"),
        (("--names", "one,one"), "Two models are called 'one'"),
        (("--names", "one,a/b"), "can't be called 'a/b'"),
        (("--external-data", "--single-file"), "exclude each other"),
        (("--dim", "n"), "'n' is no dimension"),
        (("--dim", "n=-1"), "'n=-1' is no dimension"),
        (("--dim", "m=2"), "no symbolic dimension 'm'"),
        (("--dim", "m=2", "--no-verify"), "no symbolic dimension 'm'"),
        (("--dim", "rows=2", "--no-verify"), "no symbolic dimension 'rows'"),
        (("--dim", "m=2", "--no-verify", "--io", "routed"), "no symbolic dimension 'm'"),
        (("--provider", "cuda"), "CUDA was asked for"),
    ],
)
def test_usage(tmp_path: Path, run: Run, arguments: tuple[str, ...], said: str) -> None:
    if said == "CUDA was asked for":
        from netfuse_onnx.run import runtime

        if not runtime.cuda_problem():
            pytest.skip("this machine has CUDA")
    answer = run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx", *arguments)
    refused(answer, 2, said)
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "b.onnx"]


def test_an_error_as_json(tmp_path: Path, run: Run) -> None:
    code, out, _ = run("merge", *family(tmp_path), "-o", tmp_path / "no/m.onnx", "--json")
    assert code == 3
    assert json.loads(out)["exit_code"] == 3
    assert json.loads(out)["ok"] is False


# --------------------------------------------------------------------------- 3: files


def _external(path: Path, location: str, offset: int = 0) -> str:
    proto = model(MLP_TEXT, MLP)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", 512)):
        tensor.external_data.add(key=key, value=str(value))
    return save(path, proto)


BAD = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(model(MLP_TEXT, MLP).SerializeToString()[:-100]),
    "random": lambda path: path.write_bytes(np.random.default_rng(5).bytes(4000)),
    "text": lambda path: path.write_text("This is no model.\n" * 30),
    "a directory": lambda path: path.mkdir(),
    "data missing": lambda path: _external(path, "missing.bin"),
    "data outside": lambda path: _external(path, "../outside.bin"),
    "data out of range": lambda path: _external(path, "short.bin", 64),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("first", [True, False])
def test_bad_files(tmp_path: Path, run: Run, what: str, first: bool) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(512))
    (folder / "short.bin").write_bytes(bytes(512))
    (good,) = family(folder, count=1)
    bad = folder / "bad.onnx"
    BAD[what](bad)
    before = sorted(os.listdir(folder))
    paths = (bad, good) if first else (good, bad)
    refused(run("merge", *paths, "-o", folder / "m.onnx"), 3, str(bad))
    refused(run("check", *paths), 3)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link"])
def test_the_output_is_an_input(tmp_path: Path, run: Run, how: str) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    if how == "symlink":
        out.symlink_to(paths[1])
    elif how == "hard link":
        os.link(paths[1], out)
    else:
        out = Path(paths[1])
    before = Path(paths[1]).read_bytes()
    refused(run("merge", *paths, "-o", out), 3)
    assert Path(paths[1]).read_bytes() == before


def test_the_output_has_no_place(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    refused(run("merge", *paths, "-o", tmp_path / "no/m.onnx"), 3, "does not exist")
    refused(run("merge", *paths, "-o", tmp_path), 3, "is a folder")
    refused(run("inspect", paths[0]), 3, "not written by netfuse-onnx")


def test_names_that_are_empty(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    refused(run("merge", *paths, "-o", ""), 3, "has no name: ''")
    refused(run("merge", paths[0], "", "-o", tmp_path / "m.onnx"), 3, "'' does not exist")


def test_inputs_that_are_no_npz(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    answer = run("merge", *paths, "-o", tmp_path / "m.onnx", "--inputs", paths[0])
    refused(answer, 3, "can't be read as an .npz file")
    assert ".." not in answer[2].replace(str(tmp_path), "")


def test_a_library_that_does_not_load_is_said_before_any_work(tmp_path: Path, run: Run) -> None:
    text = tmp_path / "text.so"
    text.write_text("no library")
    for path, said in ((tmp_path / "no.so", "does not exist"), (text, "is no library of custom operators")):
        for more in ((), ("--no-verify",)):
            answer = run("merge", "missing", "too", "-o", tmp_path / "m.onnx", "--ort-library", path, *more)
            refused(answer, 3, str(path), said)
        refused(run("verify", "missing", "too", "--ort-library", path), 3, "missing")


def test_a_file_name_that_is_not_utf_8(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.onnx")
    os.rename(paths[1], odd)
    assert run("merge", paths[0], odd, "-o", tmp_path / "m.onnx", "--no-verify")[0] == 0
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == ["a/x", "b\ufffd/x"]
    assert run("merge", paths[0], odd, "-o", tmp_path / "m.onnx", "--names", "a,b")[0] in (0, 3, 5)


def test_no_room(tmp_path: Path) -> None:
    paths = family(tmp_path, MLP_TEXT.replace("8]", "4096]"), MLP | {"w1": (4096, 16)})
    limit = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    code = limit + "from netfuse_onnx.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "merge", *paths, "-o", str(tmp_path / "m.onnx"), "--no-verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    refused((done.returncode, done.stdout, done.stderr), 3, "can't be written")
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "b.onnx"]


# --------------------------------------------------------------------------- 4, 130, 143


def test_a_bug_asks_for_a_report(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from netfuse_onnx import opened

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no such thing\nsecond line")

    monkeypatch.setattr(opened, "match", broken)
    arguments = ("merge", *family(tmp_path), "-o", tmp_path / "m.onnx")
    refused(run(*arguments), 4, "RuntimeError: no such thing", "report")
    assert "Traceback" in run(*arguments, "--debug")[2]


def _slow_sources(folder: Path, megabytes: int) -> list[str]:
    """Sparse models, so that they cost no disk; reading them takes its time all the same."""
    rows = megabytes * 1_000_000 // (4 * 256)
    paths = []
    for name in "ab":
        path = folder / f"{name}.onnx"
        proto = model("g (int64[n] x) => (float[n, 256] y) { y = Gather(w, x) }")
        tensor = TensorProto(name="w", data_type=1, dims=[rows, 256], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"{name}.bin")
        proto.graph.initializer.append(tensor)
        with open(folder / f"{name}.bin", "wb") as file:
            file.truncate(rows * 256 * 4)
            file.write(name.encode() * 4)
        paths.append(save(path, proto))
    return paths


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    paths, out = _slow_sources(tmp_path, 300), tmp_path / "m.onnx"
    out.write_bytes(b"the old model")
    before = sorted(os.listdir(tmp_path))
    command = [sys.executable, "-m", "netfuse_onnx", "merge", *paths, "-o", str(out), "--no-verify"]
    # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
    listening = functools.partial(signal.signal, number, signal.SIG_DFL)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    )
    deadline = time.monotonic() + 60
    while sorted(os.listdir(tmp_path)) == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == code, said
    assert "Traceback" not in said and said.count("nothing was written") == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert out.read_bytes() == b"the old model"


@pytest.mark.parametrize(
    "step", ["os.mkdir", "fcntl.flock", "staging.Staging", "staging.check_room", "writer.stage"]
)
def test_a_signal_right_after_a_step_leaves_nothing_behind(tmp_path: Path, step: str) -> None:
    paths = family(tmp_path)
    owner, name = step.split(".")
    code = f"""
import fcntl, os, signal, sys
from netfuse_onnx.write import staging
from netfuse_onnx.write import writer
from netfuse_onnx.cli.main import main
done = {owner}.{name}
def struck(*given, **named):
    result = done(*given, **named)
    if {step!r} != "os.mkdir" or ".netfuse-onnx-" in given[0]:
        os.kill(os.getpid(), signal.SIGTERM)
    return result
{owner}.{name} = struck
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "merge", *paths, "-o", str(tmp_path / "m.onnx"), "--no-verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "b.onnx"]


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "netfuse_onnx", "rules"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.wait(60)
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
