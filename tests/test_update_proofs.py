"""The proofs of update, add and remove, and what is refused, in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from changed_families import files, left, pool, wide
from commands import Run, refused
from onnx import numpy_helper
from tail_files import tailed

import netfuse_onnx
from netfuse_onnx import FileFault, NotEquivalent, UsageFault, ValuesDiffer
from netfuse_onnx.lifecycle import changing
from netfuse_onnx.lifecycle.before import refuse
from netfuse_onnx.prove import kept
from netfuse_onnx.spelling_rows import Spelling
from netfuse_onnx.storage import wire
from netfuse_onnx.write import digests, metadata

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


def test_proofs_of_models_with_tails(tmp_path: Path) -> None:
    """Each model has outputs of its own, some by a name that another one uses for something else."""
    paths = tailed(tmp_path, ("logits", "two", "passes", "best", "hidden"))
    merged = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths[:4], merged, names="abcd", partial=True, verify=False)
    for change, counted in (
        (lambda: netfuse_onnx.update(merged, {"b": paths[4]}), 1 + 2 + 1),
        (lambda: netfuse_onnx.remove(merged, ["a"]), 2 + 2 + 1),
        (lambda: netfuse_onnx.add(merged, [paths[1]], names=["e"]), 2 + 2 + 1),
    ):
        report = change()
        assert report.proof is not None
        assert report.proof.kept is not None
        assert report.proof.kept.ok
        assert report.proof.kept.exact == counted * len(report.proof.values.cases)
    assert netfuse_onnx.verify(merged, [paths[k] for k in (4, 2, 3, 1)]).ok


def test_the_file_as_it_was_says_what_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The models that stay are compared with what the old file itself computes, whatever was read from it."""
    models, merged = wide(tmp_path)
    other = tmp_path / "other.onnx"
    netfuse_onnx.merge([models.paths[name] for name in "dbc"], str(other), names="abc", verify=False)
    real = kept.KeptProver

    def prover(_: str, *rest: Any) -> kept.KeptProver:
        return real(str(other), *rest)

    monkeypatch.setattr(changing, "KeptProver", prover)
    before = files(merged)
    with pytest.raises(ValuesDiffer, match="of model a is not what the merged file gave before the change"):
        netfuse_onnx.update(str(merged), {"b": models.paths["d"]})
    assert files(merged) == before


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


@pytest.mark.parametrize("model", ["a", "b"])
def test_a_file_that_another_tool_has_changed(tmp_path: Path, model: str) -> None:
    """A weight of a model that stays is not what was merged; that of the one that goes does not matter."""
    models, merged = wide(tmp_path)
    _one_byte(str(next(merged.parent.glob("*.data"))), 130 * 256 * 4 * "ab".index(model) + 1000)
    before = files(merged)
    if model == "b":
        assert netfuse_onnx.update(str(merged), {"b": models.paths["d"]}).ok
        return
    with pytest.raises(FileFault, match=r"merged.onnx \(a\) is no longer the model that was merged"):
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


def test_files_that_only_their_sources_can_change(tmp_path: Path) -> None:
    merged = str(pool(tmp_path, "mlp", 2, [0], False).fresh("ab", tmp_path / "merged"))
    about = metadata.read(merged)
    refuse(merged, about)
    slim = Spelling((), onnxslim="0.1").written()
    for other, said in (
        (replace(about, spelling=slim), "onnxslim had simplified"),
        (replace(about, low_rank={}), "low-rank differences"),
        (replace(about, sha256=("1+2", "1+3")), "adapters of one base"),
    ):
        with pytest.raises(FileFault, match=said):
            refuse(merged, other)
