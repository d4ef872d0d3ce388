"""The command line: what the commands print, where to, and what they write."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import onnx
import pytest
from commands import Run
from families import MLP, MLP_TEXT, family, model, save

COMMANDS = ("merge", "check", "verify", "inspect", "rules", "bench")


# --------------------------------------------------------------------------- what it says


def test_merge_says_what_it_did_on_stderr(tmp_path: Path, run: Run) -> None:
    code, out, err = run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx")
    assert (code, out) == (0, "")
    for words in (
        "2 models (a, b)",
        "MatMul",
        "bit for bit",
        "n=1; n=2",
        "A mix-up of models would show: the two most alike, a and b, differ by",
        "left all outputs of the others as they were, bit for bit",
        "one size for all models",
    ):
        assert words in err


def test_nodes_at_the_edge_are_counted_once(tmp_path: Path, run: Run) -> None:
    """What joins inputs and splits outputs is no change of layout among the merged nodes."""
    _, _, err = run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx")
    assert "4 in each source, 4 merged (1.00 x), 0 of these change layouts; " in err
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = Mul(x, w)  b = Bernoulli(a)  y = Mul(b, w) }"
    run("merge", *family(tmp_path, text, {"w": (4,)}), "-o", tmp_path / "m.onnx")
    rows = json.loads(run("inspect", tmp_path / "m.onnx", "--json")[1])["lowered"]["conversions"]
    assert {row["value"] for row in rows if not row["boundary"]} == {"a", "b"}


def test_merge_as_json(tmp_path: Path, run: Run) -> None:
    code, out, err = run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["ok"]
    assert report["models"] == ["a", "b"]
    assert report["proof"]["ok"]
    assert report["proof"]["values"]["cases"] == ["n=1", "n=2"]
    assert {node["op"] for node in report["lowered"]["nodes"]} == {"MatMul", "Add", "Relu"}


def test_names_and_the_names_of_files(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    (tmp_path / "other").mkdir()
    os.rename(paths[1], tmp_path / "other/a.onnx")
    paths[1] = str(tmp_path / "other/a.onnx")
    run("merge", *paths, "-o", tmp_path / "m.onnx", "--no-verify")
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == ["a/x", "other/x"]
    run("merge", paths[0], paths[0], "-o", tmp_path / "m.onnx", "--no-verify")
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == ["a/x", "a-2/x"]
    run("merge", *paths, "-o", tmp_path / "m.onnx", "--no-verify", "--names", "left,right")
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == ["left/x", "right/x"]


def test_stacked_and_shared(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, count=3)
    assert run("merge", *paths, "-o", tmp_path / "m.onnx", "--io", "stacked")[0] == 0
    proto = onnx.load(tmp_path / "m.onnx")
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [3, 0, 8]
    assert run("merge", *paths, "-o", tmp_path / "m.onnx", "--share-input", "x")[0] == 0
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == ["x"]


@pytest.mark.parametrize(("option", "files"), [("--external-data", 2), ("--single-file", 1)])
def test_where_the_weights_go(tmp_path: Path, run: Run, option: str, files: int) -> None:
    paths = family(tmp_path, MLP_TEXT.replace("8]", "64]"), MLP | {"w1": (64, 16)})
    assert run("merge", *paths, "-o", tmp_path / "m.onnx", option)[0] == 0
    assert len(list(tmp_path.glob("m*"))) == files


def test_check(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    code, _, err = run("check", *paths)
    assert code == 0
    assert "Equivalent" in err
    save(tmp_path / "b.onnx", model(MLP_TEXT.replace("Relu", "Sigmoid"), MLP))
    code, out, _ = run("check", *paths, "--json")
    assert code == 1
    assert json.loads(out)["equivalent"] is False
    assert json.loads(out)["ok"] is False


def test_dims_that_are_not_dynamic_everywhere(tmp_path: Path, run: Run) -> None:
    first, second, third = family(tmp_path, count=3)
    save(tmp_path / "b.onnx", model(MLP_TEXT.replace("n, 8] x", "9, 8] x"), MLP, seed=5))
    said = "Input x: dimension 'n' is 9 in b, so it is 9 in the merged model."
    code, _, err = run("merge", first, second, third, "-o", tmp_path / "m.onnx")
    assert code == 0
    assert f"warning: {said}" in err
    report = json.loads(run("check", second, first, "--json")[1])
    assert report["warnings"] == [said]
    assert json.loads(run("check", first, third, "--json")[1])["warnings"] == []


def test_dims_without_a_name_have_one_size_too(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, "g (float[?, 8] x) => (float[?, 8] y) { y = Mul(x, w) }", {"w": (8,)})
    err = run("merge", *paths, "-o", tmp_path / "m.onnx")[2]
    assert "x.0: one size for all models in a call; pad where they differ." in err


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_says_what_it_expects(tmp_path: Path, run: Run, target: str) -> None:
    out = tmp_path / "m.onnx"
    code, _, err = run("merge", *family(tmp_path), "-o", out, "--target", target, "--dim", "n=1")
    assert code == 0
    assert "Predicted for the target" in err and "Rejected plans: batched wherever possible " in err
    report = json.loads(run("inspect", out, "--json")[1])
    assert report["target"] == target
    total = round(sum(report["lowered"]["predicted"].values()), 2)  # the parts have two digits
    assert total <= min(report["lowered"]["alternatives"].values())


def test_a_target_of_ones_own(tmp_path: Path, run: Run) -> None:
    own = tmp_path / "mine.json"
    own.write_text(resources.files("netfuse_onnx").joinpath("targets/cpu.json").read_text())
    arguments = ("merge", *family(tmp_path), "-o", tmp_path / "m.onnx", "--target")
    assert run(*arguments, own)[0] == 0
    own.write_text("{}")
    code, _, err = run(*arguments, own)
    assert code == 3 and "holds no constants of a target" in err
    code, _, err = run(*arguments, tmp_path / "none.json")
    assert code == 3 and "can't be read" in err
    assert run(*arguments, "gpu")[0] == 2


def test_check_of_models_that_differ_locally(tmp_path: Path, run: Run) -> None:
    text = """g (float[n, 8] x) => (float[n, k] y) {{
        a = LeakyRelu <alpha = {}> (x)  b = Relu(a)  y = MatMul(b, w)
    }}"""
    paths = [
        save(tmp_path / f"{name}.onnx", model(text.format(alpha), {"w": (8, width)}))
        for name, alpha, width in (("a", 0.1, 3), ("b", 0.1, 3), ("c", 0.2, 5))
    ]
    code, _, err = run("check", *paths)
    assert code == 1
    assert "--partial merges them all the same: 2 operators differ." in err
    code, _, err = run("check", *paths, "--partial")
    assert code == 0
    assert "are one architecture of 3 nodes but for 2 operators (--partial):" in err
    differences = json.loads(run("check", *paths, "--partial", "--json")[1])["differences"]
    assert [line.split(":")[0].split(" ")[0] for line in differences] == ["LeakyRelu", "MatMul"]
    assert "attribute 'alpha' is 0.1 and 0.2" in differences[0]
    assert "weight 'w' is float32[8,3] and float32[8,5]" in differences[1]
    assert json.loads(run("check", *paths[:2], "--partial", "--json")[1])["differences"] == []


def test_partial_is_no_advice_where_it_does_not_help(tmp_path: Path, run: Run) -> None:
    text = "g (float[n, 8] x) => (float[n, 8] y) {{ a = LeakyRelu <alpha = {}> (x)  y = {}(a) }}"
    for name, given in (("a", (0.1, "Neg")), ("b", (0.2, "Exp"))):
        save(tmp_path / f"{name}.onnx", model(text.format(*given)))
    for more, said in (
        ((), "--partial would refuse a, b: "),
        (("--partial",), "--partial can't merge them: "),
    ):
        code, _, err = run("check", tmp_path / "a.onnx", tmp_path / "b.onnx", *more)
        assert code == 1
        assert err.count("--partial merges them") == 0 and said in err


def test_verify_and_inspect(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    run("merge", *paths, "-o", out)
    assert run("verify", out, *paths)[0] == 0
    code, table, err = run("inspect", out)
    assert (code, err) == (0, "")
    for words in ("SHA-256", "batched", "matmul", "conversion of"):
        assert words in table
    report = json.loads(run("inspect", out, "--json")[1])
    assert report["lowered"]["nodes"][0]["became"] == "batched"


def test_rules_are_a_table(run: Run) -> None:
    code, table, _ = run("rules")
    assert code == 0
    assert "LayerNormalization" in table
    rows = json.loads(run("rules", "--json")[1])["rules"]
    assert {"op", "rule", "how"} <= rows[0].keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, run: Run) -> None:
    code, text, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Example:\n    netfuse-onnx {command}" in text


def test_version_and_no_command(run: Run) -> None:
    assert run("--version")[:2] == (0, "netfuse-onnx, version 0.1.0\n")
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Usage" in err


def test_deterministic_bytes(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    written = []
    for name in ("m.onnx", "again.onnx"):
        run("merge", *paths, "-o", tmp_path / name, "--no-verify")
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_the_checker_takes_what_is_written(tmp_path: Path, run: Run) -> None:
    run("merge", *family(tmp_path), "-o", tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


def test_names_with_control_characters_are_printed_as_escapes(tmp_path: Path, run: Run) -> None:
    odd = "evil\x1b[31m\n[bold]name"
    proto = model("g (float[n, 4] x) => (int64[2, k] y) { y = NonZero(x) }")
    proto.graph.node[0].name = odd
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]
    assert run("merge", *paths, "-o", tmp_path / "m.onnx", "--no-verify")[0] == 0
    table = run("inspect", tmp_path / "m.onnx")[1]
    assert "evil\\x1b[31m\\n[bold]name" in table
    assert "\x1b" not in table
    assert json.loads(run("inspect", tmp_path / "m.onnx", "--json")[1])["lowered"]["nodes"][0]["name"] == odd


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--io", "routed"), "Input model: int64, one number for each row: 0 is a, 1 is b."),
        (("--io", "stacked", "--select"), "Input models: int64, one number for each of the models that"),
    ],
)
def test_the_input_that_names_models_is_said(
    tmp_path: Path, run: Run, options: tuple[str, ...], said: str
) -> None:
    """The files of the sources have no such input, so only the report can say what its numbers mean."""
    out = tmp_path / "merged.onnx"
    code, _, err = run("merge", *family(tmp_path), "-o", out, "--no-verify", *options)
    assert code == 0 and said in err
    assert said in run("inspect", out)[1]
    run("merge", *family(tmp_path), "-o", out, "--no-verify")
    assert "one number for each" not in run("inspect", out)[1]
