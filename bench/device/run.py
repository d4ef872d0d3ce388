"""Measures merged models on a GPU machine without network, within a fixed time. README.md has the steps.

    python run.py --out OUT --seconds 540                      # on the device, in the project's root
    python run.py --out OUT --provider cpu --tiny --no-unpack  # a trial anywhere, values checked

The order: a check that the provider works; the constants of the cost model (bench/calibrate.py, on CUDA);
values (values.py); plans by measuring (tune.py); the cases of bench/serving.py; single operators
(micro.py). Results of the last two go to OUT/results.jsonl after each way, a line per case. The table is
printed last. `--steps serve` serves merged files (serve.py), before the cases; it is not taken by default.
"""

from __future__ import annotations

import argparse
import lzma
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITE = Path(os.environ.get("KIT_SITE", "/tmp/site"))
CUDA_LIBRARY = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
PIECES = Path("/tmp/pieces")
"""The folder where calls before this one left the whole library, if it did not fit into one."""
ROOM = 2e10
"""Bytes that have to be free in memory, or files go to the disk."""
STEPS = {"calibrate": 20.0, "values": 90.0, "tune": 180.0, "serve": 200.0, "cases": 0.0, "micro": 55.0}
"""The seconds of each step; the cases take what is left. A trial with small networks takes a fifth."""
SHARED = "shared"
"""The step of files that share or choose, which takes all that is left. It is taken where it is asked for."""
USUAL = [step for step in STEPS if step != "serve"]
STEPS_HELP = f"default: all but serve and {SHARED}"
ENDING = 5.0
"""Seconds kept for what comes after a step."""


def main() -> int:
    given = _arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.time() + given.seconds
    if not given.no_unpack:
        unpack(HERE)
    variables = environment(given)
    machine = _said(HERE / "machine.py", given.provider, variables=variables)
    print(machine.stdout, machine.stderr[-3000:], sep="", flush=True)
    (given.out / "machine.txt").write_text(machine.stdout + machine.stderr)
    if machine.returncode:
        print("The provider does not work: see above, and README.md, 'If the library does not load'.")
        return 3
    with tempfile.TemporaryDirectory(prefix="netfuse-device-", dir=_place(given)) as work:
        code = _steps(given, Path(work), variables, end)
    table = _said(given.repo / "bench" / "table.py", str(given.out), variables=variables).stdout
    (given.out / "table.txt").write_text(table)
    print(table)
    return code


def _steps(given: argparse.Namespace, work: Path, variables: dict[str, str], end: float) -> int:
    """Take the steps that were asked for. Returns the exit code of the cases."""
    all_steps = STEPS | {"values": given.values, "tune": given.tune}
    seconds = {step: all_steps[step] / (5 if given.tiny else 1) for step in given.steps if step != SHARED}
    code = 0
    if "calibrate" in seconds and given.provider == "cuda":
        words = ["--provider", "cuda", "--seconds", seconds["calibrate"], "--out", given.out / "cuda.json"]
        script = given.repo / "bench" / "calibrate.py"
        _run(given, script, words, variables, seconds["calibrate"] + 2 * ENDING)
    if "values" in seconds:
        words = ["--out", given.out, "--graphs", given.graphs, "--repo", given.repo]
        words += ["--provider", given.provider, "--seconds", seconds["values"]]
        _run(given, HERE / "values.py", words, variables, seconds["values"] + 2 * ENDING)
    if "tune" in seconds:
        until = min(time.time() + seconds["tune"], end - ENDING)
        words = ["--out", given.out, "--graphs", given.graphs, "--work", work, "--until", until]
        words += ["--provider", given.provider, *(["--tiny"] if given.tiny else [])]
        words += ["--only", *given.only] if given.only else []
        _run(given, HERE / "tune.py", words, variables, until - time.time() + ENDING)
    if SHARED in given.steps:
        code = _shared(given, work, variables, end - ENDING)
    if "serve" in seconds:
        until = min(time.time() + seconds["serve"], end - ENDING)
        words = ["--out", given.out, "--graphs", given.graphs, "--work", work, "--until", until]
        words += ["--provider", given.provider, *(["--tiny"] if given.tiny else [])]
        words += ["--unchecked"] if given.unchecked else []
        words += ["--only", *given.only] if given.only else []
        _run(given, HERE / "serve.py", words, variables, until - time.time() + ENDING)
    if "cases" in seconds:
        left = end - time.time() - seconds.get("micro", 0.0) - ENDING
        code = _cases(given, work, variables, left)
    if "micro" in seconds and end - time.time() > 2 * ENDING:
        until = end - ENDING
        words = ["--out", given.out / "results.jsonl", "--provider", given.provider, "--work", work]
        words += ["--until", until, *(["--tiny"] if given.tiny else [])]
        _run(given, HERE / "micro.py", words, variables, until - time.time() + ENDING)
    return code


def _shared(given: argparse.Namespace, work: Path, variables: dict[str, str], until: float) -> int:
    """Files that share, choose, route or combine: values and times."""
    path = [given.repo.absolute() / "tests", HERE, variables["PYTHONPATH"]]
    own = variables | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    words: list[object] = ["--out", given.out, "--work", work / SHARED, "--graphs", given.graphs]
    words += ["--repo", given.repo, "--provider", given.provider, "--until", until]
    words += [word for word in ("--tiny", "--unchecked") if getattr(given, word[2:])]
    words += ["--no-values"] if given.values == 0 else []
    words += ["--former"] if given.former else []
    words += ["--only", *given.only] if given.only else []
    return _run(given, HERE / "shared.py", words, own, until - time.time() + ENDING)


