"""The proofs of a merged file as JUnit XML, which CI servers show: a suite for each proof.

A failed proof is a `failure`, one that could not tell is an `error`, and one that was not made is `skipped`.
The form is that of Jenkins and Maven Surefire: https://github.com/jenkinsci/xunit-plugin (junit-10.xsd).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from netfuse_onnx import __version__
from netfuse_onnx.digests_report import DigestsReport
from netfuse_onnx.errors import NetfuseError, NotProven, SourcesDiffer, ValuesDiffer
from netfuse_onnx.proofs import OutputProof, ValuesProof, describe
from netfuse_onnx.prove.prover import blind_rows
from netfuse_onnx.report import VerifyReport

from .text import printable

NAME = "netfuse-onnx verify"
FAILED, UNPROVEN = ValuesDiffer.kind, NotProven.kind
_NO_XML = re.compile("[\ufffe\uffff]")
"""Characters that no XML document may hold, beside those that `printable` escapes."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test case: the model or part that it is about, and at most one of a failure, an error and a reason
    for skipping. `kind` is that of the failure or error, and `told` what was found. Failures and errors have
    a line for each problem, in characters that XML can hold."""

    owner: str
    name: str
    failure: str = ""
    error: str = ""
    skipped: str = ""
    kind: str = ""
    told: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    name: str
    cases: Sequence[Case]
    told: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """The facts about a run: the merged file, the netfuse-onnx that wrote it, the digests of its sources by
    model, and the seconds that it took."""

    merged: str
    version: str = ""
    sha256: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def document(outcome: VerifyReport | DigestsReport | NetfuseError, head: Head) -> str:
    """Return the XML of a report, or of the error that came in its place."""
    suites = list(_suites(outcome))
    facts = {"merged": head.merged, "version": __version__, "merged-by": head.version}
    if isinstance(outcome, VerifyReport):
        facts |= {"provider": outcome.values.provider, "cases": "; ".join(outcome.values.cases)}
    facts |= {f"sha256.{model}": digest for model, digest in head.sha256.items()}
    root = ElementTree.Element("testsuites", {"name": NAME, "time": f"{head.seconds:.3f}"})
    counts = _counts([case for suite in suites for case in suite.cases])
    del counts["skipped"]  # the schema of Jenkins has it for suites alone
    root.attrib |= counts
    for suite in suites:
        root.append(_suite(suite, facts))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


# --------------------------------------------------------------------------- reports


def _suites(outcome: VerifyReport | DigestsReport | NetfuseError) -> Iterator[Suite]:
    if isinstance(outcome, DigestsReport):
        yield Suite("sources", [_source(row.model, row.message) for row in outcome.sources], outcome.notes)
    elif isinstance(outcome, VerifyReport):
        yield from _proofs(outcome)
    else:
        said = _text(str(outcome))
        which = {"failure": said} if isinstance(outcome, ValuesDiffer) else {"error": said}
        yield Suite("verify", [Case("verify", "verify", kind=outcome.kind, **which)])


def _source(model: str, message: str) -> Case:
    return Case(model, "source", failure=_text(message), kind=SourcesDiffer.kind)


def _proofs(report: VerifyReport) -> Iterator[Suite]:
    values = report.values
    rest = [
        text for text in report.warnings if text not in (*report.blind, report.graph.note, report.bytes.note)
    ]
    yield Suite("bytes", [_bytes(report)], rest)
    if report.reconstruction:
        rebuilt = report.reconstruction
        told = f"the largest error is {rebuilt.error:.3g} of what is allowed"
        yield Suite("low rank", [_case("merged", "W_0 + L R", rebuilt.problems, told)])
    graph = report.graph
    told = f"{graph.nodes} nodes are what merging these sources gives" if graph.made else ""
    yield Suite("graph", [_case("merged", "graph", graph.problems, told, skipped=graph.note)])
    yield Suite("values", list(_values(values)))
    if report.views:
        yield Suite("views", [_case("merged", "views", report.views.problems)])
    if report.kept:
        told = f"{report.kept.outputs} outputs are as before, {report.kept.exact} bit for bit"
        yield Suite("kept", [_case("merged", "models that were not changed", report.kept.problems, told)])
    isolation = list(_isolation(values))
    if isolation:
        yield Suite("isolation", isolation)
    telling = list(_telling(report))
    if telling:
        yield Suite("telling", telling)


def _bytes(report: VerifyReport) -> Case:
    proof = report.bytes
    told = f"{proof.weights} weights and {proof.attributes} attributes equal the sources', bit for bit"
    nothing = "" if proof.weights or proof.attributes else "There are no weights to compare by bytes."
    return _case("merged", "weights and attributes", proof.problems, told, skipped=proof.note or nothing)


def _values(values: ValuesProof) -> Iterator[Case]:
    """Yield the run of the merged model, each output of each model, and the sizes that were left out."""
    yield _case("merged", "runs", values.problems)
    if not values.outputs and not values.problems:
        yield Case("merged", "outputs", error="No output was compared.", kind=UNPROVEN)
    for row in values.outputs:
        yield _output(row)
    for reason in values.skipped:
        yield Case("merged", f"skipped: {reason}", skipped=reason)


def _output(row: OutputProof) -> Case:
    told = f"worst case {row.case}: error {row.error:.3g} of {row.allowed:.3g} allowed ({row.precision})"
    owner = f"the {row.combined} of all models" if row.combined else row.model
    if row.ok:
        return Case(owner, row.output, told=told)
    if row.differs:
        return Case(owner, row.output, failure=_text(describe(row)), kind=FAILED)
    return Case(owner, row.output, error=_text(describe(row)), kind=UNPROVEN)


def _isolation(values: ValuesProof) -> Iterator[Case]:
    """Yield the checks that no model sees another's data."""
    for name, proof in (
        ("odd values of other models", values.isolation),
        ("choice of models", values.selection),
        ("mixed rows", values.mixes),
        ("repeated runs", values.replays),
    ):
        if proof is not None:
            yield _case("merged", name, proof.problems)


