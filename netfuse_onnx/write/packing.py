"""The files of all sources in one text, which a merged file carries in its metadata.

The text is base64 of an xz stream: one line of JSON, then the bytes that no merged weight holds. Those are
cut into runs where weights stand between them, and equal runs are stored once: models of one family differ in
little but their weights. In a list of pieces a number k is run k, and -k-1 is weight k.
"""

from __future__ import annotations

import base64
import binascii
import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netfuse_onnx.write.schema import count, listed, parsed, record, size, text

FORMAT = 1
MOST = 1 << 28
"""The largest number of bytes that a text may become."""
_MEMORY = 1 << 27  # bytes that the decoder may take
_DICTIONARY = 1 << 22  # bytes in which the encoder looks for repetitions


@dataclass(frozen=True, slots=True)
class Held:
    """A merged weight, and the shapes of the weights that went into it, in the order of its parts."""

    name: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PackedFile:
    """A file of a source: `location` is '' for the model, `pieces` are numbers of runs and weights."""

    location: str
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedModel:
    """The files of one source. Without any, `note` says why they are not there; else in what they are not
    those that were merged."""

    files: tuple[PackedFile, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Packed:
    """The files of all sources. A weight is a merged one, by its place in `held`, and the number of its part;
    or the sum of one of these and the product of two others, with the form of the product."""

    held: tuple[Held, ...]
    weights: tuple[tuple[int, ...], ...]
    runs: tuple[bytes, ...]
    models: tuple[PackedModel, ...]


def packed(value: Packed) -> str:
    """Returns the text. It depends on the value alone."""
    head = {
        "format": FORMAT,
        "held": [[held.name, *_shapes(held.shapes)] for held in value.held],
        "weights": value.weights,
        "runs": [len(run) for run in value.runs],
        "models": [
            {"files": [[file.location, file.pieces] for file in model.files]}
            | ({"note": model.note} if model.note else {})
            for model in value.models
        ],
    }
    line = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    raw = b"".join((line, b"\n", *value.runs))
    dictionary = min(_DICTIONARY, max(1 << 16, 1 << len(raw).bit_length()))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary}]
    data = lzma.compress(raw, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)
    return base64.b64encode(data).decode()


def unpacked(given: str) -> Packed:
    """Returns the value of a text. Raises ValueError where it is damaged."""
    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
        raw = decoder.decompress(base64.b64decode(given, validate=True), max_length=MOST)
    except (lzma.LZMAError, binascii.Error, EOFError) as error:
        raise ValueError("it is not a whole xz stream") from error
    if not decoder.eof:
        raise ValueError("it is cut off or too long")
    line, _, rest = raw.partition(b"\n")
    value = parsed(line.decode())
    if _HEAD(value)["format"] != FORMAT:
        raise ValueError("it has another format")
    found = _WHOLE(value)
    if sum(found["runs"]) != len(rest):
        raise ValueError("'runs' are not as long as its bytes")
    runs, at = [], 0
    for each in found["runs"]:
        runs.append(rest[at : at + each])
        at += each
    result = Packed(found["held"], found["weights"], tuple(runs), found["models"])
    _check(result)
    return result


def _check(value: Packed) -> None:
    """Raises ValueError where a number stands for nothing."""
    for weight in value.weights:
        pairs = [weight[k : k + 2] for k in range(0, min(len(weight), 6), 2)]
        if len(weight) not in (2, 7):
            raise ValueError("'weights' have neither one part nor three")
        if not all(held < len(value.held) and part < len(value.held[held].shapes) for held, part in pairs):
            raise ValueError("'weights' name a part that is not there")
    for model in value.models:
        if model.files and [file.location for file in model.files].index("") != 0:
            raise ValueError("'files' do not begin with the model")
        for file in model.files:
            if not all(-len(value.weights) <= piece < len(value.runs) for piece in file.pieces):
                raise ValueError("'pieces' name a run or weight that is not there")


def inside(location: str) -> bool:
    """Returns True for the normal form of a path that stays inside its folder."""
    parts = location.split("/")
    return bool(location) and "\0" not in location and not {"", ".", ".."} & set(parts)


def _shapes(shapes: Sequence[Sequence[int]]) -> list[Any]:
    """Returns the number of shapes and the one that all are, or all shapes."""
    if len(set(map(tuple, shapes))) == 1:
        return [len(shapes), list(shapes[0])]
    return [0, *map(list, shapes)]


# --------------------------------------------------------------------------- checked values


def _held(value: Any) -> Held:
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError("is no weight with its shapes")
    name, number, shapes = text(value[0]), count(value[1]), tuple(map(listed(count), value[2:]))
    if number > _MOST_PARTS or (number and len(shapes) != 1):
        raise ValueError("has not one shape for all parts")
    return Held(name, shapes * number if number else shapes)


def _file(value: Any) -> PackedFile:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("is no location with its pieces")
    location = text(value[0])
    if location and not inside(location):
        raise ValueError("lies outside of the model's folder")
    return PackedFile(location, listed(_piece)(value[1]))


def _piece(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is no number")
    return value


def _model(value: Any) -> PackedModel:
    found = record({"files": listed(_file)}, {"note": text})(value)
    return PackedModel(found["files"], found.get("note", ""))


_MOST_PARTS = 1 << 20
_HEAD = record({"format": count}, {})
_WHOLE = record(
    {
        "held": listed(_held),
        "weights": listed(listed(count)),
        "runs": listed(size),
        "models": listed(_model),
    },
    {},
)
