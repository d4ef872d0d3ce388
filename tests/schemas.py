"""The part of JSON Schema that docs/schema.json uses. A field that the schema does not name is a fault, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
WORDS = {
    *(
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
    ),
    *("anyOf", "enum", "const", "$ref", "$defs", "$id", "$schema", "title", "description"),
}


def faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str = "$") -> Iterator[str]:
    """Yield what is wrong with a value, by its path."""
    unknown = schema.keys() - WORDS
    assert not unknown, f"the schema uses {unknown}, which this validator does not know"
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema:
        ways = [list(faults(value, one, root, at)) for one in schema["anyOf"]]
        if all(ways):
            yield f"{at}: none of {len(ways)} forms, the nearest: {min(ways, key=len)}"
    if "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "type" in schema:
        if not isinstance(value, TYPES[schema["type"]]) or (
            isinstance(value, bool) != (schema["type"] == "boolean")
        ):
            yield f"{at}: {value!r} is no {schema['type']}"
        elif isinstance(value, dict):
            yield from _of_object(value, schema, root, at)
        elif isinstance(value, list):
            yield from _of_array(value, schema, root, at)


def _of_object(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], at: str
) -> Iterator[str]:
    known = schema.get("properties", {})
    rest = schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{at}.{name} is missing"
    for name, held in value.items():
        if name in known:
            yield from faults(held, known[name], root, f"{at}.{name}")
        elif rest is None:
            yield f"{at}.{name} is not in the schema"
        else:
            yield from faults(held, rest, root, f"{at}.{name}")


def _of_array(value: list[Any], schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{at}: {len(value)} items"
    each = schema.get("prefixItems") or [schema["items"]] * len(value)
    for i, (held, one) in enumerate(zip(value, each, strict=False)):
        yield from faults(held, one, root, f"{at}[{i}]")
