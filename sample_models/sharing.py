"""`python -m sample_models sharing KIND` writes families whose models share most of their weights."""

from __future__ import annotations

import time
from pathlib import Path

import click

PROGRAM = "python -m sample_models sharing"
EPILOG = f"""\b
Examples:
  {PROGRAM} frozen --network cnn --count 8 --out build/frozen
  {PROGRAM} lora --size base --count 64 --rank 8 --out build/lora
  {PROGRAM} lora --base bert-0.onnx --targets attention/ --count 8 --out build/lora
  {PROGRAM} tenants --count 1000 --rank 4 --out build/tenants

\b
Kinds:
  frozen    the last layers differ (--tail); of --backbones 2, half of the models have the second backbone
  lora      products of attention differ by a product of rank --rank, added to the weights
  tenants   the same with the product apart in the graph; all models read the base's weights from one file
  adapters  the same as files for `merge --adapter`, as PEFT writes them
Networks: encoder (BERT-like classifier), decoder (a step of a Llama-like one), cnn. None needs torch.
"""


@click.command(epilog=EPILOG, context_settings={"max_content_width": 110})
@click.argument("kind", type=click.Choice(["frozen", "lora", "tenants", "adapters"]))
@click.option("--out", required=True, metavar="DIR", help="Folder for base.onnx and the models.")
@click.option("--count", default=4, show_default=True, type=click.IntRange(1), help="Models.")
@click.option(
    "--network", default="encoder", show_default=True, type=click.Choice(["encoder", "decoder", "cnn"])
)
@click.option("--size", default="small", show_default=True, type=click.Choice(["tiny", "small", "base"]))
@click.option("--base", metavar="FILE", help="Copies of this model, in place of --network and --size.")
@click.option("--rank", default=8, show_default=True, type=click.IntRange(1), help="Rank of a difference.")
@click.option(
    "--targets",
    default="attention|self_attn",
    show_default=True,
    metavar="REGEX",
    help="Products with a difference, by the names of node and weight.",
)
@click.option(
    "--tail",
    default=r"pooler|classifier|lm_head|fc\.",
    show_default=True,
    metavar="REGEX",
    help="Weights that differ, of `frozen`, by name.",
)
@click.option("--backbones", default=1, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True, help="Other seed, other weights.")
def sharing(
    kind: str,
    out: str,
    count: int,
    network: str,
    size: str,
    base: str | None,
    rank: int,
    targets: str,
    tail: str,
    backbones: int,
    seed: int,
) -> None:
    """Write base.onnx and COUNT models of one family that share most of their weights. Numbers are random,
    the same in every run. Paths go to stdout, the time to stderr."""
    from netfuse_onnx.errors import FileFault
    from sample_models import copies

    start, folder = time.monotonic(), Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(base) if base else _base(folder, network, size, seed)
        if kind in ("frozen", "lora"):
            changes = (
                copies.trained_tail(path, tail, backbones, seed)
                if kind == "frozen"
                else copies.merged_adapters(path, targets, rank, seed)
            )
            written = copies.write_copies(path, folder, kind, count, changes)
        else:
            write = copies.write_tenants if kind == "tenants" else copies.write_adapters
            written = write(path, folder, count, targets, rank, seed)
        click.echo(path)
        for file in written:
            click.echo(file)
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    except FileFault as error:
        raise click.ClickException(str(error)) from error
    except copies.NothingMatchesError as error:
        raise click.ClickException(
            f"no weight of {path} matches {error}; see --targets and --tail"
        ) from error
    click.echo(f"  {time.monotonic() - start:.1f} s", err=True)


def _base(folder: Path, network: str, size: str, seed: int) -> Path:
    from sample_models.networks import NETWORKS, SIZES

    path = folder / "base.onnx"
    path.write_bytes(NETWORKS[network](SIZES[size], seed).SerializeToString())
    return path
