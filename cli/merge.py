"""The command merge."""

from __future__ import annotations

from typing import Any

import click

from .answering import answer
from .options import (
    WithOptionalValues,
    adapter_option,
    at_least_two,
    combine_option,
    combined,
    common_options,
    data_arguments,
    io_argument,
    io_options,
    low_rank_options,
    models_argument,
    named_models,
    names_option,
    partial_option,
    proof_arguments,
    proof_options,
    simplify_option,
    tune_option,
)
from .text import printable

ARGUMENTS = (
    "io", "routing", "share", "combine", "target", "partial", "strict", "out", "data", "tune", "views",
    "low_rank", "base", "simplify", "portable", "report",
)  # fmt: skip
"""The options that are arguments of the verb as they are."""


@click.command(cls=WithOptionalValues)
@models_argument
@click.option(
    "-o", "--out", required=True, metavar="merged.onnx", help="The file to write; with --views, the folder."
)
@click.option(
    "--views",
    is_flag=True,
    help="Write a folder: the merged file, and for each model a small graph of its own (a view), whose "
    "weights are in the merged file's data.",
)
@adapter_option
@names_option
@io_options
@click.option("--share-input", "share", multiple=True, metavar="NAME", help="Fed once, used by all models.")
@click.option(
    "--target",
    metavar="generic|cpu|cuda|auto|FILE",
    default="generic",
    show_default=True,
    help="generic: batch all that can be batched. Else what is cheapest by measured costs, for the sizes "
    "given by --dim; auto is the provider of this machine; FILE.json is written by bench/calibrate.py on the "
    "machine that will serve.",
)
@combine_option
@tune_option
@low_rank_options
@partial_option
@simplify_option
@click.option(
    "--portable",
    is_flag=True,
    help="Keep the opset and the operators of the sources, and leave out forms that other runtimes than ONNX "
    "Runtime do not run: docs/portability.md.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Fail where a node would be replicated or, with --tune, where no plan is faster than the best "
    "alternative (exit 1), or where an output's values can't tell two models apart (exit 5).",
)
@click.option(
    "--no-verify", is_flag=True, help="Write without the proofs. Needs no ONNX Runtime, but for --tune."
)
@click.option("--external-data", "external", is_flag=True, help="Always write weights to a second file.")
@click.option("--single-file", "single", is_flag=True, help="Always write one file (up to 2 GiB).")
@click.option("--report", metavar="FILE.html", help="Also write a page about the merged file: see report.")
@proof_options
@common_options
def merge(
    models: tuple[str, ...],
    adapters: tuple[str, ...],
    names: str | None,
    no_verify: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Merge models into one graph, prove it equal to them, then write it.

    With --io separate, a symbolic dimension has one size for all models in a call: pad where they differ.

    \b
    Example:
      netfuse-onnx merge a.onnx b.onnx -o merged.onnx
      netfuse-onnx merge a.onnx b.onnx -o merged.onnx --io stacked --share-input image
      netfuse-onnx merge a.onnx b.onnx -o merged.onnx --share-input image --combine mean
      netfuse-onnx merge a.onnx b.onnx -o merged.onnx --tune --dim batch=1,8
      netfuse-onnx merge a.onnx b.onnx -o merged.onnx --io routed
      netfuse-onnx merge a.onnx b.onnx -o merged.onnx --low-rank --base base.onnx
      netfuse-onnx merge a.onnx b.onnx c.onnx -o merged.onnx --io stacked --select
      netfuse-onnx merge a.onnx b.onnx -o served --views
      netfuse-onnx merge a.onnx b.onnx -o merged.onnx --report report.html
      netfuse-onnx merge base.onnx --adapter a.safetensors --adapter tenant-b/ -o merged.onnx
    """
    at_least_two(models, adapters)
    paths, called = named_models(models, names, adapters)
    proof = proof_arguments(given)
    given["io"] = io_argument(given["io"], given["select"])
    given["combine"] = combined(given["combine"])
    given["data"] = data_arguments(given["external"], given["single"])
    given = {key: given[key] for key in ARGUMENTS}
    code = answer("merge", as_json, paths, names=called, verify=not no_verify, **given, **proof)
    if given["report"] and not as_json:
        click.echo(printable(f"{given['report']}: the page of it. Open it in a browser."), err=True)
    return code
