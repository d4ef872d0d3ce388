"""Runs Python with ONNX Runtime's CUDA build over stub libraries that compute nothing: what CUDA accepts can be
tested on any machine, values can't.

The environment is a folder with `lib` (the stubs) and `venv` (a Python with onnxruntime-gpu): that of LAUNCHES_ENV,
or `launches` in the user's cache folder. Tests are skipped where it is not there.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = Path(os.environ.get("LAUNCHES_ENV", Path.home() / ".cache/launches"))
PURE = ("click", "markdown_it", "mdurl", "onnx_graphsurgeon", "pygments", "rich")
"""What this package imports and that environment lacks: packages without compiled code, so any Python takes them."""


def needed() -> None:
    """Skips the test where there is no such environment."""
    if not (ENVIRONMENT / "lib/libcudart.so.13").exists() or not (ENVIRONMENT / "venv/bin/python").exists():
        pytest.skip(f"there are no stub CUDA libraries in {ENVIRONMENT}")


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
    command = [str(ENVIRONMENT / "venv/bin/python"), *words]
    env = variables(tmp_path, without)
    return subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds
    )
