"""The JSON of the commands within one schema_version: fields stay, and a real validator takes the answers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from commands import Run
from families import family, model, save

DOCS = Path(__file__).parent.parent / "docs"
SCRIPT = runpy.run_path(str(DOCS / "schema.py"))
MEMORY: dict[str, Any] = json.loads((DOCS / "schema_fields.json").read_text())


def test_no_field_goes_and_no_type_changes_without_another_version() -> None:
    now = SCRIPT["memory"]()
    assert SCRIPT["breaks"](MEMORY, now) == []
    assert now == MEMORY, "run `make docs`"


@pytest.mark.parametrize(
    ("field", "becomes"),
    [
        ("check.models", None),
        ("check.models", "string"),
        ("check.verdict", "Verdict"),
        ("error.kind=usage", None),
        ("FamilyRow.difference", "DifferenceRow"),
    ],
)
def test_a_break_is_seen(field: str, becomes: str | None) -> None:
    fields = {**MEMORY["fields"], field: becomes}
    if becomes is None:
        del fields[field]
    changed = {**MEMORY, "fields": fields}
    assert len(SCRIPT["breaks"](MEMORY, changed)) == 1
    assert SCRIPT["breaks"](MEMORY, {**changed, "schema_version": MEMORY["schema_version"] + 1}) == []


def test_a_new_field_is_no_break() -> None:
    fields = {**MEMORY["fields"], "check.more": "string", "error.kind=more": "word"}
    assert SCRIPT["breaks"](MEMORY, {**MEMORY, "fields": fields}) == []


def test_the_script_refuses_to_write_a_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, held = tmp_path / "schema.json", tmp_path / "schema_fields.json"
    monkeypatch.setitem(SCRIPT["main"].__globals__, "PAGE", page)
    monkeypatch.setitem(SCRIPT["main"].__globals__, "FIELDS", held)
    assert SCRIPT["main"]() == 0
    before = json.loads(held.read_text())
    before["fields"]["check.old"] = "string"
    held.write_text(json.dumps(before))
    page.unlink()
    assert SCRIPT["main"]() == 1
    assert "check.old is gone" in capsys.readouterr().err
    assert not page.exists()


def test_answers_of_check_are_valid_by_the_library(tmp_path: Path, run: Run) -> None:
    """Yes, no, unreadable, and a call that makes no sense."""
    schema = json.loads((DOCS / "schema.json").read_text())
    assert schema["$id"] == f"urn:netfuse-onnx:json:{MEMORY['schema_version']}"
    jsonschema.Draft202012Validator.check_schema(schema)
    paths = family(tmp_path)
    odd = save(tmp_path / "odd.onnx", model("g (float[n, 8] x) => (float[n, 8] y) { y = Relu(x) }"))
    for form, code, arguments in (
        ("check", 0, paths),
        ("check", 1, [*paths, odd]),
        ("check", 3, [*paths, "none.onnx"]),
        ("failure", 2, paths[:1]),
    ):
        found, out, _ = run("check", *arguments, "--json")
        document = json.loads(out)
        own = {"$ref": f"#/$defs/{form}", "$defs": schema["$defs"]}
        jsonschema.Draft202012Validator(own).validate(document)
        jsonschema.Draft202012Validator(schema).validate(document)
        assert found == code == document["exit_code"]
        assert document["schema_version"] == MEMORY["schema_version"]
