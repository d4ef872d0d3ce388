"""Text from model files, made safe to print; JSON."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def plain(text: str) -> str:
    """Control characters (a name may hold some) as escapes: one line stays one, terminals stay unharmed."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def forgive() -> None:
    """Characters that the terminal's encoding lacks are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def write_json(value: Any) -> None:
    """One JSON value on stdout, in ASCII."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n")
