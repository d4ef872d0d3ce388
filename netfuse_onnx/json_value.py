"""Values of reports as JSON."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any


def json_value(value: Any) -> Any:
    """Return a value of a report as JSON has it: dataclasses with their `ok`, infinities and NaN as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: json_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"ok": value.ok, **own} if hasattr(value, "ok") else own
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
