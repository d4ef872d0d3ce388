"""The command verify."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

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

WITH_DIGESTS = frozenset({"merged", "models", "adapters", "digests", "junit", "as_json", "debug"})
"""The options that `--digests` has; all others are about proofs that it does not make."""


@click.command()
@click.argument("merged", metavar="merged.onnx")
@models_argument
@adapter_option
@click.option("--strict", is_flag=True, help="Fail where an output's values can't tell two models apart.")
@click.option(
    "--isolation", is_flag=True, help="Feed NaN, infinities and other sizes to every model in turn."
)
@click.option(
    "--values",
    is_flag=True,
    help="For a file that another tool has changed since the merge (quantised, float16, optimised): compare "
    "values and isolation alone, not bytes and graph.",
)
@click.option(
    "--digests",
    is_flag=True,
    help="Only tell if the models are the files that were merged, by their SHA-256. Runs nothing.",
)
@click.option("--junit", metavar="FILE", help="Write the proofs as JUnit XML, too, for a CI server.")
@proof_options
@common_options
def verify(
    merged: str,
    models: tuple[str, ...],
    adapters: tuple[str, ...],
    digests: bool,
    junit: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Prove a merged file against the models it was made of: bytes, values and graph.

    \b
    Example:
      netfuse-onnx verify merged.onnx a.onnx b.onnx
      netfuse-onnx verify merged.onnx a.onnx b.onnx --isolation --strict
      netfuse-onnx verify merged-float16.onnx a.onnx b.onnx --values
      netfuse-onnx verify merged.onnx base.onnx --adapter a.safetensors --adapter b.safetensors
      netfuse-onnx verify merged.onnx a.onnx b.onnx --junit proofs.xml
      netfuse-onnx verify merged.onnx a.onnx b.onnx --digests
    """
    if digests:
        _refuse_proofs()
    paths, called = sources_of(models, adapters)
    from .junit_file import kept

    with kept(junit, merged, paths) as keep:
        if digests:
            return _digests(merged, paths, called, as_json, keep)
        options = {key: given[key] for key in ("strict", "isolation", "values")} | proof_arguments(given)
        return answer("verify", as_json, merged, paths, names=called, keep=keep, **options)


def _digests(merged: str, paths: tuple[str, ...], called: Any, as_json: bool, keep: Any) -> int:
    """Answer --digests. The verb is not one of api.py, whose imports take longer than the answer."""
    from netfuse_onnx.source_digests import digests

    from . import render

    report = digests(merged, paths, names=called)
    keep(report)
    return render.answer(report, as_json)


def _refuse_proofs() -> None:
    """Raise UsageFault for options of proofs beside --digests: they would do nothing."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if name not in WITH_DIGESTS and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageFault(
                f"{option.opts[0]} is about proofs, and --digests makes none.", "Leave out one of the two."
            )
