"""Runs that take too long are ended by one thread, which watches all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from netfuse_onnx.run import deadlines
from netfuse_onnx.run.deadlines import Deadlines

LONG, SHORT, MOST = 600.0, 0.02, 20.0
"""Seconds of a run that is never late, of one that is soon, and after which a test fails."""


class Options:
    """RunOptions that tell when they are ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    @property
    def terminate(self) -> bool:
        return self.ended.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        assert value
        self.ended.set()


def test_only_the_run_that_is_late_is_ended() -> None:
    """When the second short one comes, the thread waits for the end of the long one."""
    watched, long = Deadlines(linger=LONG), Options()
    with watched.within(LONG, long):
        for _ in range(2):
            short = Options()
            with watched.within(SHORT, short):
                assert short.ended.wait(MOST)
        assert not long.terminate


@pytest.mark.parametrize("limit", [LONG, float("inf"), 1e300])
def test_a_run_that_comes_after_a_late_one_is_watched(limit: float) -> None:
    watched = Deadlines(linger=LONG)
    for _ in range(2):
        late = Options()
        with watched.within(limit, Options()), watched.within(SHORT, late):
            assert late.ended.wait(MOST)


def test_what_is_done_in_time_is_never_ended() -> None:
    """A later run proves that the thread has seen the deadline of the first."""
    watched, done, late = Deadlines(), Options(), Options()
    with watched.within(SHORT, done):
        pass
    with watched.within(2 * SHORT, late):
        assert late.ended.wait(MOST)
    assert not done.terminate


def test_an_error_ends_the_watch() -> None:
    watched, failed, late = Deadlines(), Options(), Options()
    with pytest.raises(ZeroDivisionError), watched.within(SHORT, failed):
        raise ZeroDivisionError
    with watched.within(2 * SHORT, late):
        assert late.ended.wait(MOST)
    assert not failed.terminate


def test_all_runs_share_one_thread() -> None:
    watched, before = Deadlines(), threading.active_count()
    runs = [Options() for _ in range(20)]
    for options in runs:
        with watched.within(LONG, options):
            assert threading.active_count() == before + 1
    assert not any(options.terminate for options in runs)


def test_the_thread_ends_soon_after_the_last_run() -> None:
    watched, late = Deadlines(linger=SHORT), Options()
    with watched.within(LONG, Options()):
        (thread,) = [one for one in threading.enumerate() if one is watched._thread]
    thread.join(MOST)
    assert not thread.is_alive()
    with watched.within(SHORT, late):
        assert late.ended.wait(MOST)


def test_the_thread_stays_for_a_run() -> None:
    """It looks around many times in the meantime."""
    watched, late = Deadlines(linger=SHORT / 20), Options()
    with watched.within(SHORT, late):
        assert late.ended.wait(MOST)


CHILD = """
import os, sys, threading
from types import SimpleNamespace
from netfuse_onnx.run import deadlines
with deadlines.within(600.0, SimpleNamespace()):
    pass
child = os.fork()
if child == 0:
    ended = threading.Event()
    class Options:
        def __setattr__(self, name, value):
            ended.set()
    with deadlines.within(0.02, Options()):
        os._exit(0 if ended.wait(30) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_the_child_of_a_fork_watches_its_own_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_process_has_one_watch() -> None:
    late = Options()
    with deadlines.within(SHORT, late):
        assert late.ended.wait(MOST)
