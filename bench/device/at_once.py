"""A plugin of pytest: it writes each failure to the file FAILURES at once, and takes the first case of every
test before the second of any, since a run may be cut short. It makes the folder cli/ of a checkout the
package netfuse_onnx.cli."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from netfuse_onnx import __main__

__main__.from_checkout()
LONGEST = 4000
"""Characters of a failure that are kept, from its end."""


broken: list[str] = []
"""The tests after which CUDA can't be used by this process."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """End a worker that has lost the GPU: another takes its place."""
    if broken and "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and ("CUDA failure 7" in report.longreprtext or "CUDA is lost" in report.longreprtext):
        broken.append(report.nodeid)
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(os.environ["FAILURES"]).open("a") as file:
            file.write(f"--- {report.nodeid} ({report.when})\n{report.longreprtext[-LONGEST:]}\n")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests: the first case of every function, then the second of each."""
    places: Counter[str] = Counter()
    order = {}
    for item in items:
        name = item.nodeid.partition("[")[0]
        order[item.nodeid] = places[name]
        places[name] += 1
    items.sort(key=lambda item: order[item.nodeid])
