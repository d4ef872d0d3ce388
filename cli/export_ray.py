"""The command export ray."""

from __future__ import annotations

import click

from .options import common_options
from .text import printable, write_json


@click.command()
@click.argument("bundles", nargs=-1, required=True, metavar="[NAME=]BUNDLE ...")
@click.option("-o", "--out", required=True, metavar="APP.py", help="The app to write.")
@click.option("--force", is_flag=True, help="Replace a file that is there already.")
@common_options
def ray(bundles: tuple[str, ...], out: str, force: bool, as_json: bool) -> int:
    """Write an app of Ray Serve: a deployment for each family, and a router in front of them.

    A bundle with a relative path is found from the folder of the app, or in another folder that is named when
    the app is deployed.

    \b
    Example:
      netfuse-onnx export ray served -o app.py
      netfuse-onnx export ray policies=served/policies encoders=served/encoders -o app.py
    """
    from netfuse_onnx.deploy.ray import ray as export

    report = export(bundles, out, force=force)
    if as_json:
        write_json(report.to_json())
        return report.exit_code
    for one in report.families:
        click.echo(printable(f"{one.name}: {len(one.models)} models of {one.bundle}"), err=True)
    module = out.removesuffix(".py").rpartition("/")[2]
    click.echo(printable(f"{out}: written. Run it in its folder: serve run {module}:app"), err=True)
    return report.exit_code
