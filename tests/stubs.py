"""Runs Python with ONNX Runtime's CUDA build over stub libraries that compute nothing: what CUDA accepts can be
tested on any machine, values can't.

bench/launches/build.sh makes the environment: a folder with `lib` (the stubs) and `venv` (a Python with
onnxruntime-gpu). Tests are skipped where it is not there.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.launches import trace

ROOT = Path(__file__).parent.parent
ENVIRONMENT = trace.environment()
PURE = ("click", "markdown_it", "mdurl", "onnx_graphsurgeon", "pygments", "rich")
"""The packages that this one imports and that environment lacks have no compiled code: any Python takes them."""


def needed() -> None:
    """Skips the test where there is no such environment."""
    if not any((ENVIRONMENT / "lib").glob("libcudart.so*")) or not trace.python_of(ENVIRONMENT).exists():
        pytest.skip(f"bench/launches/build.sh was not run: {ENVIRONMENT} has no stub libraries")


def variables(tmp_path: Path, without: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a process over the stubs, `without` some of the libraries."""
    site, libraries = tmp_path / "site", tmp_path / "lib"
    for folder in (site, libraries):
        folder.mkdir(exist_ok=True)
    for name in PURE:
        found = importlib.util.find_spec(name)
        assert found and found.origin
        where = Path(found.origin)
        link = site / name
        if not link.exists():
            link.symlink_to(where.parent)
    for path in (ENVIRONMENT / "lib").glob("lib*"):
        link = libraries / path.name
        link.unlink(missing_ok=True)
        if path.name not in without:
            link.symlink_to(path)
    search = os.pathsep.join([str(ROOT), str(site)])
    return os.environ | {
        "PYTHONPATH": search,
        "LD_LIBRARY_PATH": str(libraries),
        "ORT_DISABLE_TELEMETRY": "1",
    }


def python(
    tmp_path: Path, *words: str, without: Sequence[str] = (), seconds: float = 240
) -> subprocess.CompletedProcess[str]:
    """`python WORDS` over the stubs."""
    needed()
    command = [str(trace.python_of(ENVIRONMENT)), *words]
    env = variables(tmp_path, without)
    return subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds
    )
