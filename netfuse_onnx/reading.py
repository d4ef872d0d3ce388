"""Reads reports back from the JSON that the commands print: `read(VerifyReport, value)`.

A field of a dataclass has the key and the type that its hint says, as in docs/schema.json. Keys of newer
versions are left out, and so are those that only JSON has, such as `ok`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import json
import types
import typing
from typing import Any, TypeVar, cast

from netfuse_onnx.errors import FileFault
from netfuse_onnx.report import SCHEMA_VERSION

Kind = TypeVar("Kind")
ENDLESS = ("inf", "-inf", "nan")


def document(path: str) -> dict[str, Any]:
    """Return the document in a file that a command printed with --json. Raises FileFault for any other."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no JSON"
        raise FileFault(
            f"{path} can't be read: {why}.", "Give what a command printed with --json."
        ) from error
    if not isinstance(value, dict) or value.get("schema_version") != SCHEMA_VERSION:
        raise FileFault(
            f"{path} is no report of this version of netfuse-onnx.",
            "Give what a command printed with --json.",
        )
    return value


def report(kind: type[Kind], value: Any, path: str) -> Kind:
    """Return the report of this kind in a document. Raises FileFault where it is another one."""
    try:
        return cast(Kind, read(kind, value))
    except ValueError as error:
        raise FileFault(
            f"{path} is no {kind.__name__} of netfuse-onnx: {error}.",
            "Give what the command printed with --json.",
        ) from error


def read(kind: Any, value: Any) -> Any:
    """Return the value of a type from its JSON. Raises ValueError, which names the place."""
    if dataclasses.is_dataclass(kind):
        return _record(cast(type, kind), value)
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _one_of(parts, value)
    if origin is tuple:
        return _tuple(parts, value)
    if origin is collections.abc.Mapping:
        if not isinstance(value, dict):
            raise ValueError("is no object")
        return {read(parts[0], key): _at(str(key), parts[1], item) for key, item in value.items()}
    return _plain(kind, value)


def _plain(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if kind is float and (value in ENDLESS or (isinstance(value, int) and not isinstance(value, bool))):
        return float(value)
    if kind is type(None):
        if value is not None:
            raise ValueError("is not null")
        return None
    if not isinstance(kind, type) or type(value) is not kind:
        raise ValueError(f"is no {getattr(kind, '__name__', kind)}")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    if value is None and type(None) in kinds:
        return None
    faults = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return read(kind, value)
            except ValueError as error:
                faults.append(error)
    raise faults[0]


def _tuple(parts: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError("is no list")
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_at(str(place), parts[0], item) for place, item in enumerate(value))
    if len(parts) != len(value):
        raise ValueError(f"has not {len(parts)} entries")
    return tuple(
        _at(str(place), part, item) for place, (part, item) in enumerate(zip(parts, value, strict=True))
    )


def _record(kind: type, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("is no object")
    hints = _hints(kind)
    given = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            given[field.name] = _at(field.name, hints[field.name], value[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"has no {field.name!r}")
    return kind(**given)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _at(key: str, kind: Any, value: Any) -> Any:
    try:
        return read(kind, value)
    except ValueError as error:
        raise ValueError(f"{key[:40]!r} {error}") from None
