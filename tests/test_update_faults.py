"""update, add and remove: whatever goes wrong, the merged file is the old or the new one, whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from changed_families import Pool, files, left, wide
from test_write_crash import calls_of, hidden, in_child, stopping_at

import netfuse_onnx
from netfuse_onnx import FileFault
from netfuse_onnx.storage import weights
from netfuse_onnx.write import digests, early, metadata, staging


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote: fsync is for power cuts."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def changed(merged: Path, models: Pool) -> None:
    netfuse_onnx.update(str(merged), {"b": models.paths["d"]}, verify=False)


@pytest.mark.usefixtures("quick")
def test_killed_at_system_calls(tmp_path: Path) -> None:
    """kill -9 before every fifth system call that changes something: the old file or the new one."""
    models, merged = wide(tmp_path)
    before = files(merged)
    kept = tmp_path / "kept"
    shutil.copytree(merged.parent, kept)
    total = calls_of(lambda: changed(merged, models))
    after = files(merged)
    assert after != before
    outcomes = []
    for call in range(1, total + 8, 5):
        shutil.rmtree(merged.parent)
        shutil.copytree(kept, merged.parent)

        def work(call: int = call) -> None:
            with pytest.MonkeyPatch.context() as patch:
                stopping_at(call, lambda: os.kill(os.getpid(), signal.SIGKILL), patch)
                changed(merged, models)
            os._exit(0)

        os.waitpid(in_child(work), 0)
        outcomes.append(files(merged))
        assert outcomes[-1] in (before, after), call
    assert before in outcomes
    assert after in outcomes
    for _ in range(2):
        netfuse_onnx.update(str(merged), {"b": models.paths["d"]}, verify=False)
    assert not hidden(merged.parent)  # the next run removes what a killed one has left
    assert files(merged) == after


def _killed_at_random(tmp_path: Path, count: int) -> None:
    models, merged = wide(tmp_path)
    states = [files(merged)]
    changed(merged, models)
    states.append(files(merged))
    dice = random.Random(3)

    def work() -> None:
        while True:
            for name in ("b", "d"):
                netfuse_onnx.update(str(merged), {"b": models.paths[name]}, verify=False)

    for _ in range(count):
        pid = in_child(work)
        time.sleep(dice.uniform(0.02, 0.4))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert files(merged) in states


@pytest.mark.usefixtures("quick")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    _killed_at_random(tmp_path, 6)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_killed_at_many_random_moments(tmp_path: Path) -> None:
    _killed_at_random(tmp_path, 150)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.usefixtures("quick")
def test_stopped_in_the_middle(tmp_path: Path, stop: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, and a full disk, while the weights are written: nothing stays behind."""
    models, merged = wide(tmp_path)
    before = files(merged)

    def full(*_: object, **__: object) -> None:
        raise stop  # type: ignore[misc]

    monkeypatch.setattr(weights, "copy", full)
    with pytest.raises((KeyboardInterrupt, FileFault)):
        changed(merged, models)
    assert files(merged) == before
    assert not left(merged)


@pytest.mark.parametrize("moment", [(digests.Digests, "confirm"), (staging.Staging, "place")])
@pytest.mark.usefixtures("quick")
def test_two_changes_at_once(
    tmp_path: Path, moment: tuple[type, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that comes second would undo the first: it is refused, up to the moment at which it has the
    lock."""
    models, merged = wide(tmp_path)
    real = getattr(*moment)

    def late(*arguments: object) -> None:
        monkeypatch.setattr(*moment, real)
        netfuse_onnx.update(str(merged), {"a": models.paths["d"]}, verify=False)
        real(*arguments)

    monkeypatch.setattr(*moment, late)
    with pytest.raises(FileFault, match="was replaced or changed while it was merged"):
        changed(merged, models)
    about = metadata.read(str(merged))
    assert about.sha256[0] == digests.of_files([models.paths["d"]])
    assert about.sha256[1] == digests.of_files([models.paths["b"]])
    assert not hidden(merged.parent)


@pytest.mark.usefixtures("quick")
def test_another_target_leaves_the_file_alone(tmp_path: Path) -> None:
    models, merged = wide(tmp_path)
    before = files(merged)
    (tmp_path / "else").mkdir()
    out = tmp_path / "else" / "merged.onnx"
    netfuse_onnx.remove(str(merged), ["b"], out=str(out), verify=False)
    assert files(out) == files(models.fresh("ac", tmp_path / "fresh"))
    assert files(merged) == before
    assert not left(merged)
    assert not left(out)


@pytest.mark.parametrize("cloned", [False, True])
@pytest.mark.usefixtures("quick")
def test_a_copy_that_is_begun_early(tmp_path: Path, cloned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what differs is written where the rest is in the copy; also on a file system that clones."""
    models, merged = wide(tmp_path)
    written, real = [], weights._copy_run

    def clone(source: int, fd: int) -> bool:
        os.pwrite(fd, os.pread(source, 1 << 30, 0), 0)
        return True

    def copy_run(part: object, start: int, length: int, *rest: object) -> None:
        written.append(length)
        real(part, start, length, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(weights, "_copy_run", copy_run)
    if cloned:
        monkeypatch.setattr(early, "clone", clone)
    changed(merged, models)
    assert written == [130 * 256 * 4]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    paths = [models.paths[name] for name in "adc"]
    netfuse_onnx.merge(paths, str(fresh / "merged.onnx"), names="abc", verify=False, data="external")
    assert files(merged) == files(fresh / "merged.onnx")
