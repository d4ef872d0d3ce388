"""The commands of docs/ray.md that need Ray: `serve run` with the file of that page, and the request to it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import oracle
import pytest
import servers
from families import family

import netfuse_onnx

pytestmark = pytest.mark.engines
if not importlib.util.find_spec("ray"):
    pytest.skip("Ray is missing: make engines", allow_module_level=True)

PAGE = Path(__file__).parent.parent / "docs" / "ray.md"


SHIM = """
import os, sys, time, ray
from ray import serve
from ray.serve.scripts import cli

sys.path.insert(0, ".")
ray.init(num_cpus=4, include_dashboard=False, _temp_dir={short!r}, namespace="serve",
         _node_ip_address="127.0.0.1", object_store_memory=100 << 20)
while True:
    if os.path.exists("serve.yaml"):
        cli(["run", "serve.yaml", "--non-blocking"], standalone_mode=False)
        os.rename("serve.yaml", "done.yaml")
    time.sleep(0.3)
    try:
        stats = serve.get_deployment_handle("served", "models").stats.remote().result(timeout_s=5)
    except Exception:
        continue
    with open("stats.new", "w") as file:
        file.write(f"{{stats['pid']}} {{stats['swaps']}} {{stats['bundle']}}")
    os.rename("stats.new", "stats")
"""
"""It is `serve run serve.yaml`, for each file of that name that comes, in Ray with a folder of its own."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def told(folder: Path, bundle: str) -> list[str]:
    """The process of the replica, its swaps and its bundle, once it serves that."""
    end = time.monotonic() + servers.PATIENCE
    while time.monotonic() < end:
        if (folder / "stats").exists() and (found := (folder / "stats").read_text().split())[2] == bundle:
            return found
        time.sleep(0.1)
    pytest.fail((folder / "log").read_text()[-2000:])


def test_the_page_runs(tmp_path: Path) -> None:
    """The app is written, deployed from the page's file on a free port, and asked as the page does. With the page's other
    file, the replica changes to another bundle without a new process."""
    family(tmp_path, count=3)
    (tmp_path / "moved").mkdir()
    for model, file in zip("abc", "bca", strict=True):
        shutil.copy(tmp_path / f"{file}.onnx", tmp_path / "moved" / f"{model}.onnx")
    other_bundle = str(tmp_path / "other")
    moved = [str(tmp_path / "moved" / f"{model}.onnx") for model in "abc"]
    netfuse_onnx.merge(moved, other_bundle, io="stacked", views=True, verify=False)
    for line in blocks("sh")[0].splitlines():
        words = [sys.executable, "-m", "netfuse_onnx", *shlex.split(line)[1:]]
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    port, short = servers.free_port(), tempfile.mkdtemp(prefix="r", dir="/tmp")
    (tmp_path / "serve.yaml").write_text(blocks("yaml")[0].replace("8000", str(port)))
    shim = tmp_path / "run.py"
    shim.write_text(SHIM.format(short=short))
    os.environ["RAY_AUTH_TOKEN"] = "a" * 64
    (command,) = [one for block in blocks("console") for one in block.splitlines() if "curl" in one]
    health = f"http://127.0.0.1:{port}/v2/health/ready"
    try:
        with servers.running(shim, folder=tmp_path, health=health):
            asked = shlex.split(command.removeprefix("$ ").replace("8000", str(port)))
            url, body = f"http://{asked[2]}", json.loads(asked[4])
            status, answer = servers.ask(url, body)
            before = told(tmp_path, str(tmp_path / "served"))
            again = (tmp_path / "done.yaml").read_text() + blocks("yaml")[1]
            again = again.replace("policies", "served").replace("/mnt/models/served-8", other_bundle)
            (tmp_path / "again.yaml").write_text(again)
            (tmp_path / "again.yaml").rename(tmp_path / "serve.yaml")
            after = told(tmp_path, other_bundle)
            _, other = servers.ask(url, body)
    finally:
        shutil.rmtree(short, ignore_errors=True)
    assert status == 200, answer
    x = np.arange(8, dtype=np.float32)[None]
    for got, file in ((answer, "a.onnx"), (other, "b.onnx")):
        want = oracle.session(str(tmp_path / file), oracle.LEVELS[0]).run(["y"], {"x": x})[0]
        np.testing.assert_allclose(got["outputs"][0]["data"], np.ravel(want), rtol=1e-4)
    assert before[0] == after[0] and (before[1], after[1]) == ("0", "1")  # the same process, and one swap
    shown = next(block.splitlines()[1] for block in blocks("console") if "curl" in block)
    page = json.loads(shown)
    assert page.keys() == answer.keys() and page["outputs"][0]["shape"] == answer["outputs"][0]["shape"]
    np.testing.assert_allclose(page["outputs"][0]["data"], answer["outputs"][0]["data"], rtol=1e-4)
