"""--json: one document on stdout, whatever happens, and every document is what docs/schema.json says."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from commands import Run
from families import MLP, MLP_TEXT, family, model, save
from schemas import faults

from netfuse_onnx import api, errors, merging

DOCS = Path(__file__).parent.parent / "docs"
SCHEMA = json.loads((DOCS / "schema.json").read_text())
Document = dict[str, Any]
Ask = Callable[..., tuple[int, Document, str]]


@pytest.fixture
def ask(run: Run) -> Ask:
    """Runs a command with --json: (exit code, the document, stderr). The document is valid, and its own."""

    def call(*arguments: object, form: str = "") -> tuple[int, Document, str]:
        code, out, err = run(*arguments, "--json")
        document = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        form = form or str(arguments[0])
        assert not list(faults(document, SCHEMA, SCHEMA))
        assert not list(faults(document, SCHEMA["$defs"][form], SCHEMA))
        assert document["schema_version"] == 1
        assert document["exit_code"] == code
        assert document["ok"] == (code == 0) == (document["error"] is None)
        if code:
            assert document["error"]["exit_code"] == code
            assert document["error"]["message"]
        assert "Traceback" not in err
        for text in (out, err):
            assert ".netfuse-onnx-" not in text and "netfuse-bench-" not in text
        return code, document, err

    return call


def kind(answer: tuple[int, Document, str]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["kind"]


# --------------------------------------------------------------------------- the schema itself


def test_the_schema_is_what_make_docs_writes() -> None:
    written = runpy.run_path(str(DOCS / "schema.py"))["text"]()
    assert (DOCS / "schema.json").read_text() == written, "run `make docs`"


def test_the_validator_sees_what_is_wrong() -> None:
    good = {"schema_version": 1, "ok": True, "exit_code": 0, "error": None, "rules": []}
    form = SCHEMA["$defs"]["rules"]
    assert not list(faults(good, form, SCHEMA))
    for change in (
        {"schema_version": 2},
        {"ok": 1},
        {"exit_code": True},
        {"exit_code": "0"},
        {"error": "a sentence"},
        {"error": {"kind": "bogus", "message": "", "hint": "", "exit_code": 1}},
        {"rules": None},
        {"rules": [{"op": "Conv", "rule": "conv"}]},
        {"rules": [{"op": "Conv", "rule": "conv", "how": 3}]},
        {"more": 1},
    ):
        assert list(faults({**good, **change}, form, SCHEMA)), change
    assert list(faults({"ok": True}, form, SCHEMA))


def test_every_kind_of_error_and_every_document_is_in_the_page() -> None:
    page = (DOCS / "json.md").read_text()
    for one in SCHEMA["$defs"]["error"]["properties"]["kind"]["enum"]:
        assert f"| `{one}` |" in page
    for form in ("merge", "check", "verify", "bench", "bundle", "split", "inspect", "report", "rules"):
        section = re.split(r"\n##+ ", page.split(f"\n## {form}\n")[1])[0]
        named = set(re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE))
        named = {name.strip("`") for cell in named for name in cell.split(", ")}
        assert named == SCHEMA["$defs"][form]["properties"].keys() - {
            "schema_version",
            "ok",
            "exit_code",
            "error",
        }
    for form in ("FamilyRow", "DifferenceRow", "UnreadableRow"):
        for name in SCHEMA["$defs"][form]["properties"]:
            assert f"`{name}`" in page, name


# --------------------------------------------------------------------------- yes


@pytest.mark.usefixtures("one_setting")
def test_what_goes_well(tmp_path: Path, ask: Ask) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    code, document, err = ask("merge", *paths, "-o", out)
    assert (code, err) == (0, "")
    assert document["proof"]["merged"] == document["out"] == str(out)
    assert document["files"] == [str(out)]
    assert ask("merge", *paths, "-o", out, "--no-verify")[1]["proof"] is None
    assert ask("check", *paths)[1]["equivalent"] is True
    assert ask("verify", out, *paths)[1]["values"]["ok"]
    assert ask("inspect", out)[1]["models"] == ["a", "b"]
    assert ask("rules")[1]["rules"]
    assert ask("bench", out, *paths, "--seconds", 0, "--rounds", 1, "--profile")[1]["rows"]


def test_what_differs_locally(tmp_path: Path, ask: Ask) -> None:
    text = "g (float[n, 8] x) => (float[n, 8] y) {{ y = LeakyRelu <alpha = {}> (x) }}"
    paths = [save(tmp_path / f"{name}.onnx", model(text.format(name))) for name in ("0.1", "0.2")]
    assert ask("check", *paths, "--partial")[1]["differences"]
    _, document, _ = ask("check", *paths)
    difference = document["families"][1]["difference"]
    assert {
        key: difference[key] for key in ("kind", "files", "nodes", "operators", "attribute", "left", "right")
    } == {
        "kind": "attribute",
        "files": paths,
        "nodes": ["y", "y"],
        "operators": ["LeakyRelu", "LeakyRelu"],
        "attribute": "alpha",
        "left": "0.1",
        "right": "0.2",
    }
    assert difference == document["difference"]
    assert difference["message"] == document["error"]["message"]
    assert difference["hint"] == document["error"]["hint"]
    assert "--partial merges them" in difference["hint"]


# --------------------------------------------------------------------------- no


def test_models_that_differ(tmp_path: Path, ask: Ask) -> None:
    paths = family(tmp_path, count=3)
    save(tmp_path / "c.onnx", model(MLP_TEXT.replace("Relu", "Sigmoid"), MLP))
    answer = ask("check", *paths)
    assert kind(answer) == (1, "not_equivalent")
    assert [row["models"] for row in answer[1]["families"]] == [["a", "b"], ["c"]]
    merged = ask("merge", *paths, "-o", tmp_path / "m.onnx", form="check")
    assert kind(merged) == (1, "not_equivalent")
    assert merged[1]["families"] == answer[1]["families"]
    assert merged[1]["error"]["hint"].endswith("There are 2 families: a, b (4 operators); c (4 operators).")


def test_what_merge_refuses(tmp_path: Path, ask: Ask) -> None:
    paths = family(tmp_path, "g (float[n] x) => (int64[1, k] y) { y = NonZero(x) }")
    out = tmp_path / "m.onnx"
    assert kind(ask("merge", *paths, "-o", out, "--strict")) == (1, "strict")
    assert kind(ask("merge", *paths, "-o", out, "--io", "stacked", form="failure")) == (1, "not_stackable")
    assert not out.exists()


@pytest.mark.usefixtures("one_setting")
def test_a_proof_that_fails_and_one_that_can_not_tell(tmp_path: Path, ask: Ask) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    ask("merge", *paths, "-o", out)
    before = out.read_bytes()
    proto = onnx.load(out)
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Neg"
    save(out, proto)
    answer = ask("verify", out, *paths)
    assert kind(answer) == (1, "values_differ")
    assert answer[1]["error"]["message"].startswith("Output y of model ")
    assert kind(ask("bench", out, *paths, "--seconds", 0, "--rounds", 1)) == (1, "values_differ")
    out.write_bytes(before)
    answer = ask("verify", out, *paths, "--max-memory", "200M", "--dim", "n=100000000", form="failure")
    assert kind(answer) == (5, "not_proven")


@pytest.mark.parametrize("raised", [errors.NotProven, errors.ValuesDiffer, errors.FileFault])
def test_no_temporary_path_in_what_a_proof_says(
    tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, raised: type[errors.NetfuseError]
) -> None:
    """What ONNX Runtime says of a model that it can't load holds the model's path."""
    proved, out = merging.prove, tmp_path / "m.onnx"

    def spoken(path: str, *given: Any, **named: Any) -> Any:
        found = proved(path, *given, **named)
        return dataclasses.replace(
            found, warnings=(f"{path} is large", f"so is {Path(path).parent}/m-1.data")
        )

    monkeypatch.setattr(merging, "prove", spoken)
    document = ask("merge", *family(tmp_path), "-o", out)[1]
    said = [f"{out} is large", f"so is {tmp_path}/m-1.data"]
    assert document["proof"]["merged"] == str(out)
    assert document["warnings"][-2:] == document["proof"]["warnings"] == said

    def failing(path: str, *_: Any, **__: Any) -> None:
        raise raised(f"Load model from {path} failed", f"See {Path(path).parent}.")

    monkeypatch.setattr(merging, "prove", failing)
    answer = ask("merge", *family(tmp_path), "-o", out, form="failure")
    assert kind(answer) == (raised.exit_code, raised.kind)
    assert answer[1]["error"]["message"] == f"Load model from {out} failed"
    assert answer[1]["error"]["hint"] == f"See {tmp_path}."


# --------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("check", "a.onnx"),
        ("check", "a.onnx", "b.onnx", "--bogus"),
        ("merge", "a.onnx", "b.onnx"),
        ("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--io", "sideways"),
        ("merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--dim", "n"),
        ("verify", "m.onnx"),
        ("verify",),
        ("bench", "m.onnx", "a.onnx", "--rounds", "0"),
        ("inspect",),
        ("rules", "more"),
    ],
    ids=" ".join,
)
def test_usage(ask: Ask, arguments: tuple[str, ...]) -> None:
    assert kind(ask(*arguments, form="failure")) == (2, "usage")


@pytest.mark.parametrize("command", ["merge", "verify", "bench", "inspect"])
def test_a_file_that_is_not_there(tmp_path: Path, ask: Ask, command: str) -> None:
    more = {"merge": ("-o", tmp_path / "m.onnx"), "inspect": ()}.get(command, ())
    paths = [str(tmp_path / f"{name}.onnx") for name in "ab"][: 1 if command == "inspect" else 2]
    assert kind(ask(command, *paths, *more, form="failure")) == (3, "file")


def test_files_that_are_not_there(tmp_path: Path, ask: Ask) -> None:
    paths = [*family(tmp_path), str(tmp_path / "none.onnx"), str(tmp_path / "empty.onnx")]
    Path(paths[-1]).touch()
    answer = ask("check", *paths)
    assert kind(answer) == (3, "file")
    assert answer[1]["error"]["message"] == (
        f"2 of 4 files can't be read: {paths[2]} does not exist; {paths[3]} is empty."
    )
    assert [(row["model"], row["file"]) for row in answer[1]["unreadable"]] == [
        ("none", paths[2]),
        ("empty", paths[3]),
    ]
    assert [row["models"] for row in answer[1]["families"]] == [["a", "b"]]
    assert answer[1]["equivalent"] is False


def test_a_bug_and_an_interrupt(tmp_path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(how: BaseException) -> Callable[..., None]:
        def call(*_: object, **__: object) -> None:
            raise how

        return call

    monkeypatch.setattr(api, "rules", broken(RuntimeError("no such thing")))
    answer = ask("rules", form="failure")
    assert kind(answer) == (4, "internal")
    assert answer[1]["error"]["message"] == "RuntimeError: no such thing"
    assert answer[1]["error"]["hint"]
    monkeypatch.setattr(api, "rules", broken(KeyboardInterrupt()))
    answer = ask("rules", form="failure")
    assert kind(answer) == (130, "stopped")
    assert answer[1]["error"]["message"] == "Interrupted: nothing was written."


def test_a_termination(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> None:
        raise SystemExit(143)

    monkeypatch.setattr(api, "rules", stopped)
    with pytest.raises(SystemExit) as caught:
        run("rules", "--json")
    assert caught.value.code == 143
    document = json.loads(capsys.readouterr().out)
    assert not list(faults(document, SCHEMA["$defs"]["failure"], SCHEMA))
    assert document["error"] == {
        "kind": "stopped",
        "message": "Terminated: nothing was written.",
        "hint": "",
        "exit_code": 143,
    }


def test_a_file_called_like_the_option_is_no_option(tmp_path: Path, run: Run) -> None:
    code, out, err = run("check", "--", "--json", tmp_path / "b.onnx")
    assert (code, out) == (3, "")
    assert "--json does not exist" in err
