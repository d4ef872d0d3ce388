"""Measures the figures of README.md and docs/verify.md again and writes them in place.

    python -m sample_models real magika ppocr_det funcnet_head seizure --out build/real
    python docs/figures.py --trained build/real

    python -m sample_models resnet50 --exporter torchscript --out build/full/torchscript/resnet50  # and so on
    python docs/figures.py --full build/full

Every merge is proved. What is not asked for stays as it is.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import netfuse_onnx
from netfuse_onnx.report import MergeReport

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "verify.md")
FULL = {"resnet50": "ResNet-50", "resnext50": "ResNeXt-50", "bert": "BERT-base", "xlnet": "XLNet-base"}
EXPORTERS = {"torchscript": "TorchScript", "dynamo": "dynamo"}
TRAINED = {
    "magika": "magika (file types)",
    "ppocr_det": "ppocr_det (text in images)",
    "funcnet_head": "funcnet_head (traffic signals)",
    "seizure": "seizure (EEG)",
}
SHOWN = ("Mul", "Add", "MatMul", "Conv")
"""Operators whose lines the transcript keeps."""
PROOF = ("Bytes", "Graph", "Values", "Worst", "A mix-up", "Isolation", "Not reached")
"""The beginnings of the lines about the proofs."""
NODES = ("nodes in each source", "nodes merged", "ratio", "at the edge")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", type=Path, help="folder with EXPORTER/NETWORK/*.onnx, four models of each")
    parser.add_argument("--trained", type=Path, help="folder with FAMILY/*.onnx")
    given = parser.parse_args()
    if given.full:
        write("full", "".join(full(given.full)))
    if given.trained:
        write("trained", "".join(trained(given.trained)))
        said = transcript(given.trained / "magika")
        write("transcript", said)
        write("proof", fenced("\n".join(line for line in said.splitlines() if line.startswith(PROOF))))


def full(folder: Path) -> Iterator[str]:
    yield table("network", "exporter", *NODES, "four sources", "merged")
    for name, network in FULL.items():
        for exporter, said in EXPORTERS.items():
            report = merged(folder / exporter / name)
            if len(report.models) != 4 or report.lowered.replicated:
                raise SystemExit(f"{name}: not four models, or something was replicated; mend the text")
            apart = sum(path.stat().st_size for path in (folder / exporter / name).glob(f"{name}-*"))
            size = report.size
            yield row(network, said, *nodes(report), f"{apart / 1e6:.1f} MB", f"{size / 1e6:.1f} MB")


def trained(folder: Path) -> Iterator[str]:
    yield table("family", "models", *NODES, "replicated")
    for name, family in TRAINED.items():
        report = merged(folder / name)
        apart = Counter(row.op for row in report.lowered.replicated)
        listed = ", ".join(f"{count} {op}" for op, count in apart.items())
        yield row(family, len(report.models), *nodes(report), listed)


def transcript(folder: Path) -> str:
    """Return the output of the command, without most lines of its table."""
    names = [path.name for path in sorted(folder.glob("*.onnx"))]
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            Path(work, name).symlink_to((folder / name).resolve())
        command = ["merge", *names, "-o", "merged.onnx"]
        done = subprocess.run(
            [sys.executable, "-m", "netfuse_onnx", *command],
            cwd=work, capture_output=True, text=True, check=True,
        )  # fmt: skip
    lines: list[str] = []
    for line in map(str.rstrip, done.stderr.splitlines()):
        row = re.match(r"(\w+) +\d+ ", line + " ")
        if row and row[1] not in SHOWN:
            line = "..."
        if line != "..." or lines[-1] != "...":
            lines.append(line)
    return fenced("\n".join([f"$ netfuse-onnx {' '.join(command)}", *lines]))


def merged(folder: Path) -> MergeReport:
    paths = sorted(map(str, folder.glob("*.onnx")))
    with tempfile.TemporaryDirectory() as work:
        return netfuse_onnx.merge(paths, f"{work}/merged.onnx")


def write(mark: str, text: str) -> None:
    """Put `text` between `<!-- mark -->` and `<!-- end -->`, in every page that has them."""
    block = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
    for page in PAGES:
        page.write_text(block.sub(lambda found: found[1] + text + found[2], page.read_text()))


def fenced(text: str) -> str:
    return f"```console\n{text}\n```\n"


def table(*columns: str) -> str:
    return row(*columns) + "|" + "---|" * len(columns) + "\n"


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def nodes(report: MergeReport) -> tuple[object, ...]:
    """The cells under NODES."""
    merge = report.lowered
    ratio = f"{merge.merged_nodes / merge.source_nodes:.2f}"
    return merge.source_nodes, merge.merged_nodes, ratio, merge.boundary_nodes


if __name__ == "__main__":
    main()
