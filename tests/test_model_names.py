"""The names of models: unique, valid and the same in every run; NAME=PATH on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from commands import Run, refused
from families import MLP, MLP_TEXT, save
from families import model as build
from hypothesis import given, settings
from hypothesis import strategies as st

import netfuse_onnx
from netfuse_onnx import arguments, names
from netfuse_onnx.errors import UsageFault

PART = st.text(alphabet="ab1-.= é,", min_size=1, max_size=3).filter(lambda part: part.strip("."))
PATHS = st.lists(
    st.builds(lambda parts, end: "/".join(parts) + end, st.lists(PART, min_size=1, max_size=4), st.sampled_from(
        ["", ".onnx"]
    )),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "want"),
    [
        (["a.onnx", "b.onnx"], ["a", "b"]),
        (["x/a.onnx", "y/b.onnx"], ["a", "b"]),
        (["a.onnx", "b.onnx", "a.onnx"], ["a", "b", "a-2"]),
        (["tenant-a/model.onnx", "tenant-b/model.onnx"], ["tenant-a", "tenant-b"]),
        (["/m/tenant-a/onnx/model.onnx", "/m/tenant-b/onnx/model.onnx"], ["tenant-a", "tenant-b"]),
        (["./a/model.onnx", "b/model.onnx"], ["a", "b"]),
        (["a/model.onnx", "./a/model.onnx"], ["model", "model-2"]),
        (["m/a/1/model.onnx", "m/b/1/model.onnx"], ["a", "b"]),
        (["m/a/1/model.onnx", "m/b/3/model.onnx"], ["a", "b"]),
        (["m/1/model.onnx", "m/2/model.onnx"], ["1", "2"]),
        (["a/1/m.onnx", "a/2/m.onnx", "b/1/m.onnx"], ["a-1", "a-2", "b-1"]),
        (["a/m.onnx", "b/m.onnx", "a/n.onnx"], ["a-m", "b-m", "a-n"]),
        (["dir/m.onnx", "dir/other/m.onnx"], ["m", "other"]),
        (["a/b-c/m.onnx", "a-b/c/m.onnx", "a/c/m.onnx"], ["a-b-c", "a-b-c-2", "a-c"]),
        (["", "/"], ["model", "model-2"]),
        (["a/\udcff.onnx", "b/x.onnx"], ["\ufffd", "x"]),
    ],
)
def test_the_part_of_the_paths_that_differs(paths: list[str], want: list[str]) -> None:
    assert list(names.from_paths(paths)) == want


@settings(max_examples=300, deadline=None)
@given(PATHS, st.data())
def test_names_are_valid_unique_and_depend_on_the_paths_alone(paths: list[str], data: st.DataObject) -> None:
    found = names.from_paths(paths)
    assert arguments.model_names(paths, found) == found  # not empty, no slash, no name twice
    assert found == names.from_paths(paths) == arguments.model_names(paths, None)
    order = data.draw(st.permutations(range(len(paths))))
    if len({names._split(path) for path in paths}) == len(paths) and len(set(_bare(paths))) == len(paths):
        assert names.from_paths([paths[k] for k in order]) == tuple(found[k] for k in order)


def _bare(paths: list[str]) -> list[str]:
    """The labels before clashes are counted."""
    return names._parts(paths)


@settings(max_examples=200, deadline=None)
@given(PATHS, st.data())
def test_given_names_are_kept_beside_those_from_paths(paths: list[str], data: st.DataObject) -> None:
    own = data.draw(
        st.lists(st.sampled_from(["", "a", "m-2", "é"]), min_size=len(paths), max_size=len(paths))
    )
    own = [name if name not in own[:k] else "" for k, name in enumerate(own)]
    found = names.completed(paths, own)
    assert len(set(found)) == len(found)
    assert [name for name, mine in zip(found, own, strict=True) if mine] == list(filter(None, own))


@settings(max_examples=200, deadline=None)
@given(st.lists(PART.filter(lambda part: "=" not in part), min_size=1, max_size=5, unique=True), st.data())
def test_names_and_paths_come_back_in_any_order(called: list[str], data: st.DataObject) -> None:
    paths = [f"folder=1/{k}=x.onnx" for k in range(len(called))]
    order = data.draw(st.permutations(range(len(called))))
    got, own = names.given([f"{called[k]}={paths[k]}" for k in order])
    assert (got, own) == (tuple(paths[k] for k in order), tuple(called[k] for k in order))
    assert names.models_in_order(got, own, called, "m.onnx") == tuple(paths)


@pytest.mark.parametrize("argument", ["=a.onnx", "a=", "dir/run=3/a.onnx", "a.onnx", "./a=b.onnx"])
def test_what_is_a_path_whatever_exists(argument: str) -> None:
    assert names.given([argument]) == ((argument,), ("",))


def family(folder: Path, *files: str) -> list[str]:
    """One model per file, with weights of its own."""
    for k, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        save(folder / file, build(MLP_TEXT, MLP, seed=k))
    return [str(folder / file) for file in files]


def test_a_name_on_the_command_line(tmp_path: Path, run: Run) -> None:
    a, b, c = family(tmp_path, "x/model.onnx", "y/model.onnx", "c.onnx")
    out = str(tmp_path / "m.onnx")
    assert run("merge", f"left={a}", b, f"right={c}", "-o", out)[0] == 0
    assert [value.name for value in onnx.load(out).graph.input] == ["left/x", "model/x", "right/x"]
    code, said, _ = run("check", f"left={a}", b, "--json")
    assert (code, json.loads(said)["models"]) == (0, ["left", "model"])


def test_a_file_with_an_equals_sign_is_a_path(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    family(tmp_path, "lr=1.onnx", "b.onnx", "1.onnx")
    monkeypatch.chdir(tmp_path)
    assert run("merge", "lr=1.onnx", "b.onnx", "-o", "m.onnx", "--no-verify")[0] == 0
    assert netfuse_onnx.inspect("m.onnx").models == ("lr=1", "b")
    assert run("merge", "lr=1=lr=1.onnx", "b.onnx", "-o", "m.onnx")[0] == 3, "1=lr=1.onnx is no file"
    assert run("merge", "lr=lr=1.onnx", "b.onnx", "-o", "m.onnx", "--no-verify")[0] == 0
    assert netfuse_onnx.inspect("m.onnx").models == ("lr", "b")


@pytest.mark.parametrize("verb", ["merge", "check"])
def test_names_are_given_in_one_way(tmp_path: Path, run: Run, verb: str) -> None:
    a, b = family(tmp_path, "a.onnx", "b.onnx")
    end = ["-o", str(tmp_path / "m.onnx")] if verb == "merge" else []
    refused(run(verb, f"x={a}", b, "--names", "x,y", *end), 2, "--names and by x=")
    refused(run(verb, f"x={a}", f"x={b}", *end), 2, "Two models are called 'x'")


def test_sources_are_found_by_name_in_any_order(tmp_path: Path, run: Run) -> None:
    a, b, c = family(tmp_path, "a.onnx", "b.onnx", "c.onnx")
    out = str(tmp_path / "m.onnx")
    assert run("merge", f"one={a}", f"two={b}", f"three={c}", "-o", out)[0] == 0
    assert run("verify", out, f"three={c}", f"one={a}", f"two={b}")[0] == 0
    refused(run("verify", out, f"three={a}", f"one={c}", f"two={b}"), 2, "in another order than merged")
    code, said, _ = run("bench", out, f"two={b}", f"three={c}", f"one={a}", "--rounds", "1", "--json")
    assert (code, json.loads(said)["models"]) == (0, ["one", "two", "three"])
    refused(run("verify", out, f"three={c}", a, b), 2, "has no name")
    refused(run("verify", out, f"one={a}", f"two={b}", f"four={c}"), 2, "holds no model 'four'")
    refused(run("verify", out, f"one={a}", f"two={b}"), 2, "'three' of")
    refused(run("verify", out, f"one={a}", f"two={b}", f"two={c}"), 2, "Two models are called 'two'")


def test_the_names_of_the_api_have_one_per_path(tmp_path: Path) -> None:
    paths = family(tmp_path, "a.onnx", "b.onnx")
    out = str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, out)
    assert netfuse_onnx.verify(out, paths[::-1], names=["b", "a"]).ok
    with pytest.raises(UsageFault, match="1 names for 2 models"):
        netfuse_onnx.verify(out, paths, names=["a"])
