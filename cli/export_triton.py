"""The command export triton."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netfuse_onnx.errors import UsageFault

from .options import common_options

if TYPE_CHECKING:
    from netfuse_onnx.deploy.triton import TritonReport


@click.command()
@click.argument("served", metavar="BUNDLE|merged.onnx")
@click.option("-o", "--out", required=True, metavar="DIR", help="The model repository to write.")
@click.option(
    "--name", default="", metavar="FAMILY", help="Name of the family's model.  [default: the file's]"
)
@click.option(
    "--endpoint",
    "endpoints",
    multiple=True,
    metavar="MODEL=NAME",
    help="Another name for the endpoint of a model.",
)
@click.option(
    "--backend",
    type=click.Choice(["python", "onnxruntime"]),
    default="python",
    show_default=True,
    help="python: a bundle or merged file, run by netfuse-onnx in the server; onnxruntime: a file merged "
    "with --io routed, run without Python.",
)
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the family runs in the server.",
)
@click.option(
    "--delay",
    type=click.IntRange(0, 10**6),
    default=0,
    show_default=True,
    help="Most microseconds that Triton waits for more requests.",
)
@click.option(
    "--max-queue",
    "queue",
    type=click.IntRange(0),
    default=0,
    help="Most requests that wait in Triton; it costs latency: docs/triton.md.  [default: any]",
)
@click.option("--ort-library", "libraries", multiple=True, metavar="PATH", help="Custom operators; copied.")
@click.option("--link", is_flag=True, help="Link large files into the repository, don't copy them.")
@common_options
def triton(
    served: str,
    out: str,
    name: str,
    endpoints: tuple[str, ...],
    backend: str,
    provider: str,
    delay: int,
    queue: int,
    libraries: tuple[str, ...],
    link: bool,
    as_json: bool,
) -> int:
    """Write a model repository for NVIDIA Triton: the family, and an endpoint for each of its models.

    A repository that this command wrote is replaced as a whole. Needs netfuse-onnx[serve].

    \b
    Example:
      netfuse-onnx export triton served -o repository
      netfuse-onnx export triton served -o repository --endpoint org/a=a --delay 500
      netfuse-onnx export triton routed.onnx -o repository --backend onnxruntime
    """
    from netfuse_onnx.deploy.triton import Options, export

    options = Options(name, _renamed(endpoints), backend, provider == "cuda", delay, queue, link, libraries)
    return _say(export(served, out, options), as_json)


def _renamed(pairs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        model, is_pair, name = pair.rpartition("=")
        if not is_pair or not model:
            raise UsageFault(f"--endpoint {pair} has no model.", "Write --endpoint MODEL=NAME.")
        if model in found:
            raise UsageFault(f"--endpoint names model {model!r} twice.")
        found[model] = name
    return found


def _say(report: TritonReport, as_json: bool) -> int:
    from .screen import Screen, size, some
    from .text import write_json

    if as_json:
        write_json(report.to_json())
        return report.exit_code
    console = Screen(data=False)
    endpoints = tuple(report.endpoints.values())
    console.say(
        f"{report.out}: a repository of Triton, {size(report.size)}. Endpoints: {some(endpoints)}. "
        f"They share the model {report.family} ({report.backend} backend)."
    )
    if not report.batches:
        console.say(
            "Requests run one at a time: the first axes of the models' inputs don't count rows, by which "
            "Triton brings requests together."
        )
    return report.exit_code
