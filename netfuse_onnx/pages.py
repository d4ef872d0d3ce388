"""Connects the page of a merged file with the verbs: what is read for it, and when it is made."""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx import sources
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.page import build
from netfuse_onnx.page import material as materials
from netfuse_onnx.page.material import Material
from netfuse_onnx.page_report import PageReport
from netfuse_onnx.report import MergeReport, VerifyReport
from netfuse_onnx.runtime import bundle as bundles


def check(out: str, read: Sequence[str], *, force: bool = False) -> None:
    """Raise UsageFault or FileFault where a page can't be written to `out`, before any work is done."""
    build.check()
    build.check_target(out, tuple(read), force=force)


def merged_path(path: str) -> str:
    """Return the merged file at a path: the file itself, or the one in a bundle."""
    return bundles.read(path).merged_path if bundles.is_bundle(path) else path


def material(
    merged: str,
    paths: Sequence[str],
    verify: str | VerifyReport | MergeReport | None,
    bench: str | BenchReport | None,
) -> Material:
    """Return what the page is made of. Reports are paths of their JSON, or are at hand."""
    proven = materials.proven(verify) if isinstance(verify, str) else verify
    measured = materials.measured(bench) if isinstance(bench, str) else bench
    listed = paths or (proven.sources if isinstance(proven, MergeReport) else ())
    plain = () if sources.base_of(listed) else listed  # an adapter is no file of an exporter
    return materials.read(merged, plain).having(proven, measured)


def of_merge(report: MergeReport, out: str) -> PageReport:
    """Write the page of a file that was merged just now."""
    return build.made(material(merged_path(report.out), (), report, None), out)


def made(found: Material, out: str, proof: VerifyReport | None) -> PageReport:
    """Write the page, with a proof that was made for it."""
    return build.made(found.having(proof) if proof else found, out, proof)
