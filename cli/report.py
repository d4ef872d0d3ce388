"""The command report."""

from __future__ import annotations

from typing import Any

import click

from netfuse_onnx.errors import UsageFault

from .answering import answer
from .options import (
    adapter_option,
    common_options,
    models_argument,
    proof_arguments,
    proof_options,
    sources_of,
)


@click.command()
@click.argument("merged", metavar="merged.onnx")
@models_argument
@click.option("-o", "--out", required=True, metavar="report.html", help="The page to write.")
@click.option(
    "--verify",
    "proof",
    metavar="FILE.json",
    help="Show this proof: what verify or merge printed with --json.",
)
@click.option("--bench", metavar="FILE.json", help="Show these times: what bench printed with --json.")
@click.option("--force", is_flag=True, help="Replace a file that is no report.")
@click.option("--isolation", is_flag=True, help="With sources: as verify --isolation.")
@adapter_option
@proof_options
@common_options
def report(
    merged: str,
    models: tuple[str, ...],
    adapters: tuple[str, ...],
    out: str,
    proof: str | None,
    bench: str | None,
    force: bool,
    isolation: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Write a page about a merged file: the family, the graph, the plan, the proofs, and how to run it.

    It is one HTML file that loads nothing. With the models, the merged file is proven now, and the exit code
    is that of verify.

    \b
    Example:
      netfuse-onnx report merged.onnx -o report.html
      netfuse-onnx report merged.onnx a.onnx b.onnx -o report.html
      netfuse-onnx report merged.onnx -o report.html --verify proof.json --bench times.json
    """
    paths, called = sources_of(models, adapters) if models or adapters else ((), None)
    if proof and paths:
        raise UsageFault("--verify shows a proof, and the models make one.", "Give one of the two.")
    shown: dict[str, Any] = {"verify": proof, "bench": bench, "force": force, "isolation": isolation}
    return answer(
        "write_report", as_json, merged, out, paths, names=called, **shown, **proof_arguments(given)
    )
