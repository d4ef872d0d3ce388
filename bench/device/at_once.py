"""A plugin of pytest: writes each failure to the file FAILURES at once, since a run may be cut short. It
makes the folder cli/ of a checkout the package netfuse_onnx.cli."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netfuse_onnx import __main__

__main__.from_checkout()
LONGEST = 1500
"""Characters of a failure that are kept, from its end."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(os.environ["FAILURES"]).open("a") as file:
            file.write(f"--- {report.nodeid} ({report.when})\n{report.longreprtext[-LONGEST:]}\n")
