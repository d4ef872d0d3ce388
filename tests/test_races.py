"""Merges to one target at the same time, kills and readers: short versions of tests/races.py, and each promise alone."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import onnx
import pytest
from families import WIDE, WIDE_WEIGHTS, family, save
from racing import trials
from racing.orders import Duel, content, duels
from racing.orders import write as commit
from racing.steps import Stepped

import netfuse_onnx
from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import steady, wire
from netfuse_onnx.write import digests, lock, placing, staging, writer

models = partial(family, text=WIDE, weights=WIDE_WEIGHTS)
KINDS = ("other content", "the same content", "earlier content", "two targets of one stem", "no data file")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Duel]:
    return duels(tmp_path_factory.mktemp("duels"))


# --------------------------------------------------------------------------- two merges, kills, readers


@pytest.mark.parametrize("kind", KINDS)
def test_two_commits_in_many_orders(pairs: dict[str, Duel], kind: str) -> None:
    """The second comes in before each system call of the first; and some orders with two changes of turn, some with a
    kill. At every moment the target is whole, and a reader of the model before finds its data."""
    duel, dice = pairs[kind], random.Random(3)
    steps = duel.length()
    assert steps > 10
    for before in range(0, steps + 1, 2):
        duel.run(before, 2 * steps)
    for killed in (False, True):
        for _ in range(6):
            duel.run(dice.randrange(steps + 1), dice.randrange(2 * steps), killed=killed)


def test_the_orders_would_show_merges_without_a_lock(
    pairs: dict[str, Duel], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def open_to_all(path: str) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(lock, "exclusive", open_to_all)
    wrong = 0
    for before in range(4, pairs["other content"].length()):
        try:
            pairs["other content"].run(before, 100)
        except AssertionError:
            wrong += 1
    assert wrong > 2


def test_pairs_of_merges() -> None:
    tally = trials.pairs(10, 7)
    assert not tally.faults, tally.faults
    assert tally.counts["pairs of merges"] == 10


def test_kills() -> None:
    tally = trials.kills(12, 7)
    assert not tally.faults, tally.faults
    assert 0 < tally.counts["kills after which the new model stood"] < tally.counts["kills"] == 12


def test_readers_beside_merges() -> None:
    tally = trials.readers(10, 7)
    assert not tally.faults, tally.faults
    assert tally.counts["sessions of ONNX Runtime"] > 5 < tally.counts["reads by inspect"]


def test_the_report_of_a_merge_whose_files_are_gone_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have replaced the file, and what it had, before the report is made."""
    paths, out = models(tmp_path), tmp_path / "m.onnx"
    usual = netfuse_onnx.merge(paths, str(out), data="external", verify=False)
    assert usual.size == sum(os.path.getsize(path) for path in usual.files)
    committed = writer.Staged.commit

    def commit(staged: writer.Staged) -> None:
        committed(staged)
        for path in staged.files:
            os.unlink(path)

    monkeypatch.setattr(writer.Staged, "commit", commit)
    again = netfuse_onnx.merge(paths, str(out), data="external", verify=False)
    assert (again.files, again.size) == (usual.files, usual.size)


# --------------------------------------------------------------------------- the lock


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path, order = str(tmp_path / "lock"), []

    def holder() -> None:
        with lock.exclusive(path) as alone:
            assert alone
            order.append("first")
            started.set()
            time.sleep(0.05)
            order.append("first ends")

    started = threading.Event()
    thread = threading.Thread(target=holder)
    thread.start()
    started.wait()
    with lock.exclusive(path):
        order.append("second")
    thread.join()
    assert order == ["first", "first ends", "second"]
    assert not os.listdir(tmp_path)


def test_a_lock_that_is_never_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge that is stopped while it places its files: the other says so, and leaves all as it was."""
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    merge, out = content(tmp_path / "sources"), tmp_path / "m.onnx"
    stopped = Stepped(lambda begin: commit(merge, out, "external", begin))
    while stopped.at != "replace":
        stopped.step()
    before = set(os.listdir(tmp_path))
    with pytest.raises(FileFault, match="another merge has held") as caught:
        commit(merge, out, "external")
    assert caught.value.hint
    assert set(os.listdir(tmp_path)) == before
    stopped.kill()
    commit(merge, out, "external")
    assert len(os.listdir(tmp_path)) == 3


def test_a_lock_on_the_folder_or_the_target_by_others_is_none_of_ours(tmp_path: Path) -> None:
    """What `flock merged.onnx netfuse-onnx merge ... -o merged.onnx` does."""
    merge, out = content(tmp_path / "sources"), tmp_path / "m.onnx"
    commit(merge, out, "external")
    for path in (tmp_path, out):
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        commit(merge, out, "external")
        os.close(fd)


def test_a_lock_file_that_its_holder_has_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has opened it before gets the lock of a file that nobody finds any more, and must try again."""
    path, opened = str(tmp_path / "lock"), lock._opened

    def late(path: str) -> int:
        fd = opened(path)
        monkeypatch.setattr(lock, "_opened", opened)
        with lock.exclusive(path):
            pass
        return fd

    monkeypatch.setattr(lock, "_opened", late)
    with lock.exclusive(path):
        assert os.path.exists(path)


