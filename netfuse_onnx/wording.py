"""Replaces text in reports and errors, so that users are not told paths of temporary files."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from netfuse_onnx.errors import NetfuseError

Value = TypeVar("Value")


def renamed(value: Value, names: Mapping[str, str]) -> Value:
    """Return a value (a report, with all that it holds) with each of `names` replaced, in their order."""
    return cast(Value, _renamed(value, names))


@contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """Replace each of `names` in the errors that are raised inside."""
    try:
        yield
    except NetfuseError as error:
        error.message, error.hint = renamed(error.message, names), renamed(error.hint, names)
        error.report = renamed(error.report, names)
        error.args = (error.message,)
        raise


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        for before, after in names.items():
            value = value.replace(before, after)
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _renamed(getattr(value, f.name), names) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, Mapping):
        return {_renamed(key, names): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return tuple(_renamed(item, names) for item in value)
    return value
