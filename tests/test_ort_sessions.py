"""Sessions open with the threads that they should have, and errors say what does not open."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from families import family

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime import threads
from netfuse_onnx.runtime.ort import ALL, CUDA, Setup, cores, open_session, shares_pool
from netfuse_onnx.runtime.own import EMPTY, OwnSessions
from netfuse_onnx.runtime.threads import Threads

POOL = """
import sys, onnxruntime
from netfuse_onnx.runtime.ort import ALL, Setup, open_session, shares_pool
if sys.argv[2] == "shared":
    onnxruntime.set_global_thread_pool_sizes(2, 1)
sessions = [open_session(sys.argv[1], Setup(threads=count)) for count in (1, ALL)]
print(*map(shares_pool, sessions))
if sys.argv[2] == "own":
    onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


@pytest.mark.parametrize(("pool", "shares"), [("own", "False False"), ("shared", "True True")])
def test_sessions_share_the_pool_of_the_process_where_the_program_made_one(
    pool: str, shares: str, tmp_path: Path
) -> None:
    """Without one, none is made: after that, a session that others open with default options is refused."""
    (path,) = family(tmp_path, count=1)
    code = [sys.executable, "-c", POOL, path, pool]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == shares
    assert "Error" not in done.stderr


def test_one_clear_error_for_what_does_not_open(tmp_path: Path) -> None:
    (path,) = family(tmp_path, count=1)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(FileFault, match=r"text\.onnx"):
        open_session(tmp_path / "text.onnx", Setup())
    with pytest.raises(FileFault, match=r"absent\.onnx"):
        open_session(tmp_path / "absent.onnx", Setup())
    with pytest.raises(UsageFault, match="OddProvider"):
        open_session(path, Setup(providers=("OddProvider",)))
    with pytest.raises(FileFault, match="library"):
        open_session(path, Setup(libraries=(str(tmp_path / "library.so"),)))
    assert not shares_pool(open_session(path, Setup(threads=ALL)))
    assert Setup(providers=((CUDA, {"use_tf32": "0"}),)).on_cuda


class _Clock:
    """A clock that only moves when a call takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({1: 1.0, ALL: 1.0}, Threads(1, 8)),  # those between can't serve as much, and are not tried
        ({1: 30e-6, ALL: 15e-6, 2: 30e-6}, Threads(1, 8, 0.5)),
        ({1: 4.0, ALL: 1.0, 4: 1.5, 2: 2.5}, Threads(1, 8, 0.25)),
        ({1: 8.5, ALL: 1.0, 4: 2.5, 2: 4.6}, Threads(ALL, 1)),
        ({1: 8.0, ALL: 1.2, 4: 2.0, 2: 4.2}, Threads(4, 2, 0.6)),
        ({1: 8.0, ALL: 1.5, 4: 3.0, 2: 4.1}, Threads(2, 4, 1.5 / 4.1)),
        ({1: 6.0, ALL: 3.0, 2: 3.0}, Threads(2, 4)),  # all cores are no quicker
    ],
)
def test_the_quickest_call_of_those_that_serve_nearly_the_most(
    times: dict[int, float], chosen: Threads
) -> None:
    clock = _Clock()

    def run(session: int) -> None:
        clock.now += times[session]

    found, sessions = threads.measured(lambda count: count, run, 1000.0, have=8, clock=clock)
    assert (found.threads, found.workers) == (chosen.threads, chosen.workers)
    assert found.on_all == pytest.approx(chosen.on_all)
    assert sessions[chosen.threads] == chosen.threads and set(sessions) >= {1, ALL}


def test_what_the_user_says_about_threads_is_completed() -> None:
    assert threads.given(2, None, have=8) == Threads(2, 4)
    assert threads.given(None, 2, have=8) == Threads(4, 2)
    assert threads.given(3, 5, have=8) == Threads(3, 5)
    assert threads.given(None, None, have=8) is None
    assert threads.given(None, None, have=1) == Threads(1, 1)


def _own(
    most: int | None, sizes: list[int] | None = None, most_bytes: int = 1000
) -> tuple[OwnSessions, list[str]]:
    opened: list[str] = []

    def open(path: str) -> Any:
        opened.append(path)
        return path.upper()

    return OwnSessions("abcd", open, most, sizes or [10] * 4, most_bytes + 3 * EMPTY), opened


def test_the_session_that_was_used_longest_ago_is_closed_first() -> None:
    own, opened = _own(2)
    assert [own.get(model) for model in (0, 1, 0, 2, 0, 1)] == ["A", "B", "A", "C", "A", "B"]
    assert opened == ["a", "b", "c", "b"]
    assert len(own) == 2


def test_sessions_are_kept_by_their_bytes_and_one_always() -> None:
    own, opened = _own(None, [10, 10, 10, 4 * EMPTY], most_bytes=25)
    for model in (0, 1, 2, 1):
        own.get(model)
    assert opened == ["a", "b", "c"]
    assert len(own) == 2
    assert own.get(3) == "D"
    assert own.get(3) == "D"
    assert len(own) == 1
    own.clear()
    assert not len(own)


def test_two_threads_open_a_session_once() -> None:
    both, opened = threading.Barrier(2), list[str]()

    def open(path: str) -> str:
        opened.append(path)
        return path

    own = OwnSessions(["a"], open, 4, [1])

    def get() -> None:
        both.wait()
        own.get(0)

    workers = [threading.Thread(target=get) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert opened == ["a"]


def test_a_session_that_does_not_open_is_tried_again() -> None:
    states = iter([FileFault("no"), "A"])

    def open(path: str) -> str:
        state = next(states)
        if isinstance(state, Exception):
            raise state
        return state

    own = OwnSessions(["a"], open, 4, [1])
    with pytest.raises(FileFault):
        own.get(0)
    assert own.get(0) == "A"


def test_a_container_has_the_cores_that_its_time_makes_up(tmp_path: Path) -> None:
    limit = tmp_path / "cpu.max"
    free = cores(str(tmp_path / "absent"))
    for text, allowed in (("max 100000", free), ("50000 100000", 1), ("150000 100000", min(free, 2))):
        limit.write_text(text + "\n")
        assert cores(str(limit)) == allowed


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match=r"nothing\.onnx does not exist\."):
        open_session(tmp_path / "nothing.onnx", Setup())