def test_targets_that_may_share_data_files_share_the_lock(tmp_path: Path) -> None:
    """Names of one stem; and names that some file systems take for one."""
    locks = set()
    for name in ("m.onnx", "m", "M.onnx"):
        one = staging.Staging(str(tmp_path / name))
        locks.add(one._place.lock)
        one.remove()
    assert len(locks) == 1


def test_a_process_forked_under_the_lock_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the lock file can't be removed: it is another user's, in a folder such as /tmp."""
    path, refuse = str(tmp_path / "lock"), lambda path: os.rmdir(path)
    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(lock, "PATIENCE", 0.5)
    with lock.exclusive(path):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with lock.exclusive(path) as alone:
            assert alone
    finally:
        child.kill()
        child.join()


# --------------------------------------------------------------------------- where there are no locks


@pytest.fixture
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(fd: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refused)


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_no_target_breaks(pairs: dict[str, Duel]) -> None:
    """There data files stay for an hour, whoever left them."""
    duel = pairs["other content"]
    steps = duel.length()
    for before in range(0, steps + 1, 3):
        with pytest.raises(AssertionError, match=r"is left$"):  # and nothing else is wrong
            duel.run(before, 2 * steps)


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_old_data_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merges, out = [content(tmp_path / f"{index}") for index in range(4)], tmp_path / "m.onnx"
    for merge in merges[:3]:
        commit(merge, out, "external")
    assert len(list(tmp_path.glob("m-*.data"))) == 3
    late = time.time() + 4000
    monkeypatch.setattr(time, "time", lambda: late)
    commit(merges[3], out, "external")
    assert len(list(tmp_path.glob("m-*.data"))) == 2


# --------------------------------------------------------------------------- data files


def test_the_data_stay_for_readers_of_quick_merges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "READERS_TIME", 0.3)
    out, merges = tmp_path / "m.onnx", [models(tmp_path)]
    for index in range(2):
        (tmp_path / f"{index}").mkdir()
        merges.append([save(tmp_path / f"{index}" / Path(p).name, _changed(p, index)) for p in merges[0]])
    stood = []
    for paths in merges:
        netfuse_onnx.merge(paths, str(out), data="external", verify=False)
        stood.append(time.monotonic())
    assert (
        stood[2] - stood[1] > 0.25
    )  # the third removes the data of the first, whose readers began before `stood[1]`
    assert len(list(tmp_path.glob("m-*.data"))) == 2


def test_a_data_file_that_vanishes_while_it_is_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who takes no lock takes it for an orphan: it is put there again."""
    merge, out, replace = content(tmp_path / "sources"), tmp_path / "m.onnx", os.replace
    out.write_bytes(b"")
    out.chmod(0o640)

    def replaced(old: str, new: str) -> None:
        replace(old, new)
        if new == str(out):
            for path in tmp_path.glob("m-*.data"):
                path.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        commit(merge, out, "external")
    onnx.checker.check_model(str(out))
    (data,) = tmp_path.glob("m-*.data")
    assert data.stat().st_mode & 0o777 == 0o640
    found = data.read_bytes()
    commit(merge, out, "external")
    assert data.read_bytes() == found


def test_without_room_the_data_of_earlier_models_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merges, out = [content(tmp_path / f"{index}") for index in range(3)], tmp_path / "m.onnx"
    for merge in merges[:2]:
        commit(merge, out, "external")
    real, kept = os.statvfs(tmp_path), wire.external_locations(str(out))

    class Disk:
        f_frsize = real.f_frsize

        @property
        def f_bavail(self) -> int:
            return real.f_bavail if len(list(tmp_path.glob("m-*.data"))) < 2 else 1

    monkeypatch.setattr(os, "statvfs", lambda path: Disk())
    model, sources = merges[2]
    with writer.stage(model, str(out), sources, mode="external", metadata={}):
        assert {path.name for path in tmp_path.glob("m-*.data")} == kept
    commit(merges[2], out, "external")
    assert len(list(tmp_path.glob("m-*.data"))) == 2


def test_only_data_files_of_this_target_are_orphans(tmp_path: Path) -> None:
    """Not what merely has such a name: a date has eight hexadecimal digits too."""
    merge, out = content(tmp_path / "sources"), tmp_path / "m.onnx"
    (tmp_path / "m-20260101.data").write_bytes(b"measurements\n" * 100)
    (tmp_path / "m-20260102.data").write_bytes(b"")
    (tmp_path / "m-20260103.data").write_bytes(b"of m" + placing.mark("m"))
    (tmp_path / "m-20260104.data").symlink_to("m-20260106.data")
    os.mkfifo(tmp_path / "m-20260105.data")
    (tmp_path / "m-20260106.data").write_bytes(b"killed" + placing.mark("m.onnx"))
    (tmp_path / "m-20260107.data").write_bytes(placing.mark("m.onnx") + b"more")
    commit(merge, out, "single")
    left = {path.name for path in tmp_path.glob("m-*.data")} | {
        path.name for path in tmp_path.iterdir() if path.is_symlink()
    }
    assert left == {f"m-2026010{digit}.data" for digit in "123457"}


