"""Bars as inline SVG. Colours are classes of the page's style: a page that allows no inline style has no
other way, and dark and light differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, ROW, NAMES, VALUES = 860.0, 30.0, 250.0, 190.0
"""The width of a plot, the height of a row, and the room of the names and of the values, in pixels."""
LETTERS = 36


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its value and quartiles, the class of its colour, and the words behind it."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = ""
    note: str = ""


def bars(rows: Sequence[Bar], text: Callable[[float], str], title: str) -> Markup:
    """Return a plot of horizontal bars from 0, the values as `text` writes them. '' where there are none."""
    if not rows:
        return Markup("")
    most = max(max(row.value, row.high or 0.0) for row in rows) or 1.0
    room = WIDTH - NAMES - VALUES
    lines = []
    for number, row in enumerate(rows):
        top = number * ROW
        lines.append(
            _text(NAMES - 10, top + 19, _short(row.name), "name", row.name)
            + Markup('<rect class="track" x="{}" y="{}" width="{}" height="16"/>').format(
                NAMES, top + 6, room
            )
            + Markup('<rect class="bar {}" x="{}" y="{}" width="{:.1f}" height="16"/>').format(
                row.kind, NAMES, top + 6, room * row.value / most
            )
            + _whisker(row, top, room / most)
            + _text(NAMES + room + 10, top + 19, f"{text(row.value)}{row.note and '  ' + row.note}", "value")
        )
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, len(rows) * ROW, title, Markup("").join(lines))  # fmt: skip


def _whisker(row: Bar, top: float, scale: float) -> Markup:
    """Return the line between the quartiles."""
    if row.low is None or row.high is None:
        return Markup("")
    return Markup('<path class="whisker" d="M{:.1f} {}v12M{:.1f} {}H{:.1f}M{:.1f} {}v12"/>').format(
        NAMES + row.low * scale, top + 8, NAMES + row.low * scale, top + 14, NAMES + row.high * scale,
        NAMES + row.high * scale, top + 8,
    )  # fmt: skip


def _text(x: float, y: float, text: str, kind: str, title: str = "") -> Markup:
    more = Markup("<title>{}</title>").format(title) if title and title != text else ""
    return Markup('<text class="{}" x="{}" y="{}">{}{}</text>').format(kind, x, y, escape(text), more)


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
