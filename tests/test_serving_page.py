"""The drawing and the table of docs/serving.md are what `make docs` writes."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

from netfuse_onnx import MergedSession
from netfuse_onnx.runtime import errors

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


PAGE = (DOCS / "serving.md").read_text()


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def test_every_option_has_its_line_and_default() -> None:
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", section("Options"), re.MULTILINE)
    told = {name.strip("`"): default for names, default in rows for name in names.split(", ")}
    taken = inspect.signature(MergedSession).parameters
    assert told.keys() == taken.keys() - {"path"}
    for name, parameter in taken.items():
        if isinstance(parameter.default, int | float):
            assert f"{parameter.default}" in told[name].split(", "), name


def test_every_method_of_the_table_is_one() -> None:
    named = re.findall(r"^\| `(?:await )?(\w+)\(", section("Two minutes"), re.MULTILINE)
    assert len(named) == 10 and all(callable(getattr(MergedSession, name)) for name in named)


def test_every_error_has_its_line_with_its_status() -> None:
    told = dict(re.findall(r"^\| `(\w+)`.*\| (\d+) \|$", section("Errors"), re.MULTILINE))
    kinds = {one.__name__: one for one in vars(errors).values() if isinstance(one, type)}
    served = {name: one for name, one in kinds.items() if issubclass(one, errors.ServingError)}
    assert told.keys() == served.keys() - {"ServingError"}
    for name, status in told.items():
        assert str(served[name].http) == status, name