# --------------------------------------------------------------------------- our own readers


def _changed(path: str, by: int) -> onnx.ModelProto:
    proto = onnx.load(path)
    raw = bytearray(proto.graph.initializer[0].raw_data)
    raw[0] ^= by + 1
    proto.graph.initializer[0].raw_data = bytes(raw)
    return proto


def _meanwhile(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, *happens: Callable[[], object]
) -> list[int]:
    """The call `name` of a module is preceded by one of `happens` each time, as long as there are any."""
    real, left, calls = getattr(module, name), list(happens), []

    def call(*given: object, **named: object) -> object:
        calls.append(1)
        if left:
            left.pop(0)()
        return real(*given, **named)

    monkeypatch.setattr(module, name, call)
    return calls


def test_verify_reads_one_version_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is replaced between two of the proof's looks at it: the answer is about the new one."""
    from netfuse_onnx import api

    paths, out = models(tmp_path), str(tmp_path / "m.onnx")
    other = [save(tmp_path / f"other-{Path(path).name}", _changed(path, 1)) for path in paths]
    netfuse_onnx.merge(other, out, names=["a", "b"], data="external", verify=False)

    def right() -> None:
        netfuse_onnx.merge(paths, out, data="external", verify=False)

    looks = _meanwhile(monkeypatch, api.metadata, "recipes", right)
    assert netfuse_onnx.verify(out, paths, provider="cpu").ok
    assert len(looks) == 2


def test_a_file_that_never_rests_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from netfuse_onnx import api, sources

    paths, out = models(tmp_path), str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, out, data="external", verify=False)

    def touched() -> None:
        os.utime(out, ns=(time.time_ns(), time.time_ns()))

    looks = _meanwhile(monkeypatch, api.metadata, "read", *[touched] * 20)
    monkeypatch.setattr(sources, "load", lambda path: 1 / 0)  # what fails is due to the change
    for read in (netfuse_onnx.inspect, lambda path: netfuse_onnx.verify(path, paths, provider="cpu")):
        looks.clear()
        with pytest.raises(
            FileFault, match=r"m\.onnx was replaced or changed while it was read, 5 times"
        ) as caught:
            read(out)
        assert caught.value.hint and len(looks) == steady.ATTEMPTS
    with pytest.raises(FileFault, match=r"m\.onnx was replaced or changed while it was read\."):
        netfuse_onnx.bench(out, paths, rounds=1, seconds=1, provider="cpu")


def test_a_fault_of_an_old_version_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader so slow that two merges come in finds the old model's data gone, and reads the new model."""
    paths, out = models(tmp_path), tmp_path / "m.onnx"
    netfuse_onnx.merge(paths, str(out), data="external", verify=False)
    (data,) = tmp_path.glob("m-*.data")
    data.unlink()
    with pytest.raises(FileFault, match=f"{data.name}, which can't be read"):
        netfuse_onnx.inspect(str(out))
    scan = wire.scan

    def slow(path: str) -> wire.Scanned:
        try:
            return scan(path)
        finally:
            monkeypatch.undo()
            netfuse_onnx.merge(paths, str(out), data="external", verify=False)

    monkeypatch.setattr(wire, "scan", slow)
    assert netfuse_onnx.inspect(str(out)).models == ("a", "b")


@pytest.mark.parametrize("when", ["before its digest", "after its digest"])
@pytest.mark.parametrize("same", [True, False], ids=["rewritten", "changed"])
def test_a_source_that_changes_during_the_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool, when: str
) -> None:
    """A merge without proofs would mix two versions. One that was only written again is taken, if it can be known."""
    from netfuse_onnx import api

    paths, out = models(tmp_path), tmp_path / "m.onnx"
    proto = onnx.load(paths[1]) if same else _changed(paths[1], 1)

    def replaced() -> None:
        os.replace(save(tmp_path / "new", proto), paths[1])

    if when == "before its digest":
        _meanwhile(monkeypatch, digests, "_hash", replaced)
    else:
        hashed = digests.Digests.result
        monkeypatch.setattr(digests.Digests, "result", lambda self: (hashed(self), replaced())[0])
    if same and when == "after its digest":
        api.merge(paths, str(out), verify=False)
        return
    with pytest.raises(FileFault, match=r"b\.onnx was replaced or changed while it was merged"):
        api.merge(paths, str(out), verify=False)
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "b.onnx"]


def test_the_folder_of_a_link_is_not_written_to(tmp_path: Path) -> None:
    """The lock and the hidden folder lie beside the file, whatever name it is reached by."""
    (tmp_path / "models").mkdir()
    (tmp_path / "link.onnx").symlink_to("models/m.onnx")
    by_link, by_name = (staging.Staging(str(tmp_path / name)) for name in ("link.onnx", "models/m.onnx"))
    assert by_link.home == by_name.home == str(tmp_path / "models")
    assert by_link._place.lock == by_name._place.lock
    for one in (by_link, by_name):
        one.remove()
    assert os.listdir(tmp_path / "models") == []
