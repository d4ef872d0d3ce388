"""The drawing and the table of docs/serving.md are what `make docs` writes."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree

DOCS = Path(__file__).parent.parent / "docs"
DRAWINGS = runpy.run_path(str(DOCS / "drawings.py"))


def test_the_drawing_is_what_make_docs_writes() -> None:
    assert DRAWINGS["PAGE"].read_text() == DRAWINGS["text"](), "run `make docs`"


def test_the_drawing_stays_inside_its_frame() -> None:
    """Every rectangle ends before the right and lower edges."""
    root = ElementTree.fromstring(DRAWINGS["text"]())
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    boxes = root.findall("{http://www.w3.org/2000/svg}rect")
    assert len(boxes) > 10
    for box in boxes:
        x, y, wide, high = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x + wide < width and y + high < height


def test_the_tables_are_what_make_docs_writes() -> None:
    """They follow from recorded times and the scheduler, which must not change unnoticed."""
    figures = runpy.run_path(str(DOCS / "serving_figures.py"))
    assert figures["PAGE"].read_text() == figures["text"](), "run `make docs`"
