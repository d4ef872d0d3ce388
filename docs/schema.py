"""Write docs/schema.json, the JSON Schema of what the commands print with --json: `make docs`.

It is read off the reports themselves: a field is a field of a dataclass, a type its type hint, a description
its docstring. docs/json.md says the same in words.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netfuse_onnx import errors, report
from netfuse_onnx.bundle_report import BundleReport
from netfuse_onnx.deploy.triton import TritonReport
from netfuse_onnx.fleet.report import FleetReport
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.page_report import PageReport

PAGE = Path(__file__).parent / "schema.json"
REPORTS: Mapping[str, type] = {
    "merge": report.MergeReport,
    "check": report.CheckReport,
    "verify": report.VerifyReport,
    "bench": BenchReport,
    "inspect": report.InspectReport,
    "rules": report.RulesReport,
    "bundle": BundleReport,
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


if __name__ == "__main__":
    PAGE.write_text(text())
