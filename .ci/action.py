"""Runs one command of netfuse-onnx as a step of GitHub Actions: action.sh calls it.

It takes its inputs and outputs in the way of GitHub: the environment variables INPUT_..., the files
GITHUB_OUTPUT and GITHUB_STEP_SUMMARY, and lines `::error::...`. Exit code: that of the command.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMANDS = {"check": ["check"], "merge": ["merge"], "verify": ["verify"], "digests": ["verify", "--digests"]}
USAGE = 2
MOST = 20
"""The rows of a table in the summary."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Wrong(Exception):
    """An input of the action that makes no sense."""


def main() -> int:
    try:
        command = given("command") or "check"
        arguments = command_line(command)
    except Wrong as error:
        annotate("error", str(error))
        summarise([f"### netfuse-onnx: {cell(str(error))}"])
        tell({"ok": "false", "exit-code": str(USAGE)})
        return USAGE
    folder = os.environ.get("RUNNER_TEMP") or tempfile.gettempdir()
    report = os.path.join(folder, f"netfuse-onnx-{uuid.uuid4().hex[:8]}.json")
    with open(report, "wb") as file:
        code = subprocess.run(
            [sys.executable, "-m", "netfuse_onnx", *arguments], stdout=file, check=False
        ).returncode
    document = read(report)
    error = document.get("error") or {}
    if error:
        annotate("error", f"{error['message']} {error['hint']}")
    for warning in document.get("warnings", ()):
        annotate("warning", warning)
    summarise(summary(command, code, document))
    junit = given("junit")
    tell({
        "ok": "true" if code == 0 else "false",
        "exit-code": str(code),
        "report": report,
        "merged": given("merged"),
        "junit": junit if junit and os.path.exists(junit) else "",
    })  # fmt: skip
    return code


def given(name: str) -> str:
    return os.environ.get(f"INPUT_{name.upper()}", "").strip()


# --------------------------------------------------------------------------- the command


def command_line(command: str) -> list[str]:
    """The arguments of netfuse-onnx. Raises Wrong."""
    if command not in COMMANDS:
        raise Wrong(f"There is no command {command!r}: choose {', '.join(COMMANDS)}.")
    merged, junit = given("merged"), given("junit")
    if command != "check" and not merged:
        raise Wrong(f"The command {command} needs the input `merged`.")
    try:
        more = shlex.split(given("args"))
    except ValueError as error:
        raise Wrong(f"The input `args` can't be read: {error}.") from error
    options = [*COMMANDS[command], *more, "--json"]
    if junit and command in ("verify", "digests"):
        options += ["--junit", junit]
    if command == "merge":
        options += ["--out", merged]
    first = [merged] if command in ("verify", "digests") else []
    return [*options, "--", *first, *models(merged)]


def models(merged: str) -> list[str]:
    """The models that the lines of the input name. Raises Wrong for a line without any."""
    found: dict[str, None] = {}
    for line in filter(None, map(str.strip, given("models").splitlines())):
        if os.path.exists(line) or os.path.exists(line.partition("=")[2]):
            found[line] = None
            continue
        matches = sorted(path for path in glob.glob(line, recursive=True) if not same(path, merged))
        if not matches:
            raise Wrong(f"No file is called {line!r}. Was it checked out (Git LFS: `lfs: true`)?")
        found |= dict.fromkeys(matches)
    if not found:
        raise Wrong("The input `models` names no files.")
    return list(found)


def same(path: str, merged: str) -> bool:
    return bool(merged) and os.path.exists(merged) and os.path.samefile(path, merged)


def read(report: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(report).read_text(encoding="utf-8"))
    except ValueError:
        return {"error": {"message": "netfuse-onnx gave no report.", "hint": "See the log."}}
    return dict(document)


# --------------------------------------------------------------------------- what GitHub reads


def tell(outputs: Mapping[str, str]) -> None:
    """Set the outputs of the step. The delimiter is one that no value can hold."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        mark = f"end-{uuid.uuid4()}"
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{name}<<{mark}\n{value}\n{mark}\n" for name, value in outputs.items())


def annotate(level: str, text: str) -> None:
    """Print a line that GitHub shows beside the step. Line ends would begin another command."""
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    sys.stdout.write(f"::{level} title=netfuse-onnx::{_CONTROL.sub(' ', escaped)}\n")
    sys.stdout.flush()


def summarise(lines: Sequence[str]) -> None:
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write("\n".join(lines) + "\n\n")


def cell(value: object) -> str:
    """Text for a cell of a Markdown table: names from files are neither markup nor HTML."""
    text = _CONTROL.sub(" ", str(value)).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    if rows:
        yield ""
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        for row in rows[:MOST]:
            yield f"| {' | '.join(map(cell, row))} |"
        if len(rows) > MOST:
            yield ""
            yield f"and {len(rows) - MOST} more, see the report."


# --------------------------------------------------------------------------- the summary


def summary(command: str, code: int, document: Mapping[str, Any]) -> Iterator[str]:
    answers = {0: "yes", 1: "no", 5: "not proven"}
    yield f"### netfuse-onnx {command}: {answers.get(code, 'an error')}"
    if error := document.get("error"):
        yield ""
        yield f"{cell(error['message'])} {cell(error['hint'])}"
    if command == "check":
        yield from families(document)
    elif command == "digests":
        rows = [
            (row["model"], row["file"], "the same" if row["ok"] else "another file", row["sha256"][:16])
            for row in document.get("sources", ())
        ]
        yield from table(("model", "source", "", "SHA-256"), rows)
    else:
        yield from merged(document)
        yield from proofs(document.get("proof") if command == "merge" else document)


def families(document: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            ", ".join(row["models"]),
            row["operators"],
            row["opset"],
            (row["difference"] or {}).get("message", ""),
        )
        for row in document.get("families", ())
    ]
    yield from table(("family", "operators", "opset", "differs"), rows)
    yield from table(
        ("can't be read", ""), [(row["file"], row["message"]) for row in document.get("unreadable", ())]
    )


def merged(document: Mapping[str, Any]) -> Iterator[str]:
    if "size" in document and "lowered" in document:
        size = f"{document['size'] / 1e6:,.1f} MB"
        yield from table(("file", "models", "size"), [(document["out"], ", ".join(document["models"]), size)])


def proofs(document: Mapping[str, Any] | None) -> Iterator[str]:
    if not document or "values" not in document:
        return
    values, graph, weights = document["values"], document["graph"], document["bytes"]
    parts = [
        ("bytes", weights, f"{weights['weights']} weights"),
        ("graph", graph, graph["note"] or f"{graph['nodes']} nodes"),
        (
            "values",
            values,
            f"{len(values['outputs'])} outputs on {values['provider']}: {'; '.join(values['cases'])}",
        ),
        ("isolation", values["isolation"], "no model sees another's data"),
    ]
    rows = [(name, "holds" if one["ok"] else "fails", told) for name, one, told in parts if one]
    yield from table(("proof", "", ""), rows)
    wrong = [
        (row["model"], row["output"], short(row["error"]), short(row["allowed"]), row["case"])
        for row in values["outputs"]
        if not row["ok"]
    ]
    yield from table(("model", "output", "error", "allowed", "case"), wrong)


def short(number: float | str) -> str:
    """Three digits; what JSON lacks is a word."""
    return number if isinstance(number, str) else f"{number:.3g}"


if __name__ == "__main__":
    sys.exit(main())
