"""The command serve."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.units import bytes_in

from .text import printable

if TYPE_CHECKING:
    from netfuse_onnx.runtime.cost_table import CostTable


@click.command()
@click.argument("path", metavar="BUNDLE|merged.onnx")
@click.option(
    "--http",
    default="127.0.0.1:8000",
    show_default=True,
    metavar="HOST:PORT",
    help="Port 0 is any free one; '' is no HTTP.",
)
@click.option(
    "--grpc",
    default="127.0.0.1:8001",
    show_default=True,
    metavar="HOST:PORT",
    help="Port 0 is any free one; '' is no gRPC.",
)
@click.option("--name", metavar="FAMILY", help="Of the family.  [default: that of the folder or file]")
@click.option(
    "--repository", default="", metavar="DIR", help="The folder from which other files may be loaded by name."
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="FILE",
    help="A model's own file, in the order of the merge, where there is no bundle.",
)
@click.option("--max-queue", type=click.IntRange(1), metavar="N", help="Requests that wait.  [default: 1024]")
@click.option("--max-bytes", default="64MB", show_default=True, metavar="SIZE", help="Of one request.")
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="In which a request must start.")
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="For accepted requests, when the server is told to end.",
)
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--costs", metavar="FILE.json", help="Write what calls cost here, and serve nothing.")
@click.option("--debug", is_flag=True, expose_value=False, help="On an error, print the traceback.")
def serve(path: str, max_bytes: str, name: str | None, costs: str | None, **given: Any) -> int:
    """Serve the models by the Open Inference Protocol (KServe v2), over HTTP and gRPC.

    Each model has its own name. The family has one, too: rows with an input `model` are answered by the
    models that they name; without it, all models answer. SIGTERM ends the server when all that it accepted
    is answered.

    \b
    Example:
      netfuse-onnx serve bundle
      netfuse-onnx serve merged.onnx --source a.onnx --source b.onnx --http 127.0.0.1:0 --grpc ''
      netfuse-onnx serve bundle --costs costs.json
    """  # fmt: skip
    from netfuse_onnx.server import running

    most = bytes_in(max_bytes)
    if not most:
        raise UsageFault(
            f"{max_bytes!r} is no amount of bytes.", "Write --max-bytes 500KB or --max-bytes 64MB."
        )
    if name is not None:
        given["name"] = name
    if costs is not None:
        opening = {key: given[key] for key in ("sources", "provider", "max_queue", "timeout")}
        with running.opened(path, **opening) as session:
            _write(costs, session.cost_table())
        return 0
    running.serve(path, say=_say, tell_costs=_tell, max_bytes=most, **given)
    return 0


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


def _tell(table: CostTable) -> None:
    from .render_costs import lines

    for line in lines(table):
        _say(line)


def _write(path: str, table: CostTable) -> None:
    """Write the table, in place of none or of another table."""
    import json

    from netfuse_onnx.runtime.cost_table import CostTable

    beside = f"{path}.{os.getpid()}.tmp"
    try:
        if os.path.lexists(path):
            with open(path, encoding="utf-8") as before:
                CostTable.of_dict(json.load(before))
        with open(beside, "x", encoding="utf-8") as file:
            file.write(json.dumps(table.as_dict(), indent=2) + "\n")
        os.replace(beside, path)
    except (OSError, ValueError, FileFault) as error:
        if os.path.exists(beside):
            os.unlink(beside)
        reason = error.strerror if isinstance(error, OSError) else "it is there, and no table of costs"
        raise FileFault(f"{path} can't be written: {reason}.", "Choose another file.") from error
