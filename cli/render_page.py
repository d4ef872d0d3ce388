"""Prints what became of a page."""

from __future__ import annotations

from netfuse_onnx.page_report import PageReport

from .render_proofs import proofs
from .screen import Screen, size


def page(report: PageReport, console: Screen) -> None:
    """Print the proof that was made for it, and where it is."""
    if report.proof is not None:
        proofs(report.proof, console)
        console.warn(report.proof.warnings)
    with_ = f", with its {' and '.join(report.shown)}" if report.shown else ""
    what = f"the page of {report.merged}{with_}, {report.boxes} boxes, {size(report.size)}"
    console.say(f"{report.out}: {what}. Open it in a browser.")
    if report.fault is not None:
        console.say(f"netfuse-onnx: error: {report.fault.message}")
