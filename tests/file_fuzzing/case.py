"""One input of the fuzzer: files, and the commands that are run on them. `draw` makes it from two numbers."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from file_fuzzing import messages
from file_fuzzing.seeds import Family

OUTSIDE = "outside"
"""The folder beside that of the files. Nothing in it may be opened."""
SECRET = "secret.bin"
PIPE = "pipe"
KEY = "netfuse_onnx"
LIMIT = ("--max-memory", "1GB")
"""Where a proof runs, it is told how much memory it may take."""


@dataclass
class Case:
    """`files` by name; `links` by name with their target; `pipes` and `folders`: other things of these names.
    `commands` are tried in order, without the program's name."""

    story: str
    files: dict[str, bytes]
    commands: list[list[str]]
    links: dict[str, str] = field(default_factory=dict)
    pipes: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        for name in self.folders:
            (folder / name).mkdir()
        for name in self.pipes:
            os.mkfifo(folder / name)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def draw(seed: int, index: int, families: Sequence[Family]) -> Case:
    """Input `index` of the run with this seed: always the same one."""
    rng = random.Random(f"{seed}/{index}")
    family = rng.choice(families)
    kinds: tuple[tuple[Callable[[Family, Sequence[Family], random.Random], Case], int], ...] = (
        (_bytes, 25), (_structure, 45), (_outside, 10), (_metadata, 12), (_merged, 8),
    )  # fmt: skip
    make = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
    return make(family, families, rng)


def _commands(rng: random.Random) -> list[list[str]]:
    """For two mutated sources. A later command needs what an earlier one answered 0 to."""
    done = [["check", "a.onnx", "b.onnx"]]
    if rng.random() < 0.5:
        io = rng.choice(("separate", "separate", "stacked"))
        target = rng.choice(("generic", "generic", "generic", "cpu", "cuda"))
        done.append(["merge", "a.onnx", "b.onnx", "-o", "m.onnx", "--io", io, "--target", target, *LIMIT])
        if rng.random() < 0.1:
            done[-1].append("--partial")
        if rng.random() < 0.9:
            done[-1].append("--no-verify")
        done.append(["inspect", "m.onnx"])
    return done


def _beside(family: Family, changed: bytes, rng: random.Random) -> dict[str, bytes]:
    """The changed model twice, with one unchanged, or alone in its place."""
    other = changed if rng.random() < 0.7 else family.models[1]
    return {"a.onnx": changed, "b.onnx": other, **family.data}


# --------------------------------------------------------------------------- the kinds


def _bytes(family: Family, families: Sequence[Family], rng: random.Random) -> Case:
    """Bytes of a file changed, cut, inserted, moved."""
    return Case(
        f"bytes of {family.name}", _beside(family, _flipped(family.models[0], rng), rng), _commands(rng)
    )


