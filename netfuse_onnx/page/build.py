"""The page itself: the templates of this package, filled and written.

All of it is in one file that loads nothing: its policy allows its own style and script, by their SHA-256, and
no address at all. Jinja2 escapes every name; those in the graph's JSON are escaped by `scene.embedded`.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from netfuse_onnx import __version__, text_files
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.page.graph import Drawing, drawing
from netfuse_onnx.page.layout import places
from netfuse_onnx.page.material import Material
from netfuse_onnx.page_report import PageReport
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.types import Became
from netfuse_onnx.units import duration, size

if TYPE_CHECKING:
    import jinja2

GENERATOR = '<meta name="generator" content="netfuse-onnx'
"""The beginning of the line by which a page is known to be one of ours."""
HEAD = 2048
"""The bytes of a file in which that line is looked for."""
POLICY = (
    "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
    "base-uri 'none'; form-action 'none'"
)


SCRIPTS = ("graph.js", "page.js")


def page(material: Material, drawn: Drawing) -> str:
    """Return the text of the page."""
    environment = _environment()
    from netfuse_onnx.page import scene, sections  # they need what Jinja2 brings

    at = places(len(drawn.boxes), [(arrow.start, arrow.end) for arrow in drawn.arrows])
    style, script = _own("page.css"), _script()
    policy = POLICY.format(style=_digest(style), script=_digest(script))
    return environment.get_template("page.html.j2").render(
        m=material,
        about=material.about,
        lowered=material.about.lowered,
        drawn=drawn,
        counts=_counts(drawn),
        scene=scene.embedded(scene.scene(drawn, at)),
        kinds=scene.KINDS,
        s=sections.sections(material, drawn),
        policy=policy,
        style=style,
        script=script,
        version=__version__,
    )


def _script() -> str:
    """Return the scripts as one, whose names are not those of the window."""
    text = "".join(map(_own, SCRIPTS))
    return f'"use strict";\n(() => {{\n{text}}})();\n'


def _counts(drawn: Drawing) -> Counter[str]:
    return Counter(box.became for box in drawn.boxes)


def check() -> None:
    """Raise UsageFault where a library of the page is missing."""
    _environment()
    places(2, [(0, 1)])


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise UsageFault(
            "Jinja2, which writes the page, is not installed.", "pip install 'netfuse-onnx[report]'"
        ) from error
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(_own),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"size": size, "duration": duration, "micro": _micro, "own": _markup}
    made.filters |= filters
    made.globals["became"] = [str(one) for one in Became]
    return made


@cache
def _own(name: str) -> str:
    """Return a text of this package: a template, the style or the script."""
    return resources.files("netfuse_onnx.page").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _markup(text: str) -> Any:
    """Return text of this package, or that was escaped, as it is."""
    from markupsafe import Markup

    return Markup(text)


def _micro(microseconds: float) -> str:
    """Write microseconds."""
    return duration(microseconds * 1e-6)


# --------------------------------------------------------------------------- the file


def made(material: Material, out: str, proof: VerifyReport | None = None) -> PageReport:
    """Write the page of this material. `proof` is the one that was made for it now."""
    check_target(out, material.files, force=True)
    drawn = drawing(material.model, material.about)
    size = write(page(material, drawn), out)
    shown = {"merge": material.merge, "proof": material.proof, "bench": material.bench}
    names = tuple(name for name, report in shown.items() if report is not None)
    return PageReport(out, material.path, material.about.models, size, len(drawn.boxes), names, proof)


def check_target(out: str, read: tuple[str, ...] = (), *, force: bool = False) -> None:
    """Raise FileFault or UsageFault unless the page may be written to `out`: it is no file that was given,
    and what is there is a page of ours, or `force` allows another one."""
    for path in read:
        if os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path):
            raise UsageFault(f"The report would replace {path}, which it is about.", "Give another file.")
    if os.path.isdir(out):
        raise FileFault(f"{out} is a folder.", "Name a file in it, such as report.html.")
    folder = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(folder):
        raise FileFault(f"{folder} is no folder, so {out} can't be written.", "Make it first.")
    if os.path.lexists(out) and not force and not is_ours(out):
        raise FileFault(f"{out} is there already, and is no report of ours.", "Use --force, or another -o.")


def is_ours(path: str) -> bool:
    """True for a page that an earlier call wrote."""
    try:
        with open(path, "rb") as file:
            return GENERATOR.encode() in file.read(HEAD)
    except OSError as error:
        raise FileFault(f"{path} can't be read: {error.strerror}.", "Give another -o.") from error


def write(text: str, out: str) -> int:
    """Write the page in one step and return its bytes. Raises FileFault, and leaves what is there."""
    text_files.write(out, text)
    return len(text.encode())