def _cases(given: argparse.Namespace, work: Path, variables: dict[str, str], seconds: float) -> int:
    """The cases that there is time for, by the harness of the project."""
    words: list[object] = ["--provider", given.provider, "--graphs", given.graphs, "--work", work / "cases"]
    words += ["--out", work / "results", "--lines", given.out / "results.jsonl", "--budget", seconds]
    words += ["--no-torch", "--counts", 32, 8, "--batches", 1]
    words += [w for w, wanted in (("--tiny", given.tiny), ("--unchecked", given.unchecked)) if wanted]
    words += ["--only", *given.only] if given.only else []
    words += ["--rounds", given.rounds, "--seconds", 3]
    return _run(given, given.repo / "bench" / "serving.py", words, variables, seconds + ENDING)


def _run(
    given: argparse.Namespace, script: Path, words: list[object], variables: dict[str, str], seconds: float
) -> int:
    """Run a script with its output on the screen and in OUT/log.txt. It is stopped when its time is up."""
    command = [sys.executable, str(script), *map(str, words)]
    pipe, joined = subprocess.PIPE, subprocess.STDOUT
    process = subprocess.Popen(
        command, stdout=pipe, stderr=joined, text=True, env=variables, start_new_session=True
    )
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    assert process.stdout
    with (given.out / "log.txt").open("a") as log:
        for line in process.stdout:
            print(line, end="", flush=True)
            log.write(line)
    code = process.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    return code


def _said(script: Path, *words: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def unpack(kit: Path) -> None:
    """ONNX Runtime and the missing packages go to SITE. Python's own lzma is used: there may be no xz."""
    if (SITE / "ready").exists():
        return
    SITE.mkdir(parents=True, exist_ok=True)
    start = time.time()
    (SITE / CUDA_LIBRARY).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:  # lzma frees Python's lock
        library = pool.submit(_unpack_library, kit)
        with tarfile.open(kit / "onnxruntime.tar.xz") as archive:
            archive.extractall(SITE, filter="data")
        for wheel in sorted(kit.glob("*.whl")):
            shutil.unpack_archive(wheel, SITE, "zip")
        library.result()
    (SITE / "ready").touch()
    print(f"unpacked in {time.time() - start:.1f} s")


def _unpack_library(kit: Path) -> None:
    """Pieces of the whole library, if calls before this one left some, else the pruned one."""
    packed = sorted(PIECES.glob("piece-*")) or [kit / f"{Path(CUDA_LIBRARY).name}.xz"]
    unpacker = lzma.LZMADecompressor()
    with (SITE / CUDA_LIBRARY).open("wb") as out:
        for part in packed:
            with part.open("rb") as file:
                while block := file.read(1 << 22):
                    out.write(unpacker.decompress(block))


def environment(given: argparse.Namespace) -> dict[str, str]:
    """CUDA's libraries come with PyTorch's wheels: their folders go on the loader's path."""
    variables = dict(os.environ)
    path = [str(given.repo.resolve()), *([] if given.no_unpack else [str(SITE)])]
    variables["PYTHONPATH"] = os.pathsep.join([*path, variables.get("PYTHONPATH", "")])
    if not given.no_unpack and not given.unchecked:
        roots = [Path(root or ".") for root in sys.path]
        folders = {str(lib.parent) for root in roots for lib in root.glob("nvidia/*/lib/*.so*")}
        known = variables.get("LD_LIBRARY_PATH", "")
        variables["LD_LIBRARY_PATH"] = os.pathsep.join([*sorted(folders), known])
    variables["PYTHONUNBUFFERED"] = "1"
    return variables


def _place(given: argparse.Namespace) -> Path:
    """In memory where there is room, for files are read as often as there are ways."""
    places = [p for p in (Path("/dev/shm"), Path("/tmp")) if os.access(p, os.W_OK)]
    roomy = [p for p in places if shutil.disk_usage(p).free > ROOM]
    place = given.work or (roomy or sorted(places, key=lambda p: -shutil.disk_usage(p).free))[0]
    free = shutil.disk_usage(place).free
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"files go to {place}: {free / 1e9:.0f} GB free; {machine}", flush=True)
    return Path(place)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=540, help="for everything; default: 540")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="resnet50, bert, ...")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, three models")
    parser.add_argument("--rounds", type=int, default=20, help="samples of each way; default: 20")
    parser.add_argument("--values", type=float, default=STEPS["values"], help="seconds; default: %(default)g")
    parser.add_argument("--tune", type=float, default=STEPS["tune"], help="seconds; default: %(default)g")
    parser.add_argument("--steps", nargs="+", choices=[*STEPS, SHARED], default=USUAL, help=STEPS_HELP)
    parser.add_argument("--former", action="store_true", help=f"of {SHARED}, only what failed before")
    parser.add_argument("--no-unpack", action="store_true", help="use the ONNX Runtime that is installed")
    parser.add_argument("--unchecked", action="store_true", help="over stub libraries: values mean nothing")
    parser.add_argument("--graphs", type=Path, default=HERE / "graphs")
    carried = HERE / "project"
    here = carried if carried.is_dir() else Path()
    parser.add_argument("--repo", type=Path, default=here, help="the project; default: this folder")
    parser.add_argument("--work", type=Path, help="folder for models; default: in memory, or /tmp")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
