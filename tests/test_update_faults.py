"""update, add and remove: whatever goes wrong, the merged file is the old or the new one, whole; and what is
refused, in one sentence."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from changed_families import Pool, files, pool
from commands import Run, refused
from onnx import numpy_helper
from test_write_crash import calls_of, hidden, in_child, stopping_at

import netfuse_onnx
from netfuse_onnx import FileFault, NotEquivalent, UsageFault, ValuesDiffer
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.write import digests, early, metadata


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it wrote: fsync is for power cuts."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def wide(folder: Path, **options: object) -> tuple[Pool, Path]:
    """A merged file of a, b and c with a data file, and a model d."""
    models = pool(folder, "wide", 4, [0], False, data="external", **options)
    return models, models.fresh("abc", folder / "merged")


def changed(merged: Path, models: Pool) -> None:
    netfuse_onnx.update(str(merged), {"b": models.paths["d"]}, verify=False)


def left(merged: Path) -> set[str]:
    """The files in the folder that are not of the merged file."""
    return set(os.listdir(merged.parent)) - set(files(merged))


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


@pytest.mark.usefixtures("quick")
def test_two_changes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes second would undo the first: it is refused."""
    models, merged = wide(tmp_path)
    real = digests.Digests.confirm
    inner = []

    def confirm(self: digests.Digests) -> None:
        if not inner:
            inner.append(True)
            netfuse_onnx.update(str(merged), {"a": models.paths["d"]}, verify=False)
            monkeypatch.setattr(digests.Digests, "confirm", real)
        real(self)

    monkeypatch.setattr(digests.Digests, "confirm", confirm)
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


# --------------------------------------------------------------------------- proofs


def test_the_proofs_of_a_change(tmp_path: Path) -> None:
    models, merged = wide(tmp_path)
    report = netfuse_onnx.update(str(merged), {"b": models.paths["d"]})
    assert report.ok
    assert report.changes is not None
    assert (report.changes.updated, report.changes.kept, report.changes.notes) == (("b",), ("a", "c"), ())
    assert report.proof is not None
    assert report.proof.kept is not None
    assert report.proof.kept.models == 2
    assert 0 < report.proof.kept.exact == report.proof.kept.outputs
    assert report.sources[0] == f"{merged} (a)"
    checked = netfuse_onnx.verify(str(merged), [models.paths[name] for name in "adc"])
    assert checked.ok


@pytest.mark.parametrize("io", ["separate", "stacked", "selected", "routed"])
def test_proofs_whatever_the_edge(tmp_path: Path, io: str) -> None:
    """The first model has other names than the others, and goes: the graph takes those of the next one."""
    models = pool(tmp_path, "mlp", 4, [0, 1], True, io=io)
    merged = models.fresh("bac", tmp_path / "merged")
    for report in (
        netfuse_onnx.remove(str(merged), ["b"]),
        netfuse_onnx.add(str(merged), [models.paths["d"]], names=["d"]),
        netfuse_onnx.update(str(merged), {"a": models.paths["b"]}),
    ):
        assert report.proof is not None
        assert report.proof.kept is not None
        assert report.proof.kept.ok
        assert report.proof.kept.outputs
    assert netfuse_onnx.verify(str(merged), [models.paths[name] for name in "bcd"]).ok


def _one_byte(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 64]))


@pytest.mark.parametrize("offset", [3, 130 * 256 * 4 + 7, 2 * 130 * 256 * 4 + 2])
def test_a_wrong_byte_in_the_copy(tmp_path: Path, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte of a model that stays, or of the new one, goes wrong on its way: the proof finds it."""
    models, merged = wide(tmp_path)
    before, real = files(merged), digests.Digests.result

    def result(self: digests.Digests) -> tuple[str, ...]:
        for folder in merged.parent.glob(".netfuse-onnx-*"):
            if (folder / "data").exists() and not (folder / "spoilt").exists():
                (folder / "spoilt").touch()
                _one_byte(str(folder / "data"), offset)
        return real(self)

    monkeypatch.setattr(digests.Digests, "result", result)
    with pytest.raises(ValuesDiffer, match="is not 'w1' of"):
        netfuse_onnx.update(str(merged), {"b": models.paths["d"]})
    assert files(merged) == before
    assert not left(merged)


# --------------------------------------------------------------------------- refusals


def test_another_architecture_is_refused_as_by_check(tmp_path: Path) -> None:
    models, merged = wide(tmp_path)
    (tmp_path / "other").mkdir()
    other = pool(tmp_path / "other", "mlp", 1, [0], False).paths["a"]
    before = files(merged)
    with pytest.raises(NotEquivalent) as found:
        netfuse_onnx.update(str(merged), {"b": other}, verify=False)
    assert f"{merged} (a)" in found.value.message
    assert other in found.value.message
    with pytest.raises(NotEquivalent) as wanted:
        netfuse_onnx.merge([models.paths["a"], other], str(tmp_path / "x.onnx"), verify=False)
    assert found.value.message == wanted.value.message.replace(models.paths["a"], f"{merged} (a)")
    assert files(merged) == before
    assert not left(merged)


def without_record(path: Path) -> None:
    """As an older version wrote it."""
    model = onnx.load(path)
    kept = [each for each in model.metadata_props if each.key != "netfuse_onnx.sources"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    path.write_bytes(model.SerializeToString())


def halved(path: Path) -> None:
    """As a tool leaves it that makes float16 of the weights."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == 1:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(without_record, "no record of its sources"), (halved, "The record of the sources in")],
)
def test_files_that_do_not_hold_their_models(
    tmp_path: Path, run: Run, spoil: Callable[[Path], None], said: str
) -> None:
    models = pool(tmp_path, "mlp", 3, [0], False)
    merged = models.fresh("ab", tmp_path / "merged")
    spoil(merged)
    before = files(merged)
    refused(run("update", str(merged), "--model", "b", models.paths["c"]), 3, said)
    assert files(merged) == before
    assert not left(merged)


