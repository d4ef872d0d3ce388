"""Starts the Triton server of `make engines` on a model repository, as a process of its own.

The wheel that carries it has the server and its python backend, which needs one file more: a program that
embeds the version of Python at hand. That program finds packages by the environment around the first `python3`
of PATH, and it reads arrays of numpy 1 alone. So it has an environment of its own: that of the tests, with
numpy 1 in front. Tests that use this are marked `engines`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import free_port, stop

ROOT = Path(__file__).parent.parent
ENGINES = ROOT / "build" / "engines"
WHEEL = ENGINES / "triton"
HOME = WHEEL / "pytriton" / "tritonserver"
PATIENCE = 90.0
"""Seconds to wait for a server that starts, with its models."""


@dataclass(frozen=True)
class Endpoint:
    """A server that runs: its addresses, as HOST:PORT, its process, and the file it writes to."""

    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def triton(repository: Path | str, *arguments: str, ready: bool = True) -> Iterator[Endpoint]:
    """Run Triton on a model repository until the block ends, on free ports of 127.0.0.1.

    The block begins once all models are ready, or, without `ready`, once the server is live. `arguments` are
    more options of the server. What it writes lies beside the repository, in triton.log.
    """
    scratch = Path(repository).parent / "triton-server"
    scratch.mkdir(exist_ok=True)
    log = scratch / "log"
    ports = [free_port() for _ in range(3)]
    named = zip(("http", "grpc", "metrics"), ports, strict=True)
    command = [
        str(HOME / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={_backends(scratch)}",
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1",
        *(f"--{name}-port={port}" for name, port in named),
        "--disable-auto-complete-config", "--log-verbose=0",
        *arguments,
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=_environment(scratch), stdout=file, stderr=file, cwd=scratch, start_new_session=True
        )
    try:
        http, grpc, metrics = (f"127.0.0.1:{port}" for port in ports)
        _wait_for(f"http://{http}/v2/health/{'ready' if ready else 'live'}", process, log)
        yield Endpoint(http, grpc, metrics, process, log)
    finally:
        stop(process)


def _backends(scratch: Path) -> Path:
    """Return a folder with the python backend, and the program of this version of Python in it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = HOME / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        pytest.skip("run `make engines`, which installs a Triton server")
    backends = scratch / "backends"
    if not backends.exists():
        shutil.copytree(HOME / "backends", backends)
        shutil.copy(stub, backends / "python" / stub.name)
    return backends


def _environment(scratch: Path) -> dict[str, str]:
    """Return the variables by which the server finds its libraries and its Python."""
    libraries = [str(WHEEL / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    return os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join([str(_python(scratch) / "bin"), os.environ["PATH"]]),
        "OMP_NUM_THREADS": "1",
    }


def _python(scratch: Path) -> Path:
    """Return an environment with numpy 1, and for the rest the packages of this one."""
    home = scratch / "python"
    if not home.exists():
        venv.create(home)
        (packages,) = home.glob("lib/python*/site-packages")
        lines = [str(ENGINES / "numpy"), f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"]
        (packages / "tests.pth").write_text("\n".join(lines))
    return home


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"Triton did not start: {log.read_text(errors='replace')[-4000:]}")
