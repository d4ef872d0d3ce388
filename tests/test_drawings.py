"""The drawings of the docs are what `make docs` writes, and are valid XML."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree

DRAWINGS = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "drawings.py"))


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
