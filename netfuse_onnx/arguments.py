"""The arguments of the verbs, checked before any work. Every function here raises UsageFault."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.names import from_paths
from netfuse_onnx.types import Correspondence

CHOICES = {
    "io": ("separate", "stacked"),
    "target": ("generic", "cpu", "cuda", "auto"),
    "data": ("auto", "external", "single"),
    "provider": ("auto", "cpu", "cuda"),
}

LEAST_MEMORY = 200_000_000
"""The smallest number of bytes for --max-memory."""


def choice(option: str, value: str) -> str:
    """Return one of the words that an option accepts."""
    if value not in CHOICES[option]:
        raise UsageFault(f"There is no {option} {value!r}.", f"Choose {' or '.join(CHOICES[option])}.")
    return value


def target(value: str) -> str:
    """Return a known target, auto, or the path of a file of constants that bench/calibrate.py wrote."""
    return value if value.endswith(".json") else choice("target", value)


def model_names(paths: Sequence[str], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the models: those given, or those that the paths suggest."""
    if names is None:
        return from_paths(paths)
    if len(names) != len(paths):
        raise UsageFault(f"{len(names)} names for {len(paths)} models.", "Give one name per model, in order.")
    for name in names:
        if not name or "/" in name:
            raise UsageFault(f"A model can't be called {name!r}.", "Names are not empty and hold no slash.")
        if names.count(name) > 1:
            raise UsageFault(f"Two models are called {name!r}.", "Give every model a name of its own.")
    return tuple(names)


def shared_inputs(share: Sequence[str], family: Correspondence) -> frozenset[str]:
    """Return the inputs that are fed once, by the first model's names; any model's name may be given."""
    inputs = family.graph.inputs
    shared = set[str]()
    for given in share:
        meant = {n for m in range(family.models) for n in inputs if family.edge(m).inputs[n] == given}
        if given not in inputs and len(meant) != 1:
            elsewhere = (
                f", and in other models it is {' and '.join(map(repr, sorted(meant)))}" if meant else ""
            )
            raise UsageFault(
                f"{family.sources[0].path} has no input {given!r} to share{elsewhere}.",
                f"Its inputs are: {', '.join(inputs)}.",
            )
        shared.add(given if given in inputs else meant.pop())
    return frozenset(shared)


def dimensions(pairs: Sequence[str]) -> dict[str, int]:
    """Return sizes by name from `NAME=VALUE`. The last = counts: names may contain one."""
    dims = {}
    for pair in pairs:
        name, mark, value = pair.rpartition("=")
        if not (mark and name and value.isascii() and value.isdecimal()):
            raise UsageFault(f"{pair!r} is no dimension.", "Write --dim NAME=VALUE, such as --dim batch=4.")
        dims[name] = int(value)
    return dims


def sizes(dims: Mapping[str, int]) -> dict[str, int]:
    """Refuse negative sizes."""
    for name, value in dims.items():
        if value < 0:
            raise UsageFault(f"Dimension {name!r} can't have size {value}.", "Sizes are 0 or more.")
    return dict(dims)


def memory(value: str | int) -> int:
    """Return the bytes in `500M`, `2GB`, `1.5GiB` or a plain number."""
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i)?)?B?", str(value).strip(), re.IGNORECASE | re.ASCII
    )
    if not match:
        raise UsageFault(
            f"{str(value)!r} is no amount of memory.", "Write --max-memory 500M or --max-memory 2GB."
        )
    number, unit, binary = match.groups()
    size = int(float(number) * (1024 if binary else 1000) ** " KMGT".index((unit or " ").upper()))
    if size < LEAST_MEMORY:
        raise UsageFault(
            f"{str(value)!r} is too little for a proof: Python and ONNX Runtime alone take about 120 MB.",
            f"Give --max-memory {LEAST_MEMORY // 10**6}M or more.",
        )
    return size


def positive(what: str, value: int) -> int:
    """Refuse a number below 1."""
    if value < 1:
        raise UsageFault(f"{what} can't be {value}.", "Give 1 or more.")
    return value
