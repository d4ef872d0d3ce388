"""split: every source comes back from the merged file alone, byte for byte, or with a note where it can't."""

from __future__ import annotations

import json
import os
from pathlib import Path

import lora_files
import low_rank
import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import WIDE, WIDE_WEIGHTS, family, merged, model, save
from onnx import numpy_helper
from routed_families import KINDS
from split_families import FAMILIES, record, wide

from netfuse_onnx import api
from netfuse_onnx.lifecycle import origins as lifecycle
from netfuse_onnx.lifecycle.split import escaped
from netfuse_onnx.lifecycle.split_report import SplitReport
from netfuse_onnx.load.adapters import paths as adapters
from netfuse_onnx.load.loader import load
from netfuse_onnx.prove.views import same_bits
from netfuse_onnx.run import inputs
from netfuse_onnx.run.runtime import Runtime, Session
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.write import origins


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    found = (Path(home) / name for home, _, names in os.walk(folder) for name in names)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def files_of(path: str) -> list[bytes]:
    return [Path(each).read_bytes() for each in load(path).files]


def outputs(path: str, source: Source) -> dict[str, object]:
    """The outputs of a file on random inputs, which depend on the source alone."""
    specs = inputs.describe(Correspondence.of_one(source))
    sizes = {name: 3 for spec in specs for name in spec.dims or () if isinstance(name, str)}
    feeds = inputs.draw(specs, inputs.Case("random", sizes), 0, frozenset(), 0)
    return dict(Session(path, Runtime("cpu")).run(feeds))


# --------------------------------------------------------------------------- exactly


@pytest.mark.parametrize("name", FAMILIES)
def test_each_source_comes_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    """So does what is merged from them."""
    paths, options = FAMILIES[name](tmp_path)
    names, options = options.get("names"), {k: v for k, v in options.items() if k != "names"}
    for folder in "one", "two":
        (tmp_path / folder).mkdir()
    out, again = (str(tmp_path / folder / "merged") for folder in ("one", "two"))
    out, again = (each if options.get("views") else each + ".onnx" for each in (out, again))
    api.merge(paths, out, names=names, verify=False, **options)
    report = api.split(out, str(tmp_path / "back"))
    assert report.ok
    for row, path in zip(report.models, paths, strict=True):
        assert row.exact and not row.note and row.sha256 == row.recorded
        assert [Path(file).read_bytes() for file in row.files] == files_of(path)
        assert row.weights > 0 or name == "separate"
    api.merge([row.files[0] for row in report.models], again, names=[row.model for row in report.models], verify=False, **options)  # fmt: skip
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_network_comes_back(kind: str, tmp_path: Path) -> None:
    paths = KINDS[kind].write(tmp_path, 3)
    report = api.split(merged(tmp_path, paths), str(tmp_path / "back"))
    for row, path in zip(report.models, paths, strict=True):
        assert row.exact
        assert Path(row.files[0]).read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize(
    "name", ["for the CPU", "int4", "bodies", "external data", "data file", "functions", "typed fields"]
)
def test_a_merged_file_gives_what_load_gave(name: str, tmp_path: Path) -> None:
    """The graph of a source that lies in the merged file is the source's, and ONNX Runtime runs it."""
    paths, options = FAMILIES[name](tmp_path)
    (tmp_path / "held").mkdir()
    out = str(tmp_path / "merged.onnx")
    api.merge(paths, out, verify=False, **options)
    for path, found in zip(paths, lifecycle.sources(out, str(tmp_path / "held")), strict=True):
        own = load(path)
        for fact in ("opsets", "ir_version", "metadata", "node_count", "producer"):
            assert getattr(found, fact) == getattr(own, fact), fact
        assert found.graph.nodes == own.graph.nodes
        assert found.graph.types == own.graph.types
        assert list(found.graph.weights) == list(own.graph.weights)
        for key, weight in own.graph.weights.items():
            assert weights.same(weight, found.graph.weights[key]), key
        mine, theirs = outputs(path, own), outputs(found.path, own)
        assert all(same_bits(mine[each], theirs[each]) for each in mine)


