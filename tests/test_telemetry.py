"""ONNX Runtime's telemetry is off in our processes before the library is loaded: nothing is made, nothing sent."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from families import family

from netfuse_onnx import library

ROOT = Path(__file__).parent.parent
SWITCHES = {
    *("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI"),
    *("CIRCLECI", "TRAVIS", "JENKINS_URL", "BUILDKITE", "TEAMCITY_VERSION", "XDG_CACHE_HOME"),
}
"""What ONNX Runtime looks at: a test that left one set would pass whatever our code does."""


@pytest.mark.parametrize(
    "script",
    [
        "import netfuse_onnx as n; n.merge(['a.onnx', 'b.onnx'], 'm.onnx')",
        "import netfuse_onnx as n; n.merge(['a.onnx', 'b.onnx'], 'm.onnx', verify=False)\n"
        "n.bench('m.onnx', ['a.onnx', 'b.onnx'], seconds=0, rounds=1)",
        "from netfuse_onnx.run.runtime import Runtime, Session\nSession('a.onnx', Runtime('cpu'))",
        "import netfuse_onnx as n; n.merge(['a.onnx', 'b.onnx'], 'm.onnx', verify=False)\n"
        "n.MergedSession('m.onnx', calibrate=0).close()",
    ],
    ids=["merge", "bench, whose workers are processes", "a worker's session", "serving"],
)
def test_nothing_is_written_below_the_home_folder(tmp_path: Path, script: str) -> None:
    family(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    clean = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    environment = clean | {"HOME": str(home), "PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, timeout=300)
    assert list(home.rglob("*")) == []


def test_it_is_off_before_the_library_is_loaded_and_before_anything_else_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The variable is read at load time; the call is for Windows and for what was loaded before."""
    asked: list[str] = []

    class Library(types.ModuleType):
        def __getattribute__(self, name: str) -> object:
            if name.startswith("__"):
                return super().__getattribute__(name)
            asked.append(f"{name} with {os.environ.get('ORT_DISABLE_TELEMETRY')}")
            return lambda *_: None

    monkeypatch.setitem(sys.modules, "onnxruntime", Library("onnxruntime"))
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    library.onnxruntime.__wrapped__()
    assert asked[0] == "disable_telemetry_events with 1"


@pytest.mark.parametrize("folder", ["netfuse_onnx", "cli"])
def test_one_place_loads_the_library(folder: str) -> None:
    """A second import might come first, and load it with telemetry on."""
    for path in (ROOT / folder).rglob("*.py"):
        imported = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if (isinstance(node, ast.Import) and any(a.name.startswith("onnxruntime") for a in node.names))
            or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("onnxruntime"))
        ]
        assert not imported or path.name == "library.py", path
