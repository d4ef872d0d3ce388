"""Values of a TOML file, each checked where it is read. Errors name the file and the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netfuse_onnx.errors import FileFault
from netfuse_onnx.units import bytes_in

MOST = 1e12
"""The largest number of a file: products of several of them are finite."""


class Table:
    """One table of a file: a mapping, and where it stands."""

    def __init__(self, file: str, where: str, given: Any) -> None:
        self.file, self.where = file, where
        if not isinstance(given, Mapping):
            raise self.fault("", f"is {_kind(given)}", "It is a table of keys and values.")
        self.given: Mapping[str, Any] = given

    def fault(self, key: str, what: str, hint: str = "") -> FileFault:
        """Return the error that a key has a wrong value."""
        place = ".".join(part for part in (self.where, key) if part)
        return FileFault(f"{self.file}: {place} {what}.", hint)

    def allow(self, *keys: str) -> None:
        """Refuse other keys than these."""
        for key in self.given:
            if key not in keys:
                raise self.fault(str(key), "is no key that is known", f"Known are: {', '.join(keys)}.")

    def has(self, key: str) -> bool:
        return key in self.given

    def raw(self, key: str) -> Any:
        """Return a value as it is. Raises FileFault where it is missing."""
        if key not in self.given:
            raise self.fault(key, "is missing", "Add it.")
        return self.given[key]

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text that is not empty."""
        if default is not None and key not in self.given:
            return default
        found = self.raw(key)
        if not isinstance(found, str) or not found.strip():
            raise self.fault(key, f"is {_kind(found)}", "It is a text.")
        return found

    def number(
        self, key: str, default: float | None = None, *, least: float = 0.0, above: bool = False
    ) -> float:
        """Return a number that is finite and not below `least`, nor equal to it with `above`."""
        if default is not None and key not in self.given:
            return default
        return self.checked(key, self.raw(key), least=least, above=above)

    def checked(self, key: str, found: Any, *, least: float = 0.0, above: bool = False) -> float:
        """Return a number that was found under a key, checked like `number`."""
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self.fault(key, f"is {_kind(found)}", "It is a number.")
        if found != found:  # only NaN is not itself; math.isnan overflows for large integers
            raise self.fault(key, "is nan", "It is a number.")
        if found > MOST:
            raise self.fault(key, f"is {_told(found)}", f"It is {MOST:g} at most.")
        if found < least or (above and found == least):
            bound = f"more than {least:g}" if above else f"{least:g} or more"
            raise self.fault(key, f"is {_told(found)}", f"It is {bound}.")
        return float(found)

    def whole(self, key: str, default: int | None = None, *, least: int = 0, most: float = MOST) -> int:
        """Return a whole number that is not below `least`, nor above `most`."""
        if default is not None and key not in self.given:
            return default
        found = self.raw(key)
        if isinstance(found, bool) or not isinstance(found, int):
            raise self.fault(key, f"is {_kind(found)}", "It is a whole number.")
        if found > most:
            raise self.fault(key, f"is {_told(found)}", f"It is {most:g} at most.")
        return int(self.checked(key, found, least=least))

    def bytes(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """Return an amount of memory: `8 GB`, or a number of bytes."""
        if default is not None and key not in self.given:
            return default
        return self.amount(key, self.raw(key), least)

    def amount(self, key: str, found: Any, least: int = 0) -> int:
        """Return an amount of memory that was found under a key."""
        size = bytes_in(found) if isinstance(found, str | int) and not isinstance(found, bool) else None
        if size is None:
            raise self.fault(
                key, f"is {_told(found)}, which is no amount of memory", 'Write "8 GB", or bytes.'
            )
        if size < least:
            raise self.fault(key, f"is {_told(found)}", f"It is {least} bytes or more.")
        return size

    def tables(self, key: str) -> list[Table]:
        """Return the tables of an array, at least one."""
        found = self.raw(key)
        if not isinstance(found, Sequence) or isinstance(found, str) or not found:
            raise self.fault(key, f"is {_kind(found)}", f"Write [[{key}]] above each one.")
        return [Table(self.file, f"{key}[{i}]", one) for i, one in enumerate(found)]


def _told(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _kind(found: Any) -> str:
    """Name a value of a wrong type."""
    if isinstance(found, Mapping):
        return "a table"
    if isinstance(found, list):
        return "a list" if found else "an empty list"
    return _told(found)
