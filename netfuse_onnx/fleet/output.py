"""Writes a plan as JSON."""

from __future__ import annotations

import json
import os

from netfuse_onnx import text_files
from netfuse_onnx.errors import FileFault
from netfuse_onnx.fleet.report import FleetReport


def write_plan(report: FleetReport, out: str, fleet: str) -> None:
    """Write the report to `out`, by way of a file beside it. A file that is there is replaced where it is a
    plan. Raises FileFault."""
    refuse_others(out, fleet)
    text = json.dumps(report.to_json(), indent=1) + "\n"
    text_files.write(out, text)


def refuse_others(out: str, fleet: str) -> None:
    """Refuse to replace what is no plan: the fleet itself, a folder, a file of something else. A folder that
    does not exist is refused as well."""
    text_files.refuse_folder(out)
    if not os.path.lexists(out):
        return
    if os.path.exists(fleet) and os.path.exists(out) and os.path.samefile(out, fleet):
        raise FileFault(f"{out} is the fleet itself.", "Give another file for the plan.")
    try:
        with open(out, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "schema_version" not in found or "machines" not in found:
        raise FileFault(f"{out} is there, and is no plan.", "Give another file, or remove it.")