def test_arguments_that_make_no_sense(tmp_path: Path, run: Run) -> None:
    models = pool(tmp_path, "mlp", 3, [0], False)
    merged = str(models.fresh("ab", tmp_path / "merged"))
    before, new = files(Path(merged)), models.paths["c"]
    refused(run("update", merged, "--model", "z", new), 2, "holds no model 'z'", "It holds: a, b.")
    refused(run("update", merged), 2, "No model was named")
    refused(run("update", merged, "--model", "a", new, "--model", "a", new), 2, "given twice")
    refused(run("update", merged, "--model", "a", "none.onnx"), 3, "none.onnx does not exist")
    refused(run("update", merged, "--model", "a", merged), 2, "is a merged model of a, b")
    refused(run("update", merged, "--model", "a", new, "-o", new), 3, "one of the models' own files")
    refused(run("update", merged, "--model", "a", new, "--dim", "n=2"), 2, "sizes of dimensions")
    refused(run("update", new, "--model", "a", new), 3, "was not written by netfuse-onnx")
    refused(run("add", merged), 2, "No models were given")
    refused(run("add", merged, f"a={new}"), 2, "holds a model 'a' already", "--model a FILE")
    refused(run("remove", merged, "a"), 2, "only b would be left", "netfuse-onnx split")
    refused(run("remove", merged, "a", "b"), 2, "no model would be left")
    refused(run("remove", merged, "z"), 2, "holds no model 'z'")
    assert files(Path(merged)) == before
    with pytest.raises(UsageFault):
        netfuse_onnx.remove(merged, [])


def test_a_bundle_is_refused(tmp_path: Path, run: Run) -> None:
    models = pool(tmp_path, "mlp", 3, [0], False)
    out = str(tmp_path / "bundle")
    netfuse_onnx.merge([models.paths[name] for name in "ab"], out, names="ab", views=True, verify=False)
    refused(run("update", out, "--model", "b", models.paths["c"]), 2, "is a bundle")
    inner = str(next(Path(out).glob("merged-*.onnx")))
    refused(run("update", inner, "--model", "b", models.paths["c"]), 3, "part of a bundle")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path, run: Run) -> None:
    models = pool(tmp_path, "mlp", 3, [0], False)
    merged = models.fresh("ab", tmp_path / "merged")
    merged.parent.chmod(0o555)
    refused(run("update", str(merged), "--model", "b", models.paths["c"]), 3, "may not be written to")
    out = tmp_path / "next.onnx"
    assert (
        run("update", str(merged), "--model", "b", models.paths["c"], "-o", str(out), "--no-verify")[0] == 0
    )
    merged.parent.chmod(0o755)


def test_the_commands_say_what_they_did(tmp_path: Path, run: Run) -> None:
    models = pool(tmp_path, "mlp", 4, [0], False)
    merged = str(models.fresh("ab", tmp_path / "merged"))
    code, _, err = run("add", merged, f"c={models.paths['c']}", models.paths["d"])
    assert code == 0
    assert "added: c, model-3; as before: a, b." in err
    assert "the 2 models that stayed are equal, all bit for bit" in err
    code, out, _ = run("remove", merged, "a", "--no-verify", "--json")
    assert code == 0
    assert '"removed": ["a"]' in out.replace("\n", "").replace("  ", "") or '"removed"' in out
    assert wire.scan(merged).files
