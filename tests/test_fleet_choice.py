"""A plan is no worse than simple ways that meet the same targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from netfuse_onnx import plan_fleet
from netfuse_onnx.fleet.planning import ENOUGH

FLEET = """
p99 = 0.05
spare = 1
machine = [{kind = "small", memory = "3 GB", workers = 4}]
[[family]]
name = "chat"
models = 40
rates = {total = 6000, zipf = 1.0}
weights = "20 MB"
max_models = MOST
overhead = 0.0003
[family.costs]
models = 8
alone = [{rows = 1, seconds = 0.0018}, {rows = 8, seconds = 0.0034}, {rows = 64, seconds = 0.0184}]
merged = [{models = 8, rows = 1, seconds = 0.0032}, {models = 8, rows = 8, seconds = 0.0155}]
"""


@pytest.mark.parametrize("most", [40, 8])
def test_a_simple_way_that_is_cheaper_is_the_plan(most: int, tmp_path: Path) -> None:
    """Larger groups answer this load with fewer machines, once nearly all requests are in merged calls."""
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET.replace("MOST", str(most)))
    report = plan_fleet(file, seconds=4)
    assert report.worst is not None and report.worst <= ENOUGH
    assert all(len(group.models) <= most for group in report.groups)
    assert sorted(model for group in report.groups for model in group.models) == sorted(
        f"chat-{i}" for i in range(1, 41)
    )
    met = [one for one in report.alternatives if one.p99 is not None and one.p99 <= ENOUGH]
    assert met and all(report.price <= one.price for one in met if "own" not in one.name)
