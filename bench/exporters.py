"""Pairs of one network that were written in different ways: which merge with all proofs, and by which forms.

    python bench/exporters.py
    python bench/exporters.py --only vit llama --full
    python bench/exporters.py --real FOLDER --markdown

The networks of sample_models/exported.py have random weights, others in each file; --full has their full
sizes, which need some GB of memory and disk. --real reads files of packages from a folder, as
real_pairs.txt names them: `package-version__file.onnx`. Files that are not there are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from netfuse_onnx.errors import NetfuseError
from netfuse_onnx.report import MergeReport
from sample_models.exported import NETWORKS
from sample_models.written import Way, write

DYNAMO, DYNAMO20 = Way("dynamo", 18), Way("dynamo", 20)
SCRIPT = {opset: Way("torchscript", opset) for opset in (11, 13, 17, 20)}
KEPT, FUSED = Way("torchscript", 17, "kept"), Way("torchscript", 17, "fused")
WAYS = (
    (DYNAMO, SCRIPT[17]), (DYNAMO20, SCRIPT[20]), (DYNAMO20, SCRIPT[13]), (DYNAMO, DYNAMO20),
    (SCRIPT[11], SCRIPT[17]), (SCRIPT[13], SCRIPT[20]),
)  # fmt: skip
NORMS = ((KEPT, SCRIPT[17]), (KEPT, FUSED), (KEPT, DYNAMO), (Way("dynamo", 18, "kept"), DYNAMO))
REAL = Path(__file__).parent / "real_pairs.txt"


@dataclass
class Row:
    """One pair. `forms` are those that changed one file more often; `failed` is '' where the pair merges."""

    network: str
    one: str
    other: str
    forms: str = ""
    failed: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.network} | {self.one} | {self.other} | {self.failed or 'merges'} | {self.forms}"


def merged(row: Row, one: Path, other: Path, folder: Path) -> Row:
    """Merge a pair with all proofs, and fill in its row."""
    start = time.perf_counter()
    try:
        paths = [str(one), str(other)]
        report = netfuse_onnx.merge(paths, str(folder / "merged.onnx"), names=["a", "b"])
        row.forms = _forms(report)
    except NetfuseError as error:
        row.failed = f"{type(error).__name__}: {error.message}"
    row.seconds = time.perf_counter() - start
    return row


def _forms(report: MergeReport) -> str:
    counts: dict[str, list[str]] = {}
    for form in report.spelling.forms if report.spelling else ():
        counts.setdefault(form.form, []).append(f"{form.count} in {form.model}")
    return ", ".join(f"{form} ({', '.join(some)})" for form, some in counts.items())


def exported(names: Sequence[str], tiny: bool, folder: Path) -> Iterator[Row]:
    """Yield the rows of the networks that torch's exporters write."""
    for name in names:
        network = NETWORKS[name]
        for ways in (*WAYS, *(NORMS if network.has_norms else ())):
            paths = [folder / f"{name}-{seed}.onnx" for seed in range(2)]
            with contextlib.redirect_stdout(io.StringIO()):
                for seed, (way, path) in enumerate(zip(ways, paths, strict=True)):
                    write(network.build(tiny), network.family, network.inputs(tiny), way, path, seed)
            yield merged(Row(name, *map(str, ways)), *paths, folder)


def real(source: Path, folder: Path) -> Iterator[Row]:
    """Yield the rows of the pairs of files that are in a folder."""
    for line in REAL.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        one, other = (source / name for name in line.split())
        if one.exists() and other.exists():
            yield merged(Row("", one.stem, other.stem), one, other, folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), help="These networks.")
    parser.add_argument("--full", action="store_true", help="The networks in full size.")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="Files of packages, in place of exports.")
    parser.add_argument("--markdown", action="store_true", help="Print a table for docs/exporters.md.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="netfuse-exporters-") as name:
        folder = Path(name)
        rows = (
            real(args.real, folder)
            if args.real
            else exported(args.only or list(NETWORKS), not args.full, folder)
        )
        for row in rows:
            text = f"| {row} |" if args.markdown else f"{row} ({row.seconds:.1f} s)"
            print(text.replace(f"{folder}/", ""), flush=True)


if __name__ == "__main__":
    main()
