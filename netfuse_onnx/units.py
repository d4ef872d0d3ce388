"""Writes bytes and seconds for people, and reads bytes as people write them."""

from __future__ import annotations

import math
import re


def size(count: int) -> str:
    """Write bytes: 18.1 kB."""
    if count < 1000:
        return f"{count} bytes"
    power = min(4, int(math.log10(count) / 3))
    return f"{count / 1000**power:.3g} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def duration(seconds: float) -> str:
    """Write seconds: 0.71 ms, 2.3 s."""
    if seconds >= 1.0 or seconds <= 0.0:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us"


def bytes_in(value: str | int) -> int | None:
    """Return the bytes in `500M`, `2GB`, `1.5 GiB` or a plain number; None where it is no amount."""
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?) ?(?:([KMGT])(i)?)?B?", str(value).strip(), re.IGNORECASE | re.ASCII
    )
    if not match:
        return None
    number, unit, binary = match.groups()
    found = float(number) * (1024 if binary else 1000) ** " KMGT".index((unit or " ").upper())
    return int(found) if math.isfinite(found) else None