def _telling(report: VerifyReport) -> Iterator[Case]:
    """Yield for each output if an exchange of models would show. It is no proof that fails: without --strict
    it is skipped, with it the proof can't tell."""
    blind = dict[str, str]()
    for output, sentence in blind_rows(report.values):
        blind[output] = f"{blind[output]} {sentence}" if output in blind else sentence
    names = dict.fromkeys(row.output for row in report.values.telling)
    for output in dict.fromkeys([*blind, *names]):
        said, name = _text(blind.get(output, "")), output or "all outputs"
        if said and report.strict:
            yield Case("every model", name, error=said, kind=UNPROVEN)
        else:
            yield Case("every model", name, skipped=said)


def _case(owner: str, name: str, problems: Sequence[str], told: str = "", skipped: str = "") -> Case:
    if problems:
        return Case(owner, name, failure="\n".join(map(_text, problems)), kind=FAILED)
    return Case(owner, name, skipped=skipped, told="" if skipped else told)


# --------------------------------------------------------------------------- XML


def _counts(cases: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure) for case in cases)),
        "errors": str(sum(bool(case.error) for case in cases)),
        "skipped": str(sum(bool(case.skipped) for case in cases)),
    }


def _suite(suite: Suite, facts: Mapping[str, str]) -> ElementTree.Element:
    element = ElementTree.Element("testsuite", {"name": suite.name, **_counts(suite.cases)})
    properties = ElementTree.SubElement(element, "properties")
    for name, value in facts.items():
        if value:
            ElementTree.SubElement(properties, "property", {"name": _text(name), "value": _text(value)})
    for case in suite.cases:
        element.append(_test(suite.name, case))
    if suite.told:
        ElementTree.SubElement(element, "system-out").text = _lines("\n".join(suite.told))
    return element


def _test(suite: str, case: Case) -> ElementTree.Element:
    owner = _text(case.owner).replace(".", "_")  # a dot begins another class
    element = ElementTree.Element("testcase", {"classname": f"{suite}.{owner}", "name": _text(case.name)})
    for tag, said in (("failure", case.failure), ("error", case.error)):
        if said:
            about = {"message": said.split("\n")[0], "type": case.kind}
            ElementTree.SubElement(element, tag, about).text = said
    if case.skipped:
        ElementTree.SubElement(element, "skipped", {"message": _text(case.skipped)})
    if case.told:
        ElementTree.SubElement(element, "system-out").text = _lines(case.told)
    return element


def _lines(text: str) -> str:
    return "\n".join(map(_text, text.split("\n")))


def _text(text: str) -> str:
    """Return the text with what XML can't hold written as escapes: control characters, and the bytes of file
    names that are no UTF-8."""
    encoded = printable(text).encode("utf-8", "backslashreplace").decode()
    return _NO_XML.sub(lambda match: match.group().encode("unicode_escape").decode(), encoded)
