"""The reader of safetensors files: the place of each tensor's bytes, which stay in the file.

A file is the length of the header (8 bytes, little-endian), the header (JSON: name -> type, shape, begin and
end of its bytes), and the bytes of all tensors without holes. The format is small enough to be read here: its
library gives arrays, and weights are streamed from their places. As the library does, the reader refuses
holes, overlaps and sizes that do not fit. Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from onnx import TensorProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import external
from netfuse_onnx.storage.tensors import MOST_AXES
from netfuse_onnx.types import Extent, Weight

MOST_HEADER = 100_000_000
"""The longest header, in bytes, that the format's own library reads."""
DAMAGED = "The file is damaged or not a safetensors file: save or download it again."

_TYPES: Mapping[str, tuple[int, int]] = {
    "BOOL": (TensorProto.BOOL, 1),
    "U8": (TensorProto.UINT8, 1),
    "I8": (TensorProto.INT8, 1),
    "F8_E4M3": (TensorProto.FLOAT8E4M3FN, 1),
    "F8_E5M2": (TensorProto.FLOAT8E5M2, 1),
    "U16": (TensorProto.UINT16, 2),
    "I16": (TensorProto.INT16, 2),
    "F16": (TensorProto.FLOAT16, 2),
    "BF16": (TensorProto.BFLOAT16, 2),
    "U32": (TensorProto.UINT32, 4),
    "I32": (TensorProto.INT32, 4),
    "F32": (TensorProto.FLOAT, 4),
    "U64": (TensorProto.UINT64, 8),
    "I64": (TensorProto.INT64, 8),
    "F64": (TensorProto.DOUBLE, 8),
}
"""The types of the format: those of ONNX, and their bytes per element."""


class _Invalid(ValueError):
    """The header is not one of a safetensors file; the message completes the sentence."""


def read(path: str) -> dict[str, Weight]:
    """Returns all tensors by name, none of them read. Raises FileFault for whatever is no valid file."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise FileFault(f"{path} is a folder, not a safetensors file.", "Name the file in it.")
        if not stat.S_ISREG(mode):
            raise FileFault(f"{path} is not a regular file.", "Save the adapter to a file first.")
        with open(path, "rb", buffering=0) as file:
            return _tensors(path, file.fileno(), os.fstat(file.fileno()).st_size)
    except _Invalid as error:
        raise FileFault(f"{path} is not a valid safetensors file: {error}.", DAMAGED) from error
    except (OSError, ValueError) as error:
        raise external.unreadable(path, error) from error


def _tensors(path: str, fd: int, size: int) -> dict[str, Weight]:
    head = os.pread(fd, len(external.LFS_HEAD), 0)
    if head == external.LFS_HEAD:
        raise FileFault(f"{path} is a Git LFS pointer, not the adapter.", external.LFS_HINT)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        raise FileFault(f"{path} is a pickle of pytorch, not a safetensors file.", "Save it as safetensors.")
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(MOST_HEADER, size - 8):
        raise _Invalid("its header would be longer than the file or than 100 MB")
    header = _header(os.pread(fd, length, 8))
    start = 8 + length
    tensors, ranges = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry)
        ranges.append((begin, end, name))
        tensors[name] = Weight(dtype, shape, Extent(os.path.abspath(path), start + begin, end - begin))
    _without_holes(ranges, size - start)
    return tensors


def _header(raw: bytes) -> dict[str, Any]:
    """Returns the entries of the tensors."""
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_distinct)
    except _Invalid:
        raise
    except (ValueError, RecursionError) as error:
        raise _Invalid("its header is no JSON") from error
    if not isinstance(header, dict):
        raise _Invalid("its header is no JSON object")
    header.pop("__metadata__", None)
    return header


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _Invalid("a name stands twice in its header")
    return result


def _entry(name: str, entry: Any) -> tuple[int, tuple[int, ...], int, int]:
    """Returns type, shape, begin and end of one tensor."""
    if not isinstance(entry, dict):
        raise _Invalid(f"the entry of {name[:80]!r} is no object")
    kind, shape, places = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise _Invalid(f"the type of {name[:80]!r} is {str(kind)[:20]!r}, which is not known here")
    sizes, ends = _counts(shape), _counts(places)
    if sizes is None or len(sizes) > MOST_AXES:
        raise _Invalid(f"{name[:80]!r} has no usable shape")
    if ends is None or len(ends) != 2:
        raise _Invalid(f"{name[:80]!r} has no begin and end")
    dtype, each = _TYPES[kind]
    if ends[1] - ends[0] != math.prod(sizes) * each:
        raise _Invalid(f"the bytes of {name[:80]!r} do not fill its shape")
    return dtype, sizes, ends[0], ends[1]


def _counts(value: Any) -> tuple[int, ...] | None:
    """Returns the whole numbers in a list, None where it has anything else or negative ones."""
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        return None
    return tuple(value)


def _without_holes(ranges: list[tuple[int, int, str]], size: int) -> None:
    """Checks that the tensors fill the rest of the file, one after the other."""
    at = 0
    for begin, end, name in sorted(ranges):
        if begin != at:
            raise _Invalid(f"the bytes of {name[:80]!r} {'overlap others' if begin < at else 'leave a hole'}")
        at = end
    if at != size:
        raise _Invalid(f"its tensors take {at} bytes, and the file has {size} for them")
