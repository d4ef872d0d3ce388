"""docs/server.md says what the command takes, and which errors have which statuses."""

from __future__ import annotations

import re
from pathlib import Path

import click
from netfuse_onnx.cli.serve import serve

from netfuse_onnx.runtime import errors

PAGE = (Path(__file__).parent.parent / "docs" / "server.md").read_text()


def test_every_option_has_its_line() -> None:
    told = set(re.findall(r"`(--[a-z-]+)", PAGE.split("\n| option |")[1].split("\n\n")[0]))
    taken = {name for one in serve.params if isinstance(one, click.Option) for name in one.opts}
    assert told == {name for name in taken if name.startswith("--")} - {"--debug"}


def test_every_status_has_its_line() -> None:
    rows = re.findall(r"^\| .* \| (\d{3}) \| (.*) \|$", PAGE, re.MULTILINE)
    told = {int(status): codes for status, codes in rows}
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    for one in kinds:
        if issubclass(one, errors.ServingError):
            assert f"`{one.grpc}`" in told[one.http], one
