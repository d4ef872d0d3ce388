"""Which input or output of another source stands for which of the first: by name, else by position."""

from __future__ import annotations

from collections.abc import Sequence


def pair(first: Sequence[str], other: Sequence[str]) -> dict[str, str]:
    """Names of the first source -> names of the other. Both have as many (match has seen to it)."""
    if set(first) == set(other):
        return {name: name for name in first}
    return dict(zip(first, other, strict=True))
