"""Writes the drawing of docs/serving.md, docs/img/serving.svg: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

PAGE = Path(__file__).parent / "img" / "serving.svg"
WIDTH, HEIGHT = 960, 280
LINE, GREY = "#737b84", "#57606a"
COLOUR = {"a": "#1f6feb", "b": "#1a7f37", "c": "#bc4c00"}
"""The colour of each model, as in docs/img/merge.svg."""
STYLE = f"""\
text {{ font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: {LINE}; }}
.h {{ font-size: 17px; font-weight: 600; }}
.o {{ font-size: 16px; font-weight: 600; fill: #fff; }}
.n {{ font-size: 15px; }}
.l {{ stroke: {LINE}; stroke-width: 1.5; fill: none; }}
.d {{ stroke: {LINE}; stroke-width: 1.5; fill: none; stroke-dasharray: 4 4; }}"""
ARROW = (
    '<defs><marker id="h" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" '
    f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
)
TITLE = "Requests for single models become merged calls"
ABOUT = (
    "Left: requests for the models a, b and c. Each is checked, then waits in the queue of its model. The "
    "scheduler takes one of two calls: a merged call, with rows of a, b and c side by side, or a call of one "
    "model's view, with a batch of its rows. Both read the weights from one data file."
)
CHIP, STEP = 30, 36
"""The side of the square that stands for a request, and the distance between two of them."""


def main() -> None:
    PAGE.write_text(text())


def text() -> str:
    """Return the drawing."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-labelledby="title desc">'
    )
    about = f'<title id="title">{TITLE}</title>\n<desc id="desc">{ABOUT}</desc>'
    parts = [head, about, f"<style>\n{STYLE}\n</style>", ARROW]
    return "\n".join([*parts, *_requests(), *_queue(), *_calls(), *_data(), "</svg>\n"])


def _requests() -> Iterator[str]:
    yield _text("h", 50, 34, "requests")
    for place, model in enumerate("cacbc"):
        yield _chip(35, 70 + STEP * place, model)
        yield _line(70, 85 + STEP * place, 100, 157)
    yield _box(106, 122, 96, 70, GREY)
    yield from (_text("o", 154, y, words) for y, words in ((150, "check"), (172, "each")))
    yield _line(202, 157, 232, 157)


def _queue() -> Iterator[str]:
    yield _text("h", 318, 34, "a queue per model")
    for row, (model, waiting) in enumerate({"a": 2, "b": 1, "c": 4}.items()):
        y = 94 + 48 * row
        yield f'<rect x="238" y="{y - 6}" width="160" height="42" rx="6" class="l"/>'
        yield from (_chip(363 - STEP * place, y, model) for place in range(waiting))
    yield _line(398, 157, 428, 157)
    yield _box(434, 106, 138, 102, GREY)
    words = ((139, "which way"), (162, "is done"), (185, "first?"))
    yield from (_text("o", 503, y, line) for y, line in words)


def _calls() -> Iterator[str]:
    yield _text("h", 710, 34, "one call")
    yield _line(572, 140, 610, 96)
    for place, model in enumerate(COLOUR):
        yield _box(616 + 64 * place, 60, 60, 50, COLOUR[model])
        yield _text("o", 646 + 64 * place, 91, {"a": "a a", "b": "b", "c": "c c"}[model])
    yield _text("n", 710, 132, "merged: all models")
    yield _line(572, 174, 610, 214)
    yield _box(616, 190, 188, 50, COLOUR["c"])
    yield _text("o", 710, 221, "c c c c")
    yield _text("n", 710, 262, "one model: its view")


def _data() -> Iterator[str]:
    yield _text("h", 893, 34, "weights")
    yield _line(804, 85, 852, 140, style="d")
    yield _line(804, 215, 852, 200, style="d")
    for place, model in enumerate(COLOUR):
        yield _box(858, 85 + 50 * place, 70, 46, COLOUR[model])
        yield _text("o", 893, 114 + 50 * place, model)
    yield _text("n", 893, 262, "stored once")


def _chip(x: float, y: float, model: str) -> str:
    text_ = _text("o", x + CHIP / 2, y + 21, model)
    return f"{_box(x, y, CHIP, CHIP, COLOUR[model])}\n{text_}"


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}"/>'


def _text(style: str, x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _line(x: float, y: float, to_x: float, to_y: float, style: str = "l", *, arrow: bool = True) -> str:
    end = ' marker-end="url(#h)"' if arrow else ""
    return f'<path class="{style}" d="M{x:g} {y:g}L{to_x:g} {to_y:g}"{end}/>'


if __name__ == "__main__":
    main()
