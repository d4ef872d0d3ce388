"""The terminal or pipe that reports are printed on: sentences and tables, safe whatever the names hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from netfuse_onnx.units import size

from .text import printable

__all__ = ["REASONS", "Screen", "size", "some"]

WIDTH = 1000
"""The columns where the output is no terminal: grep would miss a line that is folded."""
REASONS = 10
"""At most so many reasons for replication are printed; --json and inspect have them all."""
NUMBERS = frozenset({"nodes", "batched", "grouped", "shared", "replicated"})
"""Columns that are aligned to the right."""


class Screen(Console):
    """Prints data to stdout, and all else to stderr."""

    def __init__(self, *, data: bool) -> None:
        super().__init__(stderr=not data, highlight=False)
        if not self.is_terminal:
            self.width = WIDTH

    def say(self, text: str) -> None:
        """Print one sentence. A terminal may wrap it, a pipe gets one line. Brackets are no markup."""
        self.print(_text(text), soft_wrap=not self.is_terminal)

    def judged(self, word: str, colour: str, text: str) -> None:
        """Print one sentence behind a word that a terminal shows in a colour."""
        line = Text.assemble("  ", (word, colour), "  ", _text(text))
        self.print(line, soft_wrap=not self.is_terminal)

    def warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self.say(f"netfuse-onnx: warning: {warning}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table."""
        table = Table(box=box.SIMPLE_HEAD if self.is_terminal else None, pad_edge=False)
        for i, column in enumerate(columns):
            number = column in NUMBERS
            table.add_column(
                column, justify="right" if number else "left", overflow="fold", no_wrap=i == 0 and number
            )
        for row in rows:
            table.add_row(*map(_text, row))
        self.print(table)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which means "no" here


def some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _text(text: str) -> Text:
    return Text(printable(text))
