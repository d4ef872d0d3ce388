"""write: what lands on disk is one valid model, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from merged_files import EMPTY, family, merged, put, source
from model_files import model_of, saved
from onnx import TensorProto, helper, numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import FileFault, InternalError
from netfuse_onnx.lowered import Merged
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Source
from netfuse_onnx.write import digests, writer

RNG = np.random.default_rng(3)


def check_holds(out: Path, paths: Sequence[str]) -> None:
    """The file is a valid model that computes what the sources do, and every weight is proven."""
    onnx.checker.check_model(str(out), full_check=True)
    x = RNG.standard_normal((len(paths), 2, 300)).astype(np.float32)
    got = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    for one, path, result in zip(x, paths, got, strict=True):
        w, b = (numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer)
        np.testing.assert_allclose(result, one @ w + 1 + b, rtol=1e-4, atol=1e-4)
    held = writer.read_merged(str(out))
    for name, recipe in merged(paths).recipes.items():
        assert weights.first_difference(recipe, held[name].data) is None


def listing(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("mode", ["auto", "single"])
def test_a_single_file(tmp_path: Path, mode: writer.Mode) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    before = listing(tmp_path)
    put(paths, out, mode, {"netfuse": "1"})
    assert listing(tmp_path) == ["m.onnx", *before]
    check_holds(out, paths)
    model = onnx.load(out)
    assert {p.key: p.value for p in model.metadata_props} == {"kept": "yes", "netfuse": "1"}
    assert [t.name for t in model.graph.initializer] == ["c", "w", "b"]
    assert out.stat().st_size == model.ByteSize()  # one graph field, exact lengths, nothing else


def test_external_data(tmp_path: Path) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    put(paths, out, "external")
    data = [name for name in listing(tmp_path) if name.endswith(".data")]
    assert len(data) == 1
    assert data[0].startswith("m-")
    check_holds(out, paths)
    skeleton = onnx.load(out, load_external_data=False)
    entries = [
        {e.key: e.value for e in t.external_data} for t in skeleton.graph.initializer if t.external_data
    ]
    assert [entry["location"] for entry in entries] == data * 2
    assert [int(entry["offset"]) % 64 for entry in entries] == [0, 0]
    assert out.stat().st_size < 1000


def test_large_models_go_external_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "INLINE_BELOW", 1000)
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    put(paths, out)
    assert any(name.endswith(".data") for name in listing(tmp_path))
    monkeypatch.setattr(writer, "_PROTOBUF_LIMIT", 1000)
    with pytest.raises(FileFault, match="--single-file"):
        put(paths, out, "single")
    check_holds(out, paths)


@pytest.mark.parametrize("mode", ["single", "external"])
def test_the_same_bytes_wherever_the_sources_lie(tmp_path: Path, mode: writer.Mode) -> None:
    """Same contents, other folder, other time: same names and bytes, also for decoded weights."""
    results = []
    paths = family(tmp_path)
    typed = [helper.make_tensor("w", 7, [300, 8], range(i, i + 2400)) for i in range(2)]
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        copies = [str(folder / os.path.basename(p)) for p in paths]
        for path, copy in zip(paths, copies, strict=True):
            Path(copy).write_bytes(Path(path).read_bytes())
        plan = merged(copies)
        spilled = [saved(folder, model_of(t), f"t{i}.onnx") for i, t in enumerate(typed)]
        parts = tuple(weights.weight_of(wire.scan(p).model.graph.initializer[0]) for p in spilled)
        plan.model.graph.initializer.add(
            name="i", data_type=7, dims=[600, 8], data_location=TensorProto.EXTERNAL
        )
        recipes = {**plan.recipes, "i": Recipe("i", parts, 7, (600, 8))}
        both = [source(p) for p in copies + spilled]
        (folder / "out").mkdir()
        staged = writer.stage(
            Merged(plan.model, recipes, {}), str(folder / "out/m.onnx"), both, mode=mode, metadata={}
        )
        staged.commit()
        results.append({os.path.basename(path): Path(path).read_bytes() for path in staged.files})
    assert results[0] == results[1]
    assert len(results[0]) == (2 if mode == "external" else 1)


def test_other_weights_get_another_data_file(tmp_path: Path) -> None:
    names = set()
    for seed in range(2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        put(family(folder), folder / "m.onnx", "external")
        names |= {name for name in listing(folder) if name.endswith(".data")}
    assert len(names) == 2


def test_metadata_may_hold_the_digests(tmp_path: Path) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    put(paths, out, metadata=lambda found: {"sha256": " ".join(found)})
    stored = {p.key: p.value for p in onnx.load(out).metadata_props}["sha256"]
    assert stored.split() == [hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in paths]


def test_the_digest_of_a_source_with_external_data(tmp_path: Path) -> None:
    """What a shell gives: the digests of its files, one a line, hashed again."""
    onnx.save_model(
        onnx.load(family(tmp_path, 1)[0]),
        tmp_path / "e.onnx",
        save_as_external_data=True,
        location="e.bin",
        size_threshold=0,
    )
    one = source(str(tmp_path / "e.onnx"))
    assert [os.path.basename(f) for f in one.files] == ["e.onnx", "e.bin"]
    command = "sha256sum e.onnx e.bin | cut -d ' ' -f 1 | sha256sum"
    shell = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True)
    want = shell.stdout.decode().split()[0]
    assert digests.Digests([one, one]).result() == (want, want)
    assert digests.of_files(one.files) == want
    check_gone = Source(str(tmp_path / "no"), EMPTY, {}, 8, {}, (str(tmp_path / "no"),))
    with pytest.raises(FileFault, match="does not exist"):
        digests.Digests([check_gone]).result()


def test_digests_started_early(tmp_path: Path) -> None:
    paths = family(tmp_path)
    sources = [source(p) for p in paths]
    with digests.Digests(sources) as early:
        staged = writer.stage(merged(paths), str(tmp_path / "m.onnx"), sources, metadata={}, digests=early)
        assert staged.digests == early.result() == tuple(digests.of_files([p]) for p in paths)
        staged.discard()


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    paths = family(tmp_path)
    seen: list[tuple[str, int, int]] = []
    staged = writer.stage(
        merged(paths),
        str(tmp_path / "m.onnx"),
        [source(p) for p in paths],
        metadata={},
        progress=lambda *args: seen.append(args),
    )
    staged.discard()
    total = 3 * (300 * 8 + 8) * 4
    assert seen[-1] == ("writing the weights", total, total)


# --------------------------------------------------------------------------- the target


def test_nothing_moves_before_the_commit(tmp_path: Path) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    out.write_bytes(b"old")
    before = listing(tmp_path)
    for mode in ("single", "external"):
        with writer.stage(
            merged(paths), str(out), [source(p) for p in paths], mode=mode, metadata={}
        ) as staged:
            assert out.read_bytes() == b"old"
            check_holds(Path(staged.model_path), paths)  # it can be proven where it is
        assert listing(tmp_path) == before
        assert out.read_bytes() == b"old"


def test_the_target_keeps_its_permissions(tmp_path: Path) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    put(paths, out)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~mask
    out.chmod(0o640)
    put(paths, out, "external")
    assert {stat.S_IMODE(f.stat().st_mode) for f in tmp_path.glob("m*")} == {0o640}


def test_the_replaced_models_data_goes_one_merge_later(tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    first, second = family(tmp_path), None
    put(first, out, "external")
    old = next(tmp_path.glob("m-*.data"))
    keep = tmp_path / "m-00000000.data"  # nobody's, but the old model did not use it
    keep.write_bytes(b"")
    second = family(tmp_path)
    put(second, out, "external")
    assert old.exists()  # somebody may have opened the old model, and be about to open this
    assert len(list(tmp_path.glob("m-*.data"))) == 3
    check_holds(out, second)
    put(second, out, "external")  # again: the same name, and it must stay
    assert not old.exists()
    assert keep.exists()
    check_holds(out, second)
    put(second, out, "single")
    assert len(list(tmp_path.glob("m-*.data"))) == 2
    put(second, out, "single")
    assert sorted(tmp_path.glob("m-*.data")) == [keep]


@pytest.mark.parametrize("copy", ["backup.onnx", "m.onnx.bak"])
def test_a_data_file_that_another_model_uses_stays(tmp_path: Path, copy: str) -> None:
    out, backup = tmp_path / "m.onnx", tmp_path / copy
    first = family(tmp_path)
    put(first, out, "external")
    backup.write_bytes(out.read_bytes())
    kept = [Path(p).read_bytes() for p in first]
    put(family(tmp_path), out, "external")
    middle = set(tmp_path.glob("m-*.data"))
    put(family(tmp_path), out, "external")
    put(family(tmp_path), out, "external")
    assert len(middle & set(tmp_path.glob("m-*.data"))) == 1
    for path, content in zip(first, kept, strict=True):
        Path(path).write_bytes(content)
    check_holds(backup, first)
    assert len(list(tmp_path.glob("m-*.data"))) == 3


def test_foreign_data_files_are_never_removed(tmp_path: Path) -> None:
    paths, out = family(tmp_path), tmp_path / "m.onnx"
    onnx.save_model(
        onnx.load(paths[0]), out, save_as_external_data=True, location="m-weights.data", size_threshold=0
    )
    put(paths, out)
    assert (tmp_path / "m-weights.data").exists()


# --------------------------------------------------------------------------- refusals


def test_targets_that_are_refused_before_any_work(tmp_path: Path) -> None:
    paths = family(tmp_path)
    os.symlink(paths[0], tmp_path / "link.onnx")
    os.link(paths[1], tmp_path / "hard.onnx")
    os.mkfifo(tmp_path / "pipe")
    cases: Mapping[str, str] = {
        "s1.onnx": "own files",
        "./s0.onnx": "own files",
        "link.onnx": "own files",
        "hard.onnx": "own files",
        "no/m.onnx": "does not exist",
        "s0.onnx/m.onnx": "not a folder",
        "": "is a folder",
        "pipe": "not a regular file",
        "loop": "levels of symbolic links",
        "to a stream": "device or stream",
        "nowhere": "does not exist",
    }
    os.symlink("loop", tmp_path / "loop")
    os.symlink("/dev/stdout", tmp_path / "to a stream")
    os.symlink("no/m.onnx", tmp_path / "nowhere")
    before = listing(tmp_path)
    for name, says in cases.items():
        with pytest.raises(FileFault, match=says) as caught:
            put(paths, Path(f"{tmp_path}/{name}"))
        assert caught.value.hint
        assert listing(tmp_path) == before


@pytest.mark.parametrize("out", ["/dev/stdout", "/dev/null", "/dev/m.onnx", "/proc/self/fd/1", "/dev/fd/1"])
def test_devices_and_streams_are_no_targets(out: str) -> None:
    """Even where they lead to a regular file, as stdout does in a redirected run."""
    with pytest.raises(FileFault, match="device or stream"):
        writer.check(out, [])


def linked(folder: Path, where: str) -> tuple[Path, Path]:
    """A link over another one to models/v1.onnx, which is not there yet, in the same folder or another; and that
    file."""
    home = folder / "models"
    home.mkdir()
    (home / "hop.onnx").symlink_to("v1.onnx")
    link = home / "current.onnx" if where == "beside" else folder / "current.onnx"
    link.symlink_to("hop.onnx" if where == "beside" else "models/hop.onnx")
    return link, home / "v1.onnx"


LINKS: Sequence[tuple[str, writer.Mode]] = [
    ("beside", "single"), ("beside", "external"), ("elsewhere", "single"), ("elsewhere", "auto"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "mode"), LINKS)
@pytest.mark.parametrize("old", [True, False], ids=["over an old model", "to a new one"])
def test_a_link_stays_a_link_and_its_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, mode: writer.Mode, old: bool
) -> None:
    """What is written loads by all its names. Behind a link from another folder, `auto` is one file."""
    monkeypatch.setattr(writer, "INLINE_BELOW", 1000)
    paths = family(tmp_path)
    link, file = linked(tmp_path, where)
    if old:
        put(paths, file, "external")
    put(family(tmp_path), link, mode)
    assert link.is_symlink() and (file.parent / "hop.onnx").is_symlink()
    assert not file.is_symlink()
    for name in (link, file.parent / "hop.onnx", file):
        check_holds(name, paths)
    put(paths, link, mode)
    links = {link.name, "hop.onnx"} if where == "beside" else {"hop.onnx"}
    assert len(listing(file.parent)) == len(links) + (2 if mode == "external" else 1)


def test_external_data_behind_a_link_from_another_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime refuses such a pair by the name of the link, and onnx also with a link to the data."""
    paths = family(tmp_path)
    link, file = linked(tmp_path, "elsewhere")
    before = listing(tmp_path), listing(file.parent)
    with pytest.raises(FileFault, match="link into another folder") as caught:
        put(paths, link, "external")
    assert str(file) in caught.value.hint
    monkeypatch.setattr(writer, "_PROTOBUF_LIMIT", 1000)
    with pytest.raises(FileFault, match="can have 2 GiB") as caught:
        put(paths, link)
    assert str(file) in caught.value.hint
    assert before == (listing(tmp_path), listing(file.parent))
    with pytest.raises(FileFault, match="link into another folder"):  # before anything is read
        netfuse_onnx.merge(["no/such", "model"], str(link), data="external", verify=False)
    put(paths, file, "external")  # what it would have written:
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail):
        ort.InferenceSession(str(link), providers=["CPUExecutionProvider"])


def test_a_folder_that_is_a_link_is_a_folder(tmp_path: Path) -> None:
    paths = family(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "dir").symlink_to("real")
    put(paths, tmp_path / "dir/m.onnx", "external")
    check_holds(tmp_path / "dir/m.onnx", paths)
    check_holds(tmp_path / "real/m.onnx", paths)


def test_external_data_of_a_source_is_no_target_either(tmp_path: Path) -> None:
    path = family(tmp_path, 1)[0]
    onnx.save_model(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(FileFault, match="own files"):
        writer.check(str(tmp_path / "w.bin"), [source(path)])


def test_weights_without_bytes_are_our_bug(tmp_path: Path) -> None:
    paths = family(tmp_path)
    good = merged(paths)
    for recipes in ({"w": good.recipes["w"]}, {**good.recipes, "z": good.recipes["w"]}):
        with pytest.raises(InternalError, match="lost"):
            writer.stage(Merged(good.model, recipes, {}), str(tmp_path / "m.onnx"), [], metadata={})
    good.model.graph.initializer[0].dims[0] += 1
    with pytest.raises(InternalError, match="shape"):
        writer.stage(good, str(tmp_path / "m.onnx"), [], metadata={})
