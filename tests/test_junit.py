"""verify --junit: the proofs as JUnit XML, in the form that Jenkins reads, however the proof ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import Run, refused
from families import family, merged, tampered
from netfuse_onnx.cli import junit

from netfuse_onnx.errors import FileFault, ValuesDiffer
from netfuse_onnx.proofs import BytesProof, GraphProof, KeptProof, OutputProof, Telling, ValuesProof
from netfuse_onnx.report import VerifyReport

Element = ElementTree.Element
COUNTED = frozenset({"tests", "failures", "errors"})
FORM: Mapping[str, tuple[frozenset[str], frozenset[str], frozenset[str]]] = {
    "testsuites": (frozenset(), COUNTED | {"name", "time"}, frozenset({"testsuite"})),
    "testsuite": (
        COUNTED | {"name"},
        COUNTED | {"name", "skipped"},
        frozenset({"properties", "testcase", "system-out"}),
    ),
    "properties": (frozenset(), frozenset(), frozenset({"property"})),
    "property": (frozenset({"name", "value"}), frozenset({"name", "value"}), frozenset()),
    "testcase": (
        frozenset({"name"}),
        frozenset({"name", "classname"}),
        frozenset({"failure", "error", "skipped", "system-out"}),
    ),
    "failure": (frozenset({"message", "type"}), frozenset({"message", "type"}), frozenset()),
    "error": (frozenset({"message", "type"}), frozenset({"message", "type"}), frozenset()),
    "skipped": (frozenset({"message"}), frozenset({"message"}), frozenset()),
    "system-out": (frozenset(), frozenset(), frozenset()),
}
"""Element -> the attributes that it must have, those that it may have, and its children: a part of what Jenkins
allows (junit-10.xsd)."""


def read(path: Path) -> Element:
    """The document, which has the form and counts itself right."""
    root = ElementTree.fromstring(path.read_bytes())
    checked(root)
    assert root.tag == "testsuites"
    return root


def checked(element: Element) -> None:
    needed, allowed, children = FORM[element.tag]
    assert needed <= element.attrib.keys() <= allowed
    for child in element:
        assert child.tag in children, f"{child.tag} in {element.tag}"
        checked(child)
    if "tests" in element.attrib:
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(element.attrib[name]) == len(list(element.iter(tag))), name
    for case in element.iter("testcase"):
        assert sum(child.tag in ("failure", "error", "skipped") for child in case) <= 1


def cases(root: Element) -> dict[tuple[str, str], Element]:
    """The test cases by class and name, which are unique."""
    found = {(case.attrib["classname"], case.attrib["name"]): case for case in root.iter("testcase")}
    assert len(found) == len(list(root.iter("testcase")))
    return found


def facts(root: Element) -> dict[str, str]:
    return {one.attrib["name"]: one.attrib["value"] for one in next(root.iter("properties"))}


def test_a_proof_that_holds(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "proof one.xml"
    assert run("verify", merged(tmp_path, paths), *paths, "--junit", out)[0] == 0
    root = read(out)
    assert {suite.attrib["name"] for suite in root} == {"bytes", "graph", "values", "isolation", "telling"}
    assert ("values.a", "y") in cases(root) and ("values.b", "y") in cases(root)
    assert root.attrib["tests"] == str(len(cases(root)))
    assert float(root.attrib["time"]) > 0
    told = facts(root)
    assert told["provider"] == "cpu" and told["version"] and len(told["sha256.b"]) == 64
    assert [path.name for path in tmp_path.iterdir() if path.suffix not in (".onnx", ".xml")] == []


def test_a_proof_that_fails_names_the_output(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "proof.xml"
    path = merged(tmp_path, paths)
    tampered(
        path,
        lambda proto: setattr(next(n for n in proto.graph.node if n.op_type == "Relu"), "op_type", "Neg"),
    )
    assert run("verify", path, *paths, "--junit", out)[0] == 1
    found = cases(read(out))
    for model in "ab":
        failure = found[f"values.{model}", "y"].find("failure")
        assert failure is not None and failure.attrib["message"].startswith(
            f"Output y of model {model} differs"
        )
    assert found["graph.merged", "graph"].find("failure") is not None
    assert found["bytes.merged", "weights and attributes"].find("failure") is None


def test_an_error_is_written_and_its_exit_code_stays(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "proof.xml"
    path = merged(tmp_path, paths)
    refused(run("verify", path, paths[0], tmp_path / "none.onnx", "--junit", out), 3, "does not exist")
    root = read(out)
    (case,) = cases(root).values()
    error = case.find("error")
    assert error is not None and error.attrib["type"] == "file"
    assert "none.onnx does not exist." in error.attrib["message"]
    assert "sha256.a" in facts(root)
    code, _, _ = run("verify", path, *paths, "--dim", "n=100000000", "--max-memory", "200M", "--junit", out)
    error = next(iter(cases(read(out)).values())).find("error")
    assert code == 5 and error is not None and error.attrib["type"] == "not_proven"


def test_what_is_no_junit_file_is_not_replaced(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    path, notes = merged(tmp_path, paths), tmp_path / "notes.txt"
    notes.write_text("mine")
    before = Path(path).read_bytes()
    refused(run("verify", "--junit", path, *paths), 3, "is a model")
    refused(run("verify", path, *paths, "--junit", notes), 3, "is no JUnit XML")
    refused(run("verify", path, *paths, "--junit", tmp_path), 3, "is no JUnit XML")
    refused(run("verify", path, *paths, "--junit", tmp_path / "none" / "a.xml"), 3, "no such folder")
    assert (Path(path).read_bytes(), notes.read_text()) == (before, "mine")
    empty = tmp_path / "empty.xml"
    empty.touch()
    link = tmp_path / "link.xml"
    link.symlink_to(empty)
    for _ in range(2):  # a JUnit file is replaced
        assert run("verify", path, *paths, "--junit", link, "--digests")[0] == 0
    assert link.is_symlink()
    assert read(empty).attrib["tests"] == "2"


def test_digests_have_a_case_for_each_source(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "proof.xml"
    path = merged(tmp_path, paths)
    assert run("verify", path, paths[0], paths[0], "--digests", "--junit", out)[0] == 1
    found = cases(read(out))
    assert found["sources.a", "source"].find("failure") is None
    assert found["sources.b", "source"].find("failure") is not None


# --------------------------------------------------------------------------- what few proofs show


def report(**changes: object) -> VerifyReport:
    outputs = (
        OutputProof("a", "y", "float32", "n=1", 0.5, 1e-6, 2e-6),
        OutputProof("b", "y", "float32", "n=1", 0.5, 1e-6, 2e-6, unproven=True, noise=1.0, scale=1.0),
    )
    telling = (Telling("y", 0.0, ("a", "b"), reason="0.0 everywhere", alike=(("a", "b"),)),)
    values = ValuesProof("cpu", ("n=1",), outputs, skipped=("n=2 needs 3 GB",), telling=telling)
    given = {
        "bytes": BytesProof(),
        "values": values,
        "graph": GraphProof(note="Other versions wrote the file."),
        "blind": ("y says nothing",),
        "warnings": ("y says nothing", "a is not the file that was merged"),
        **changes,
    }
    return VerifyReport("m.onnx", ("a", "b"), **given)  # type: ignore[arg-type]


def parsed(outcome: object) -> Element:
    root = ElementTree.fromstring(junit.document(outcome, junit.Head("m.onnx")))  # type: ignore[arg-type]
    checked(root)
    return root


def test_what_was_not_proven_is_an_error_and_what_was_not_made_is_skipped() -> None:
    root = parsed(report())
    found = cases(root)
    assert found["values.b", "y"].find("error") is not None
    assert found["values.a", "y"].find("error") is None
    for name in (
        ("graph.merged", "graph"),
        ("bytes.merged", "weights and attributes"),
        ("values.merged", "skipped: n=2 needs 3 GB"),
        ("telling.every model", "y"),
    ):
        assert found[name].find("skipped") is not None, name
    told = [one.text for one in root.findall("testsuite/system-out")]
    assert told == ["a is not the file that was merged"]
    strict = cases(parsed(report(strict=True)))["telling.every model", "y"].find("error")
    assert strict is not None and "says nothing about a and b" in strict.attrib["message"]


def test_values_alone_and_models_that_were_kept() -> None:
    note = "The bytes were not compared: --values."
    kept = KeptProof(models=1, outputs=2, exact=2, problems=("Output y of a changed.",))
    found = cases(parsed(report(bytes=BytesProof(note=note), kept=kept)))
    skipped = found["bytes.merged", "weights and attributes"].find("skipped")
    assert skipped is not None and skipped.attrib["message"] == note
    assert found["kept.merged", "models that were not changed"].find("failure") is not None


def test_no_output_is_no_success() -> None:
    found = cases(parsed(report(values=ValuesProof("cpu", ()))))
    assert found["values.merged", "outputs"].find("error") is not None


@pytest.mark.parametrize("name", ["a\0b\x1b[0m", "a\nb", "\ufffe\uffff", "\udc80.onnx", "<&\"'>", "ü/模"])
def test_any_name_makes_a_document(tmp_path: Path, name: str) -> None:
    rows = (OutputProof(name, name, "float32", name, 2.0, 1.0, 0.5, problem=name),)
    text = junit.document(
        report(values=ValuesProof("cpu", (name,), rows)), junit.Head(name, name, {name: name})
    )
    checked(ElementTree.fromstring(text.encode()))
    error = parsed(FileFault(f"{name} is odd.")).find("testsuite/testcase/error")
    assert error is not None and error.attrib["message"].endswith("is odd.")


def test_values_that_differ_are_a_failure_where_no_report_came() -> None:
    assert parsed(ValuesDiffer("no")).attrib["failures"] == "1"
