"""Puts each mistake of the list into a copy of the code, and runs the tests that must see it.

    python -m tests.mutants.run                   # all; what `make mutants` does
    python -m tests.mutants.run bias-tolerance    # some, by name or part of it

A mistake that no test sees SURVIVES: then the tests would not notice if somebody made it. First the named tests
must pass on a copy without a mistake. Exit code 0 when all are seen or marked equivalent, else 1.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from . import MUTATIONS
from .mutation import ROOT, Mutation, mutated, place

LIMIT = 120.0
"""Seconds that the tests of one mistake may take."""
WARM_UP_LIMIT = 900.0
"""Seconds that all named tests together may take without a mistake."""
SLIPS = ("NameError", "UnboundLocalError", "SyntaxError", "ImportError")
"""Errors of a mistake that is none, but code that can't run."""
PASSED, FAILED = 0, 1  # exit codes of pytest; all others mean that the tests did not run


@dataclass(frozen=True, slots=True)
class Outcome:
    """The fate of a mistake: `verdict` is caught, SURVIVED, equivalent or BROKEN."""

    mutation: Mutation
    verdict: str
    said: str
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return self.verdict in ("caught", "equivalent")


def main() -> int:
    options = _options()
    chosen = [m for m in MUTATIONS if not options.names or any(part in m.name for part in options.names)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        clean = _copied(Path(folder))
        if not options.no_check and not _passes_unchanged(clean, chosen, options.jobs):
            return 1
        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = list(pool.map(lambda m: _shown(_tried(m, clean, options.tests)), chosen))
    return _summary(outcomes, time.monotonic() - began)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="names of mistakes, or parts of them; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="mistakes tried at once (default 2)")
    parser.add_argument("--no-check", action="store_true", help="skip the run without a mistake")
    parser.add_argument("--tests", nargs="+", help="tests to run in place of those of the list")
    return parser.parse_args()


# --------------------------------------------------------------------------- copies


def _copied(folder: Path) -> Path:
    """The package without a mistake, compiled. Its bytecode is checked by content, not by date, so that no
    mistake is hidden by bytecode from before it."""
    clean = folder / "clean"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "netfuse_onnx", clean / "netfuse_onnx", ignore=ignored)
    shutil.copytree(ROOT / "cli", clean / "netfuse_onnx" / "cli", ignore=ignored)
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(clean, quiet=2, invalidation_mode=mode)
    return clean


def _pytest(home: Path, tests: Iterable[str], limit: float) -> tuple[int | None, str]:
    """The exit code and the output of pytest with the package in `home`; None where it took too long.

    It starts in `home`, so that subprocesses of tests, too, import that copy first.
    """
    places = f"{home} {ROOT} {ROOT / 'tests'}"
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider",
        "--hypothesis-profile=ci", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT),
        "-o", f"pythonpath={places}", "--basetemp", str(home / "tmp"),
        *(str(ROOT / "tests" / test) for test in tests),
    ]  # fmt: skip
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(home), str(ROOT), str(ROOT / "tests"))),
    }
    try:
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


# --------------------------------------------------------------------------- runs


def _passes_unchanged(clean: Path, chosen: Sequence[Mutation], jobs: int) -> bool:
    """True where all named tests pass without a mistake, and on the copy: else nothing is shown by a failure."""
    named = sorted({test for m in chosen for test in m.tests})
    files = sorted({test.partition("::")[0] for test in named})
    shares = [
        [test for test in named if files.index(test.partition("::")[0]) % jobs == k] for k in range(jobs)
    ]

    def run(share: Sequence[str]) -> tuple[int | None, str]:
        home = clean.with_name(f"unchanged-{shares.index(list(share))}")
        shutil.copytree(clean, home)
        return _pytest(home, share, WARM_UP_LIMIT)

    if not _on_the_copy(clean):
        _say("The tests do not import the copy of the package: nothing would be shown.")
        return False
    with ThreadPoolExecutor(jobs) as pool:
        for code, output in pool.map(run, [share for share in shares if share]):
            if code != PASSED:
                _say(
                    f"The named tests do not pass without a mistake:\n{output[-3000:] or 'they took too long'}"
                )
                return False
    _say(f"{len(named)} tests or files pass without a mistake.")
    return True


def _on_the_copy(clean: Path) -> bool:
    """True where pytest imports the package from the copy, cli included: a copy that can't be imported must fail."""
    home = clean.with_name("unreadable")
    shutil.copytree(clean, home)
    for file in ("netfuse_onnx/errors.py", "netfuse_onnx/cli/main.py"):
        (home / file).write_text("raise SystemError('this is the copy')\n")
    outputs = [_pytest(home, [test], LIMIT)[1] for test in ("test_compare.py", "test_cli.py")]
    return all("this is the copy" in output for output in outputs)


def _tried(change: Mutation, clean: Path, tests: Sequence[str] | None) -> Outcome:
    """The verdict on one mistake."""
    if change.equivalent:
        return Outcome(change, "equivalent", change.equivalent)
    home = clean.with_name(change.name)
    shutil.copytree(clean, home)
    try:
        target = home / place(change.file)
        target.write_text(mutated(target.read_text(), change))
        began = time.monotonic()
        code, output = _pytest(home, tests or change.tests, LIMIT)
        seconds = time.monotonic() - began
    except ValueError as fault:
        return Outcome(change, "BROKEN", str(fault))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if code is None:
        return Outcome(change, "caught" if change.hangs else "BROKEN", f"no end after {LIMIT:.0f} s", seconds)
    if code == FAILED and (slip := next((name for name in SLIPS if f"{name}: " in output), "")):
        return Outcome(
            change, "BROKEN", f"the code does not run with it, which shows nothing: {slip}", seconds
        )
    if code == FAILED:
        return Outcome(change, "caught", _failed_test(output), seconds)
    if code == PASSED:
        return Outcome(change, "SURVIVED", f"{change.file}: {change.old!r} -> {change.new!r}", seconds)
    return Outcome(change, "BROKEN", f"the tests did not run: {output.strip()[-600:]}", seconds)


def _failed_test(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[0].split(" - ")[0].partition("tests/")[2] if lines else "a test"


# --------------------------------------------------------------------------- words


def _shown(outcome: Outcome) -> Outcome:
    time_taken = f"{outcome.seconds:5.1f} s" if outcome.seconds else " " * 7
    _say(f"{outcome.verdict:10} {time_taken}  {outcome.mutation.name}: {outcome.said}")
    return outcome


def _summary(outcomes: Sequence[Outcome], seconds: float) -> int:
    counts = {
        v: sum(o.verdict == v for o in outcomes) for v in ("caught", "equivalent", "SURVIVED", "BROKEN")
    }
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    _say(f"{len(outcomes)} mistakes in {seconds:.0f} s: {told}")
    bad = [outcome.mutation.name for outcome in outcomes if not outcome.good]
    if bad:
        _say(f"Not seen by the tests: {', '.join(bad)}")
    return 1 if bad else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
