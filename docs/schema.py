"""Write docs/schema.json, the JSON Schema of what the commands print with --json: `make docs`.

It is read off the reports themselves: a field is a field of a dataclass, a type its type hint, a description
its docstring. docs/json.md says the same in words.

docs/schema_fields.json lists every field with its type. It is the memory of a version: a field that it has
may neither go nor change its type while SCHEMA_VERSION stays the same, and this script refuses to write then.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netfuse_onnx import errors, report
from netfuse_onnx.bundle_report import BundleReport
from netfuse_onnx.deploy.triton import TritonReport
from netfuse_onnx.digests_report import DigestsReport
from netfuse_onnx.fleet.report import FleetReport
from netfuse_onnx.lifecycle.split_report import SplitReport
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.page_report import PageReport
from netfuse_onnx.rules_report import RulesReport

PAGE = Path(__file__).parent / "schema.json"
FIELDS = Path(__file__).parent / "schema_fields.json"
REPORTS: Mapping[str, type] = {
    "merge": report.MergeReport,
    "check": report.CheckReport,
    "verify": report.VerifyReport,
    "verify-digests": DigestsReport,
    "bench": BenchReport,
    "inspect": report.InspectReport,
    "rules": RulesReport,
    "bundle": BundleReport,
    "split": SplitReport,
    "export-triton": TritonReport,
    "plan-fleet": FleetReport,
    "report": PageReport,
}
PLAIN: Mapping[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    str: {"type": "string"},
    type(None): {"type": "null"},
    float: {"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf", "nan"]}]},
}

Schema = dict[str, Any]


def kinds() -> list[str]:
    """The words that stand for the classes of errors."""
    found = [one for one in vars(errors).values() if isinstance(one, type)]
    return sorted({one.kind for one in found if issubclass(one, errors.NetfuseError)})


def schema() -> Schema:
    """The schema of every document: a command's report, or an error without one."""
    defs: dict[str, Schema] = {}
    head = {
        "schema_version": {"const": report.SCHEMA_VERSION},
        "ok": {"type": "boolean"},
        "exit_code": {"type": "integer"},
        "error": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/error"}]},
    }
    documents = {name: _object(kind, defs, head) for name, kind in REPORTS.items()}
    said = {"kind": {"enum": kinds()}, "message": PLAIN[str], "hint": PLAIN[str], "exit_code": PLAIN[int]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:netfuse-onnx:json:{report.SCHEMA_VERSION}",
        "title": "What the commands of netfuse-onnx print with --json",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in (*documents, "failure")],
        "$defs": {
            "error": _fields(said),
            "failure": _fields({**head, "ok": {"const": False}, "error": {"$ref": "#/$defs/error"}}),
            **documents,
            **dict(sorted(defs.items())),
        },
    }


def text() -> str:
    """The page."""
    return json.dumps(schema(), indent=2) + "\n"


def _object(kind: type, defs: dict[str, Schema], head: Mapping[str, Schema]) -> Schema:
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {f.name: _of(hints[f.name], defs) for f in dataclasses.fields(kind)}
    ok = {"ok": PLAIN[bool]} if hasattr(kind, "ok") else {}
    told = " ".join((kind.__doc__ or "").split())
    return {"description": told, **_fields({**ok, **head, **fields})}


def _fields(fields: Mapping[str, Schema]) -> Schema:
    """An object with all of these fields. Later versions may have more."""
    return {"type": "object", "properties": dict(fields), "required": list(fields)}


def _of(hint: Any, defs: dict[str, Schema]) -> Schema:
    """The schema of a type hint."""
    if hint in PLAIN:
        return PLAIN[hint]
    base, inner = typing.get_origin(hint), typing.get_args(hint)
    if base in (typing.Union, types.UnionType):
        return {"anyOf": [_of(one, defs) for one in inner]}
    if base is tuple and inner[-1] is Ellipsis:
        return {"type": "array", "items": _of(inner[0], defs)}
    if base is tuple:
        items = [_of(one, defs) for one in inner]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if base is Mapping:
        return {"type": "object", "additionalProperties": _of(inner[1], defs)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [one.value for one in hint]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        name = hint.__name__
        if name not in defs:
            defs[name] = {}
            defs[name] = _object(hint, defs, {})
        return {"$ref": f"#/$defs/{name}"}
    raise TypeError(f"no JSON for {hint!r}")


# --------------------------------------------------------------------------- versions


def fields(root: Schema) -> dict[str, str]:
    """Every field of every object with its type, `check.models: [string]`, and every word of a field that has
    a fixed set of them, `error.kind=usage`."""
    found: dict[str, str] = {}
    for form, one in root["$defs"].items():
        for name, held in one["properties"].items():
            found[f"{form}.{name}"] = _type(held)
            found |= {f"{form}.{name}={word}": "word" for word in held.get("enum", ())}
    return dict(sorted(found.items()))


def breaks(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The reasons why programs that read the JSON of `before` may fail on that of `now`, in one version of
    the schema. New fields and new words are none."""
    if before["schema_version"] != now["schema_version"]:
        return []
    gone = [f"{name} is gone" for name in before["fields"] if name not in now["fields"]]
    kept = {name: was for name, was in before["fields"].items() if name in now["fields"]}
    return gone + [
        f"{name} was {was} and is {now['fields'][name]}"
        for name, was in kept.items()
        if now["fields"][name] != was
    ]


def memory() -> dict[str, Any]:
    """The content of docs/schema_fields.json for the reports as they are."""
    return {"schema_version": report.SCHEMA_VERSION, "fields": fields(schema())}


def _type(held: Schema) -> str:
    if "$ref" in held:
        return str(held["$ref"]).rpartition("/")[2]
    if "anyOf" in held:
        return " | ".join(map(_type, held["anyOf"]))
    if "const" in held or "enum" in held:
        return "word"
    if held["type"] == "array":
        each = [_type(one) for one in held.get("prefixItems", ())]
        return f"[{', '.join(each) or _type(held['items']) + ' ...'}]"
    if held["type"] == "object":
        return f"{{string: {_type(held['additionalProperties'])}}}"
    return str(held["type"])


def main() -> int:
    now = memory()
    reasons = breaks(json.loads(FIELDS.read_text()), now) if FIELDS.exists() else []
    if reasons:
        sys.stderr.write("Raise SCHEMA_VERSION in netfuse_onnx/report.py: " + "; ".join(reasons) + ".\n")
        return 1
    PAGE.write_text(text())
    FIELDS.write_text(json.dumps(now, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