def _flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out)) if out else 0
        what = rng.randrange(7)
        if what == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1 and out:
            out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif what == 2:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        elif what == 3:
            del out[at : at + rng.choice((1, 2, 8, 64))]
        elif what == 4:
            del out[at:]
        elif what == 5:
            out[at:at] = out[at : at + rng.randrange(1, 64)]
        else:
            out[at : at + 1] = rng.choice((b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x10", b"\x08\xff\x7f"))
    return bytes(out)


def _structure(family: Family, families: Sequence[Family], rng: random.Random) -> Case:
    """Fields and parts of the model changed."""
    donor = ModelProto.FromString(rng.choice(families).models[0])
    model = ModelProto.FromString(family.models[0])
    messages.mutate(model, donor, rng)
    data = _written(model)
    if rng.random() < 0.03:
        data = _deep(data, rng)
    return Case(f"structure of {family.name}", _beside(family, data, rng), _commands(rng))


def _written(model: ModelProto) -> bytes:
    data: bytes = model.SerializePartialToString()
    return data.replace(messages.NOT_UTF8.encode(), b"\xff\xfe\x80\xff")


def _deep(data: bytes, rng: random.Random) -> bytes:
    """The same file with a graph in a graph in a graph: node, attribute, graph, and again."""
    inner = b""
    for _ in range(rng.choice((20, 30, 33, 50, 1000))):
        held = b"\x0a\x01g\xa0\x01\x05" + _field(6, inner)
        inner = _field(1, b"\x12\x01y\x22\x02If" + _field(5, held))
    return data + _field(7, inner)


def _field(number: int, data: bytes) -> bytes:
    length, out = len(data), bytearray()
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    out.append(length)
    return bytes([number << 3 | 2]) + bytes(out) + data


LOCATIONS = (
    f"../{OUTSIDE}/{SECRET}", f"../{OUTSIDE}/{PIPE}", f"/{OUTSIDE}", "/dev/zero", "/etc/passwd", "..", ".", "", "/",
    "folder", "folder/", "pipe", "link", "chain", "broken", "loop", f"link/../../{OUTSIDE}/{SECRET}", "missing.bin",
    "w0.bin", "./w0.bin", "a.onnx", "b.onnx", "x" * 5000, "\0", "w0.bin\0", "folder/w.bin", "~", "$HOME", "file:w0.bin",
    "/proc/self/mem", "/proc/self/fd/0", "-", "w0.bin/", "\n", "é.bin",
)  # fmt: skip
AMOUNTS = (
    "0",
    "1",
    "-1",
    "4096",
    str(2**31),
    str(2**63 - 1),
    str(2**64),
    "1e3",
    "0x10",
    " 1",
    "٣",
    "",
    "3600",
    "9" * 5000,
)


def _outside(family: Family, families: Sequence[Family], rng: random.Random) -> Case:
    """Weights kept outside of the file, in places where they may not be."""
    model = ModelProto.FromString(family.models[0])
    found = [t for t in messages.walk(model) if isinstance(t, TensorProto)]
    chosen = rng.choice(found) if found else model.graph.initializer.add(name="w", data_type=1, dims=[2])
    for name in ("raw_data", "float_data", "int64_data", "int32_data"):
        if rng.random() < 0.95:
            chosen.ClearField(name)
    chosen.data_location = TensorProto.EXTERNAL
    del chosen.external_data[:]
    chosen.external_data.add(key="location", value=rng.choice(LOCATIONS))
    for key in ("offset", "length", "checksum", "location", "strange"):
        if rng.random() < 0.3:
            chosen.external_data.add(key=key, value=rng.choice(LOCATIONS if key == "location" else AMOUNTS))
    if rng.random() < 0.5:
        size = rng.choice((0, 1, 900, 3, 2**20, 2**40))
        chosen.CopyFrom(TensorProto(name=chosen.name, data_type=chosen.data_type, dims=[size],
                                    data_location=TensorProto.EXTERNAL, external_data=chosen.external_data))  # fmt: skip
    secret = f"../{OUTSIDE}/{SECRET}"
    case = Case(f"places of {family.name}", _beside(family, _written(model), rng), _commands(rng))
    case.files.setdefault("w0.bin", bytes(4000))
    case.links = {"link": secret, "chain": "link", "broken": "missing", "loop": "loop"}
    case.folders, case.pipes = ["folder"], ["pipe"]
    if rng.random() < 0.2:
        case.links["folder/w.bin"] = f"../{secret}"
    if rng.random() < 0.1:
        del case.files["a.onnx"]
        what = rng.randrange(3)
        if what == 0:
            case.folders.append("a.onnx")
        elif what == 1:
            case.pipes.append("a.onnx")
        else:
            case.links["a.onnx"] = rng.choice((PIPE, "loop", "folder", "broken"))
    return case


def _merged(family: Family, families: Sequence[Family], rng: random.Random) -> Case:
    """A merged file with other bytes or fields, beside its sources."""
    data = family.merged
    if rng.random() < 0.5:
        data = _flipped(data, rng)
    else:
        model = ModelProto.FromString(data)
        messages.mutate(model, ModelProto.FromString(family.models[0]), rng)
        data = _written(model)
    return _verified(f"merged {family.name}", family, data, rng)


def _verified(story: str, family: Family, merged: bytes, rng: random.Random) -> Case:
    files = {"a.onnx": family.models[0], "b.onnx": family.models[1], "m.onnx": merged, **family.data}
    commands = [["inspect", "m.onnx"]]
    if rng.random() < 0.2:
        commands.append(["inspect", "m.onnx", "--json"])
    if rng.random() < 0.35:
        commands.append(["verify", "m.onnx", "a.onnx", "b.onnx", *LIMIT])
    if rng.random() < 0.005:
        commands.append(["bench", "m.onnx", "a.onnx", "b.onnx", "--rounds", "1", "--seconds", "0.01", *LIMIT])
    if rng.random() < 0.1:
        commands.append(["check", "m.onnx", "m.onnx"])
    return Case(story, files, commands)


def _metadata(family: Family, families: Sequence[Family], rng: random.Random) -> Case:
    """What a merged file says of itself, changed."""
    model = ModelProto.FromString(family.merged)
    entry = next(found for found in model.metadata_props if found.key == KEY)
    value = json.loads(entry.value)
    text = ""
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = _changed(value, rng)
    what = rng.random()
    text = json.dumps(value)
    if what < 0.05:
        text = "[" * 100_000
    elif what < 0.1:
        text = text.replace('"nodes"', '"nodes": ' + "[" * 5000 + "]" * 5000 + ', "x"')
    elif what < 0.15:
        text = text[: rng.randrange(len(text))]
    elif what < 0.2:
        text = _flipped(text.encode(), rng).decode("latin-1")
    entry.value = text
    if rng.random() < 0.05:
        model.metadata_props.add(key=KEY, value=rng.choice(("", "{}", "null", text)))
    return _verified(f"metadata of {family.name}", family, _written(model), rng)


ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**400, 2**63, 1.5, float("nan"), float("inf"), float("-inf"), 1e308, "", "x", "T",
    "T1", "x2", "x999999999999", "x" * 5000, "\ud800", "\0", [], {}, [[]], {"": {}}, [1], ["a", "b"], {"a": 1}, "1",
    "batched", "separate", "cuda", "cpu", "../x.json", "/etc/passwd", "../outside/secret.bin", "../outside/pipe",
    [0, 0], [-1], [10**30], "STACKED(0)", "x9" + "9" * 5000, [None], [["T"]] * 3,
)  # fmt: skip


def _changed(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        changed = dict(value)
        what = rng.random()
        if what < 0.1:
            del changed[key]
        elif what < 0.15:
            changed[rng.choice(("", "x", "format", "a"))] = changed.pop(key)
        else:
            changed[key] = _changed(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        what = rng.random()
        if what < 0.15:
            return value[:at] + value[at + 1 :]
        if what < 0.3:
            return [*value, value[at]]
        return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


__all__ = ["OUTSIDE", "PIPE", "SECRET", "Case", "draw"]
