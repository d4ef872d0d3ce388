"""The changes that update, add and remove make to a merged file, as their reports have them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Changes:
    """The models of a merged file that were replaced by new files, those that joined, those that left, and
    those that stayed. `notes` say why a fresh merge of all sources might give other bytes; there are none
    where it gives the same."""

    updated: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
