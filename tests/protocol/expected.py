"""The status of each case of `wrong.py`: one that both servers give, or two that differ, with the reason.

docs/protocol.md has the table of those that differ: `python tests/protocol/expected.py` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


@dataclass(frozen=True)
class Differs:
    """The answers of ours and of Triton, and why they differ."""

    ours: str
    triton: str
    why: str


Expected = str | Differs


def _differs(ours: str, triton: str, why: str, *cases: str) -> dict[str, Expected]:
    return dict.fromkeys(cases, Differs(ours, triton, why))


OK, BAD, GONE, FAILED = "200", "400", "404", "500"

HTTP: Mapping[str, Expected] = {
    **dict.fromkeys(
        ("nothing is wrong", "no output is asked for", "duplicate output", "binary: nothing is wrong", "BYTES: nothing is wrong", "gzip",
         "NaN in the JSON", "unknown parameter", "unknown parameter of an input", "unknown parameter of an output",
         "sequence_id", "priority", "timeout"), OK,
    ),
    **dict.fromkeys(
        ("unknown model", "unknown version", "version that is no number", "a path for a name"), GONE
    ),
    **dict.fromkeys(
        ("empty body", "JSON nested 100,000 deep", "no inputs", "an input is no object", "missing input",
         "unknown input", "input of another name", "duplicate input", "data is missing", "wrong type", "unknown type",
         "wrong rank", "wrong size", "rows that differ", "no rows", "huge size", "rows of unequal lengths",
         "unknown output", "a parameter is an object", "binary: truncated", "binary: no tensor came",
         "binary: bytes are left over", "binary: length of the header beyond the body",
         "binary: length of the header is 0", "binary: length of the header is negative",
         "binary: length of the header is huge", "binary: length of the header is no number",
         "binary: size of a tensor beyond the body", "binary: size of a tensor too small",
         "binary: size of a tensor is huge", "binary: data in JSON beside it", "BYTES: a length beyond the end",
         "BYTES: a huge length", "BYTES: cut in a length", "BYTES: too few", "BYTES: too many", "BYTES: empty",
         "BYTES: not UTF-8", "gzip: not so", "gzip: truncated", "deflate: not so"), BAD,
    ),
    "index out of range": FAILED,
    **_differs(
        BAD, FAILED, "Triton answers 500 to JSON that it can't read",
        "malformed JSON", "more after the JSON", "a list for the request", "a number for the request",
        "null for the request", "inputs is missing", "inputs is no list", "name is missing",
        "datatype is missing", "shape is missing", "datatype is a number", "less data than the shape",
        "more data than the shape", "negative size", "two negative sizes", "size beyond 64 bits",
        "fraction for a size", "text for a size", "number for a shape", "text for a number", "null for a number",
        "object for a number", "true for a number", "fraction for a whole number", "number beyond 64 bits",
        "text for data", "outputs is no list", "an output without a name", "binary_data is text",
        "parameters is no object", "timeout is text", "binary: length of the header too short",
        "binary: length of the header too long", "binary: no length of the header",
        "binary: size of a tensor is negative", "binary: size of a tensor is text",
        "binary: size of a tensor is a fraction",
    ),
    **_differs(
        BAD, OK, "Triton multiplies sizes in 64 bits, where 2^61 + 1 times 8 is 8",
        "product of sizes overflows to the right one",
    ),
    **_differs(BAD, OK, "Triton passes on bytes that are not UTF-8", "bytes that are not UTF-8"),
    **_differs(OK, FAILED, "ours gives it back as text", "id is a number"),
    **_differs(BAD, OK, "ours gives tensors only", "classification"),
    **_differs(
        BAD, GONE, "ours has no shared memory; Triton does not know the region",
        "output in shared memory", "input in shared memory",
    ),
    **_differs(BAD, "501", "the request is wrong, the server is not", "an unknown encoding"),
}  # fmt: skip
"""By cases of JSON and binary tensors."""

INVALID, NOT_FOUND = "INVALID_ARGUMENT", "NOT_FOUND"
GRPC: Mapping[str, Expected] = {
    **dict.fromkeys(
        ("nothing is wrong", "duplicate output", "unknown parameter", "sequence_id", "priority",
         "BYTES: nothing is wrong"), "OK"
    ),
    **dict.fromkeys(("unknown model", "no model", "unknown version"), NOT_FOUND),
    **dict.fromkeys(
        ("no inputs", "missing input", "unknown input", "input of another name", "duplicate input", "wrong type",
         "unknown type", "datatype is missing", "wrong rank", "wrong size", "rows that differ", "no rows",
         "less data than the shape", "more data than the shape", "shape is missing", "negative size",
         "two negative sizes", "fewer raw contents than inputs", "raw and typed contents",
         "typed contents: too few", "typed contents: too many", "typed contents: of another type",
         "typed contents: none", "unknown output", "output in shared memory", "BYTES: a length beyond the end",
         "BYTES: a huge length", "BYTES: cut in a length", "BYTES: too few", "BYTES: too many", "BYTES: empty",
         "BYTES: not UTF-8"),
        INVALID,
    ),
    "index out of range": "INTERNAL",
    **_differs(NOT_FOUND, INVALID, "no such version is there", "version that is no number"),
    **_differs(
        INVALID, "OK", "Triton multiplies sizes in 64 bits, and believes the bytes",
        "huge size", "product of sizes overflows to the right one",
    ),
    **_differs(INVALID, "OK", "Triton leaves the last one out", "more raw contents than inputs"),
    **_differs(INVALID, "OK", "ours gives tensors only", "classification"),
    **_differs(
        INVALID, NOT_FOUND, "ours has no shared memory; Triton does not know the region", "input in shared memory"
    ),
}  # fmt: skip
"""By cases of messages."""


def status(expected: Expected, kind: str) -> str:
    """Return the status that a server of a kind gives."""
    if isinstance(expected, str):
        return expected
    return expected.ours if kind == "ours" else expected.triton


# ----------------------------------------------------------------------------- docs


def table() -> str:
    """Return the differences as a table of Markdown: one line for each reason, with its cases."""
    lines = ["| a request | by | ours | Triton | why |", "|---|---|---|---|---|"]
    for protocol, cases in (("HTTP", HTTP), ("gRPC", GRPC)):
        for reason, names in _grouped(cases):
            lines.append(
                f"| {'; '.join(names)} | {protocol} | {reason.ours} | {reason.triton} | {reason.why} |"
            )
    return "\n".join(lines)


def _grouped(cases: Mapping[str, Expected]) -> Iterator[tuple[Differs, list[str]]]:
    groups: dict[Differs, list[str]] = {}
    for name, expected in cases.items():
        if isinstance(expected, Differs):
            groups.setdefault(expected, []).append(name)
    yield from groups.items()


def written(page: str) -> str:
    """Return the page with the table as it is now."""
    return re.sub(
        r"(<!-- differences -->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{table()}\n{m[2]}",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