def test_weights_of_a_virtual_source_stay_in_the_merged_file(tmp_path: Path) -> None:
    _, out = wide(tmp_path)
    (tmp_path / "held").mkdir()
    lifecycle.sources(out, str(tmp_path / "held"))
    assert not (tmp_path / "held" / "taken.data").exists()
    assert os.path.samefile(tmp_path / "held" / "merged-0.data", out)


# --------------------------------------------------------------------------- with a note


def test_low_rank_differences_come_back_within_their_tolerance(tmp_path: Path) -> None:
    paths, _ = low_rank.tuned(tmp_path, [{}, {"w1": 2}, {"w1": 3, "w2": 1}])
    out = str(tmp_path / "merged.onnx")
    api.merge(paths, out, low_rank=0.0, verify=False)
    rows = api.split(out, str(tmp_path / "back")).models
    assert [row.exact for row in rows] == [True, False, False]
    assert rows[1].note == origins.FACTORED
    assert sum(len(run) for run in record(out).runs) < 3000, "no weight that differs is stored whole"
    for row, path in zip(rows, paths, strict=True):
        own, back = onnx.load(path), onnx.load(row.files[0])
        assert own.graph.node == back.graph.node
        for one, two in zip(own.graph.initializer, back.graph.initializer, strict=True):
            np.testing.assert_allclose(*map(numpy_helper.to_array, (one, two)), rtol=0, atol=2e-6)


def test_an_adapter_comes_back_as_its_base_with_branches(tmp_path: Path) -> None:
    base = lora_files.base(tmp_path)
    one, two = (lora_files.adapter(tmp_path, name) for name in ("one", "two"))
    out = str(tmp_path / "merged.onnx")
    api.merge(adapters(base, [one.path, two.path]), out, names=["one", "two"], verify=False)
    report = api.split(out, str(tmp_path / "back"))
    for row, adapter in zip(report.models, (one, two), strict=True):
        assert row.note == origins.ADAPTED and not row.exact
        feed = np.random.default_rng(5).standard_normal((2, 6)).astype(np.float32)
        session = Session(row.files[0], Runtime("cpu"))
        x = np.random.default_rng(5).standard_normal(
            [2 if isinstance(d, str) else d for d in session.shapes["x"]]
        )
        feed = x.astype(np.float32)
        got = next(iter(session.run({"x": feed}).values()))
        np.testing.assert_allclose(np.asarray(got), lora_files.expected(feed, adapter), rtol=1e-4, atol=1e-4)


def test_a_partial_merge_comes_back(tmp_path: Path) -> None:
    texts = (WIDE, WIDE.replace("Relu", "Tanh"))
    paths = [save(tmp_path / f"{k}.onnx", model(text, WIDE_WEIGHTS, seed=k)) for k, text in enumerate(texts)]
    report = api.split(merged(tmp_path, paths, partial=True), str(tmp_path / "back"))
    assert [Path(row.files[0]).read_bytes() for row in report.models] == [
        Path(path).read_bytes() for path in paths
    ]


def test_what_the_merged_file_does_not_hold_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Without much room for it, a weight that nothing reads makes a model one that can't come back."""
    monkeypatch.setattr(origins, "UNHELD", 1000)
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS, count=3)
    proto = onnx.load(paths[1])
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(300.0), "idle"))
    save(Path(paths[1]), proto)
    out = merged(tmp_path, paths)
    report = api.split(out, str(tmp_path / "back"))
    assert [bool(row.files) for row in report.models] == [True, False, True]
    assert report.exit_code == 3 and report.models[1].note == origins.NOT_HELD
    refused(run("split", out, "-o", tmp_path / "b", "--model", "b"), 3, "can't give back b", "does not hold")
    assert not (tmp_path / "b").exists()


