"""write: whatever goes wrong, the target is the old or the new model, whole, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from merged_files import family, merged, put, source

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import wire
from netfuse_onnx.write import writer

CALLS = (
    "open",
    "mkdir",
    "pwrite",
    "copy_file_range",
    "fsync",
    "replace",
    "rename",
    "unlink",
    "rmdir",
    "fchmod",
)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote: fsync is for power cuts, its order has its own test."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def state(out: Path) -> tuple[bytes, ...] | None:
    """All bytes that the target consists of; raises when it is not whole."""
    if not out.exists():
        return None
    onnx.checker.check_model(str(out))
    names = sorted(wire.external_locations(str(out)))
    return (out.read_bytes(), *((out.parent / name).read_bytes() for name in names))


def hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


def data_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("m-*.data")}


def states(folder: Path, old: writer.Mode, new: writer.Mode) -> tuple[Path, list[str], tuple[bytes, ...]]:
    """A folder with a merged model in it, the sources of the next one, and what that one will be."""
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    first, second = family(folder / "a", 2, 3000), family(folder / "b", 2, 3000)
    out = folder / "m.onnx"
    put(second, out, new)
    after = state(out)
    assert after is not None
    put(first, out, old)
    return out, second, after


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process; returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def stopping_at(call: int, stop: Callable[[], None], patch: pytest.MonkeyPatch) -> list[str]:
    """From now on the `call`-th of CALLS stops, before it does anything. Returns the calls as they come."""
    seen: list[str] = []

    def wrapped(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def replacement(*args: object, **kwargs: object) -> object:
            seen.append(name)
            if len(seen) == call:
                stop()
            return real(*args, **kwargs)

        return replacement

    for name in CALLS:
        patch.setattr(os, name, wrapped(name, getattr(os, name)))
    return seen


def calls_of(work: Callable[[], None]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        seen = stopping_at(-1, lambda: None, patch)
        work()
    return len(seen)


MODES = [("single", "single"), ("external", "external"), ("external", "single"), ("single", "external")]


@pytest.mark.parametrize(("old", "new"), MODES)
def test_killed_at_every_system_call(tmp_path: Path, old: writer.Mode, new: writer.Mode) -> None:
    """kill -9 before each system call that changes something, one after the other."""
    out, paths, after = states(tmp_path, old, new)
    before = state(out)
    total = calls_of(lambda: put(paths, out, new))
    assert state(out) == after
    outcomes = set()
    for call in range(1, total + 1):
        put([p.replace("/b/", "/a/") for p in paths], out, old)
        assert state(out) == before

        def work(call: int = call) -> None:
            with pytest.MonkeyPatch.context() as patch:
                stopping_at(call, lambda: os.kill(os.getpid(), signal.SIGKILL), patch)
                put(paths, out, new)

        os.waitpid(in_child(work), 0)
        outcomes.add(found := state(out))
        assert found in (before, after)
    assert outcomes == {before, after}
    put(paths, out, new)  # and the next run cleans up
    assert not hidden(tmp_path)
    assert data_files(tmp_path) == set(wire.external_locations(str(out)))


@pytest.mark.parametrize(("old", "new"), MODES)
def test_every_system_call_may_fail(tmp_path: Path, old: writer.Mode, new: writer.Mode) -> None:
    code = errno.EIO if old == new else errno.ENOSPC
    out, paths, after = states(tmp_path, old, new)
    before = state(out)
    assert before is not None
    total = calls_of(lambda: put(paths, out, new))
    faults = 0
    for call in range(1, total + 1):
        put([p.replace("/b/", "/a/") for p in paths], out, old)
        put([p.replace("/b/", "/a/") for p in paths], out, old)
        replaced = set(wire.external_locations(str(out)))

        def stop() -> None:
            raise OSError(code, os.strerror(code))

        with pytest.MonkeyPatch.context() as patch:
            seen = stopping_at(call, stop, patch)
            try:
                put(paths, out, new)
            except FileFault as fault:
                faults += 1
                assert fault.hint  # noqa: PT017 -- some failures are survived: those need no fault
        found = state(out)
        assert found in (before, after), seen
        assert data_files(tmp_path) >= set(wire.external_locations(str(out)))
        if seen[call - 1] not in ("unlink", "rmdir", "open"):  # there the cleaning itself was hit
            assert not hidden(tmp_path)
            used = set(wire.external_locations(str(out)))
            assert used <= data_files(tmp_path) <= used | replaced
    assert faults > total // 3


def test_bytes_reach_the_disk_before_names_do(tmp_path: Path) -> None:
    """After a power cut: every file and folder is synced between the change and what relies on it."""
    out, paths, _ = states(tmp_path, "external", "external")
    with pytest.MonkeyPatch.context() as patch:
        seen = stopping_at(-1, lambda: None, patch)
        put(paths, out, "external")
    order = [name for name in seen if name in ("pwrite", "copy_file_range", "fsync", "replace", "unlink")]
    steps = [name for i, name in enumerate(order) if order[i - 1 : i] != [name]]
    assert "".join(step[0] for step in steps[-12:]).endswith("fpf" + "rfrf" + "u" * (steps[-1] == "unlink"))


def test_killed_at_random_moments(tmp_path: Path) -> None:
    out, paths, after = states(tmp_path, "external", "external")
    before = state(out)
    dice = random.Random(5)

    def work() -> None:
        while True:
            put(paths, out, "external")
            put([p.replace("/b/", "/a/") for p in paths], out, "external")

    for _ in range(30):
        pid = in_child(work)
        time.sleep(dice.uniform(0.001, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert state(out) in (before, after)
    for _ in range(2):  # the first may replace a model, whose data file stays until the second
        put(paths, out, "external")
    assert not hidden(tmp_path)
    assert data_files(tmp_path) == set(wire.external_locations(str(out)))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_leave_nothing(tmp_path: Path, kind: type[BaseException]) -> None:
    out, paths, after = states(tmp_path, "external", "external")
    before = state(out)
    total = calls_of(lambda: put(paths, out, "external"))
    for call in range(1, total + 1):
        put([p.replace("/b/", "/a/") for p in paths], out, "external")

        def stop() -> None:
            raise kind

        with pytest.MonkeyPatch.context() as patch:
            seen = stopping_at(call, stop, patch)
            with pytest.raises(kind):
                put(paths, out, "external")
        assert state(out) in (before, after), seen
    put(paths, out, "external")
    assert not hidden(tmp_path)


def test_a_live_run_is_left_alone(tmp_path: Path) -> None:
    """Two runs to one target: neither takes the other's files, the last one wins."""
    out, paths, after = states(tmp_path, "single", "external")
    first = writer.stage(merged(paths), str(out), [source(p) for p in paths], mode="external", metadata={})
    put([p.replace("/b/", "/a/") for p in paths], out, "external")
    assert Path(first.model_path).exists()
    first.commit()
    assert state(out) == after
    assert not hidden(tmp_path)


def test_no_room_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = family(tmp_path)
    real = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize = 1, real.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda path: Full)
    with pytest.raises(FileFault, match="has room for"):
        put(paths, tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["s0.onnx", "s1.onnx", "s2.onnx"]


@pytest.mark.parametrize("mode", ["single", "external"])
def test_a_limit_on_file_size(tmp_path: Path, mode: writer.Mode) -> None:
    """The system's own refusal in the middle of a copy, from the kernel and not from a patch."""
    out, paths, _ = states(tmp_path, "single", mode)
    before = state(out)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            put(paths, out, mode)
        except FileFault as fault:
            os._exit(3 if "that large" in fault.message and not hidden(tmp_path) else 4)

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1]) == 3
    assert state(out) == before
