"""The form of the JSON value in a merged file: the type and range of each key.

Anybody can write such a value. A value that passes these checks has the types, sizes and counts that the
readers rely on; for any other they raise a ValueError that names the key. Unknown keys are left out: a newer
writer may have more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from netfuse_onnx import edges
from netfuse_onnx.dims import MOST_POINTS, combinations
from netfuse_onnx.storage import transforms
from netfuse_onnx.types import Became

MOST = 2**31 - 1
"""The largest count, size or position."""
Check = Callable[[Any], Any]
"""Returns the value in the form that is read, or raises a ValueError that says what is wrong with it."""


def parsed(text: str) -> Any:
    """Returns the JSON value of a text. ValueError where it has none, or has NaN, infinities or deep
    nesting."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:20])


# --------------------------------------------------------------------------- single values


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("is not Unicode text")
    return value


def truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is not true or false")
    return value


def count(value: Any) -> int:
    """Accepts a whole number from 0 to MOST."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise ValueError(f"is not a whole number between 0 and {MOST}")
    return value


def size(value: Any) -> int:
    """Accepts a whole number from 1 to MOST."""
    if count(value) == 0:
        raise ValueError("is 0")
    return int(value)


def sizes(value: Any) -> int | tuple[int, ...]:
    """Accepts the sizes of one symbolic dimension: a count, or a list of them."""
    return _some(value) if isinstance(value, list) else count(value)


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise ValueError("is not a number")
    return float(value)


def transform(value: Any) -> transforms.Transform:
    """Reads the transform of a recipe."""
    return transforms.parsed(text(value))


def target(value: Any) -> str:
    """Accepts the target of a plan: a word, or a file of constants."""
    if text(value) not in ("generic", "cpu", "cuda") and not value.endswith(".json"):
        raise ValueError("is no target")
    return str(value)


def model(value: Any) -> str:
    """Accepts the name of a model, which stands before a slash."""
    if not text(value) or "/" in value:
        raise ValueError("is no name of a model")
    return str(value)


def one_of(*words: str) -> Check:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return str(value)

    return check


# --------------------------------------------------------------------------- compound values


def listed(item: Check) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("is not a list")
        return tuple(_at(str(k), item, entry) for k, entry in enumerate(value))

    return check


def mapped(item: Check) -> Check:
    """Accepts an object of any keys whose values are all of one type."""

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("is not an object")
        return {text(key): _at(key, item, entry) for key, entry in value.items()}

    return check


def record(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """Accepts an object of these keys, and leaves out all others."""

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("is not an object")
        for key in required:
            if key not in value:
                raise ValueError(f"has no {key!r}")
        checks = {**required, **optional}
        return {key: _at(key, checks[key], entry) for key, entry in value.items() if key in checks}

    return check


def _at(key: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{key[:60]!r} {error}") from None


_some = listed(count)

# --------------------------------------------------------------------------- the value


NODE = record(
    {"name": text, "op": text, "became": one_of(*Became)},
    {"rule": text, "reason": text, "cost": text, "takes": listed(text), "gives": listed(text)},
)
CONVERSION = record({"value": text, "from": text, "to": text}, {"nodes": count, "boundary": truth})
SIZE = record({"dims": mapped(count), "microseconds": number, "best": number}, {})
REPORT = {
    "nodes": listed(NODE),
    "conversions": listed(CONVERSION),
    "source_nodes": count,
    "merged_nodes": count,
    "boundary_nodes": count,
    "notes": listed(text),
    "predicted": mapped(number),
    "alternatives": mapped(number),
    "sizes": listed(SIZE),
}
"""The keys that lower writes."""
EDGE = listed(listed(text))
"""The names of the inputs of one model, and those of its outputs."""
WEIGHT = record({"value": text}, {"outer": size, "transform": transform, "parts": listed(count)})
FACTORS = record(
    {"rank": size},
    {
        "model": count,
        "error": number,
        "nodes": listed(text),
        "bytes": number,
        "whole_bytes": number,
        "a": listed(count),
        "b": listed(count),
    },
)
LOW_RANK = record(
    {"tolerance": number, "sha256": text, "whole": mapped(text), "weights": mapped(FACTORS)}, {}
)
"""The weights that are W_0 + L R (rewrite/low_rank.py)."""
WRITTEN = record({"sha256": text, "operators": mapped(count), "types": mapped(count)}, {})
"""Facts of the graph as it was written (write/written.py)."""
FILE = record(
    {
        **dict.fromkeys(("model", "producer", "version", "exporter"), text),
        "opset": count,
        "nodes": listed(count),
    },
    {},
)
FORM_ROW = record({"model": text, "form": text, "says": text, "count": count, "exact": truth}, {})
SPELLING = record({"models": listed(FILE), "forms": listed(FORM_ROW), "opset": count, "onnxslim": text}, {})
"""The ways in which the files were written (spelling_rows.py)."""
APART = record(
    {
        "bytes": number,
        "arithmetic": lambda value: None if value is None else number(value),
        "rows": listed(record({"models": listed(text), "operators": text, "name": text, "sizes": text}, {})),
    },
    {},
)
"""The part that --partial merged."""
HEAD = record({"format": count, "version": text}, {})
_VALUE = record(
    {
        "version": text,
        "models": listed(model),
        "sha256": listed(text),
        "io": one_of(*edges.MODES),
        "share": listed(text),
        "target": target,
        "partial": truth,
        "weights": mapped(WEIGHT),
    },
    {
        "tools": mapped(text),
        "constants": text,
        "provider": one_of("cpu", "cuda"),
        "dims": mapped(sizes),
        "recorded": truth,
        "measured": listed(mapped(count)),
        "names": listed(EDGE),
        "outputs": listed(text),
        "low_rank": LOW_RANK,
        "combined": mapped(one_of("mean", "sum", "vote")),
        "unmoved": truth,
        "spelling": SPELLING,
        "portable": truth,
        "written": WRITTEN,
        "apart": APART,
        "data": one_of("external", "single"),
        **REPORT,
    },
)


def whole(value: Any) -> dict[str, Any]:
    """Accepts all of it: what HEAD holds, and the rest. Models have names of their own and a digest each."""
    found: dict[str, Any] = _VALUE(value)
    models = found["models"]
    if not models or len(set(models)) < len(models) or len(found["sha256"]) != len(models):
        raise ValueError("'models' and 'sha256' are not one name and one digest for each model")
    if not 0 < combinations(found.get("dims", {})) <= MOST_POINTS:
        raise ValueError(f"'dims' are not 1 to {MOST_POINTS} combinations of sizes")
    for line in found.get("low_rank", {}).get("weights", {}).values():
        if any(len(line.get(key, models)) != len(models) for key in ("a", "b")):
            raise ValueError("'low_rank' has not one entry for each model")
    named = found.get("names")
    counts = [list(map(len, row)) for row in named or ()]
    if named is not None and (not counts or counts != counts[:1] * len(models) or len(counts[0]) != 2):
        raise ValueError("'names' are not as many inputs and outputs for each model")
    if "outputs" in found and (not counts or counts[0][1] != len(set(found["outputs"]))):
        raise ValueError("'outputs' are not a name for each of 'names'")
    return found
