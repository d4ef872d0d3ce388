"""Writes a plan as JSON: the whole new file or the old one, at every moment."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile

from netfuse_onnx.errors import FileFault
from netfuse_onnx.fleet.report import FleetReport


def write_plan(report: FleetReport, out: str, fleet: str) -> None:
    """Write the report to `out`, by way of a file beside it. A file that is there is replaced where it is a
    plan. Raises FileFault."""
    refuse_others(out, fleet)
    text = json.dumps(report.to_json(), indent=1) + "\n"
    folder = os.path.dirname(out) or "."
    try:
        number, beside = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(out)}-")
    except (OSError, ValueError) as error:
        raise FileFault(f"{out} can't be written: {error}.", "Check the folder.") from error
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, out)
    except OSError as error:
        raise FileFault(f"{out} can't be written: {error}.", "Check the path.") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)


def refuse_others(out: str, fleet: str) -> None:
    """Refuse to replace what is no plan: the fleet itself, a folder, a file of something else. A folder that
    does not exist is refused as well."""
    if not os.path.isdir(os.path.dirname(out) or "."):
        raise FileFault(f"{out} can't be written: there is no such folder.", "Create it first.")
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
