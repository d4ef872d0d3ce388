"""The reports and files from which a page is made, and the check that they are about one merged file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx

from netfuse_onnx import factoring, reading
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.factored import LowRankReport
from netfuse_onnx.load import producer
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.report import MergeReport, VerifyReport
from netfuse_onnx.storage import wire
from netfuse_onnx.types import Producer
from netfuse_onnx.write import fingerprint, metadata

Proven = VerifyReport | MergeReport


@dataclass(frozen=True)
class Material:
    """A merged file and the reports on it. `size` is in bytes, of all `files`. `producers` are those of the
    sources and `sizes` the bytes of their files, empty where the sources are not at hand."""

    path: str
    model: onnx.ModelProto
    about: metadata.Metadata
    files: tuple[str, ...]
    size: int
    fingerprint: str
    producers: tuple[Producer, ...] = ()
    sizes: tuple[int, ...] = ()
    proof: VerifyReport | None = None
    merge: MergeReport | None = None
    bench: BenchReport | None = None

    @property
    def low_rank(self) -> LowRankReport | None:
        return factoring.recorded(self.about.low_rank, self.about.models)

    def having(self, proven: Proven | None, bench: BenchReport | None = None) -> Material:
        """Return the same with these reports. Raises UsageFault for one that is about another file."""
        for report in (proven, bench):
            if report is not None:
                self._refuse_stranger(report)
        if isinstance(proven, MergeReport):
            return replace(self, merge=proven, proof=proven.proof or self.proof, bench=bench or self.bench)
        return replace(self, proof=proven or self.proof, bench=bench or self.bench)

    def _refuse_stranger(self, report: Proven | BenchReport) -> None:
        word = {VerifyReport: "proof", MergeReport: "merge", BenchReport: "measurement"}[type(report)]
        if report.fingerprint == self.fingerprint:
            return
        if not report.fingerprint:
            raise UsageFault(
                f"The report of the {word} does not say which file it is about: it has no fingerprint.",
                "It was made by an older version. Make it again.",
            )
        raise UsageFault(
            f"The report of the {word} is not about {self.path}, but about a file with the fingerprint "
            f"{report.fingerprint[:16]}; this one has {self.fingerprint[:16]}.",
            "Give the report that was made with this file, or make it again.",
        )


def read(path: str, sources: Sequence[str] = ()) -> Material:
    """Return the material of a merged file, without reports. Raises FileFault."""
    about = metadata.read(path)
    scanned = wire.scan(path)
    own = [wire.scan(source) for source in sources if os.path.isfile(source)]
    own = own if len(own) == len(about.models) else []
    return Material(
        path,
        scanned.model,
        about,
        scanned.files,
        sum(map(os.path.getsize, scanned.files)),
        fingerprint.of_model(scanned.model),
        tuple(producer.of(source.model) for source in own),
        tuple(sum(map(os.path.getsize, source.files)) for source in own),
    )


def proven(path: str) -> Proven:
    """Return the report in a file that `verify --json` or `merge --json` printed."""
    value = _report(path)
    if "lowered" in value:
        return reading.report(MergeReport, value, path)
    return reading.report(VerifyReport, value, path)


def measured(path: str) -> BenchReport:
    """Return the report in a file that `bench --json` printed."""
    return reading.report(BenchReport, _report(path), path)


def _report(path: str) -> dict[str, Any]:
    value = reading.document(path)
    error = value.get("error")
    if "models" not in value:
        said = f": {error['message']}" if isinstance(error, dict) and "message" in error else ""
        raise FileFault(f"{path} has no report, but an error{said}", "Make the report again.")
    return value