def test_a_file_of_many_words_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "MOST", 4000)
    paths, options = FAMILIES["described"](tmp_path)
    for k, path in enumerate(paths):
        proto = onnx.load(path)
        proto.graph.node[0].doc_string = "".join(map(str, np.random.default_rng(k).random(400)))
        save(Path(path), proto)
    report = api.split(merged(tmp_path, paths, **options), str(tmp_path / "back"))
    for row, path in zip(report.models, paths, strict=True):
        assert row.note == origins.ANEW
        own, back = load(path), load(row.files[0])
        assert own.graph.nodes == back.graph.nodes and own.metadata == back.metadata
        assert own.producer == back.producer
        mine, theirs = outputs(path, own), outputs(row.files[0], own)
        assert all(same_bits(mine[each], theirs[each]) for each in mine)


# --------------------------------------------------------------------------- the folder


def test_files_that_are_there_are_kept(tmp_path: Path, run: Run) -> None:
    paths, out = wide(tmp_path)
    back = tmp_path / "back"
    assert run("split", out, "-o", back)[0] == 0
    assert run("split", out, "-o", back)[0] == 0, "the same files may be there"
    (back / "b.onnx").write_text("mine")
    (back / "a.onnx").unlink()
    refused(run("split", out, "-o", back), 3, "b.onnx exists, and is another file", "--force")
    assert sorted(os.listdir(back)) == ["b.onnx", "c.onnx"]
    assert (back / "b.onnx").read_text() == "mine"
    assert run("split", out, "-o", back, "--force")[0] == 0
    assert tree(back) == {Path(path).name: Path(path).read_bytes() for path in paths}


def test_the_merged_file_is_never_replaced(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS, count=2)
    (tmp_path / "o").mkdir()
    out = tmp_path / "o" / "m.onnx"
    api.merge(paths, str(out), names=["m", "n"], verify=False)
    refused(run("split", out, "-o", tmp_path / "o", "--force"), 3, "m.onnx exists")
    assert os.listdir(tmp_path / "o") == ["m.onnx"]


def test_some_models_come_out(tmp_path: Path, run: Run) -> None:
    paths, out = wide(tmp_path)
    code, said, err = run("split", out, "-o", tmp_path / "back", "--model", "c", "--model", "a", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(said)
    assert [row["model"] for row in answer["models"]] == ["a", "c"]
    assert sorted(os.listdir(tmp_path / "back")) == ["a.onnx", "c.onnx"]
    code, said, err = run("split", out, "-o", tmp_path / "more")
    assert (code, said) == (0, "") and err.count("byte for byte") == 3
    refused(run("split", out, "-o", tmp_path / "none", "--model", "d"), 2, "no model 'd'", "a, b, c")
    refused(run("split", out, "-o", tmp_path / "no" / "folder"), 3)
    refused(run("split", out, "-o", paths[0]), 3)
    refused(run("split", paths[0], "-o", tmp_path / "none"), 3, "was not written by netfuse-onnx")
    assert not (tmp_path / "none").exists()


def test_names_become_names_of_files(tmp_path: Path) -> None:
    names = ["..", ".hidden", "a b=c", "100%", "tab\t", "größe"]
    assert [escaped(name) for name in names] == ["%2E.", "%2Ehidden", "a b=c", "100%25", "tab%09", "größe"]
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS, count=6)
    out = merged(tmp_path, paths, names=names)
    report: SplitReport = api.split(out, str(tmp_path / "back"))
    assert all(row.exact for row in report.models)
    assert len(os.listdir(tmp_path / "back")) == 6


# --------------------------------------------------------------------------- real sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "bert"])
def test_a_record_takes_little(name: str, tmp_path: Path) -> None:
    """dynamo writes a stack trace for each node, and yet the record of four models stays below 0.1 %."""
    from sample_models.export import export_family
    from sample_models.families import FAMILIES as NETWORKS

    paths = [str(path) for path in export_family(NETWORKS[name], 4, tmp_path, exporter="dynamo")]
    out = merged(tmp_path, paths)
    props = {entry.key: len(entry.value) for entry in onnx.load(out, load_external_data=False).metadata_props}
    assert props[origins.KEY] < 50_000
    assert all(row.exact for row in api.split(out, str(tmp_path / "back")).models)
