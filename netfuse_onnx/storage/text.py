"""A check that all text of a model is UTF-8.

protobuf gives other text as bytes, which no stage takes for a name: unchecked, it would look like our bug.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto

from netfuse_onnx.errors import FileFault


def check(model: ModelProto, path: str) -> None:
    """Raise FileFault where a name or another text is not UTF-8."""
    try:
        "".join(_texts(model))
    except (TypeError, UnicodeDecodeError) as error:
        raise FileFault(
            f"{path} is not a valid ONNX model: a name is not UTF-8 text.",
            "The model is damaged: export it again.",
        ) from error


def _texts(message: Message) -> Iterator[Any]:
    """Yields the value of every text field of a message, nested messages included."""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            yield from (value,) if isinstance(value, str | bytes) else value
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for each in (value,) if isinstance(value, Message) else value:
                yield from _texts(each)
