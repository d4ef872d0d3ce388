"""`netfuse-onnx export ray` without Ray: the text of the app, where it finds bundles, and what it refuses."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import Run, refused
from families import family

import netfuse_onnx
from netfuse_onnx.deploy.ray import located
from netfuse_onnx.runtime import errors
from netfuse_onnx.server.directory import places


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles `eyes` (models a and b) and `ears` (b and c)."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = family(folder, count=3)
    for name, chosen in (("eyes", paths[:2]), ("ears", paths[1:])):
        netfuse_onnx.merge(chosen, str(folder / name), io="stacked", views=True, verify=False)
    return folder


@pytest.fixture
def work(bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the bundles in its folder `served`."""
    (tmp_path / "served").symlink_to(bundles)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Bound:
    """Stands for a deployment of Ray: it keeps the options that it was made with."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        self.kind, self.options = kind, options
        self.given: tuple[Any, ...] = ()

    def bind(self, *given: Any) -> Bound:
        self.given = given
        return self


def built(path: Path, monkeypatch: pytest.MonkeyPatch, **args: str) -> Bound:
    """The app that the text makes, with stand-ins for Ray, and for the two classes that need it."""
    from netfuse_onnx.server import bundle_paths

    serve: Any = types.ModuleType("ray.serve")
    serve.deployment = Bound
    serve.Application = Bound
    ray: Any = types.ModuleType("ray")
    ray.serve = serve
    ours: Any = types.ModuleType("netfuse_onnx.server.ray")
    ours.Family, ours.Router = "Family", "Router"
    for name in ("located", "models", "served"):
        setattr(ours, name, getattr(bundle_paths, name))
    with monkeypatch.context() as patch:
        for name, module in (("ray", ray), ("ray.serve", serve), ("netfuse_onnx.server.ray", ours)):
            patch.setitem(sys.modules, name, module)
        patch.setattr(Bound, "__init__", _made)
        made = runpy.run_path(str(path))["app"](args)
    assert isinstance(made, Bound)
    return made


def _made(self: Bound, kind: str, **options: Any) -> None:
    self.kind, self.options, self.given = kind, options, ()


def served_by(app: Bound) -> dict[str, str]:
    """The bundle of each family."""
    (families,) = app.given
    return {name: one.options["user_config"]["bundle"] for name, one in families.items()}


# --------------------------------------------------------------------------- the text


def test_the_app_has_a_deployment_for_each_family(
    work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run("export", "ray", "served/eyes", "served/ears", "-o", "app.py")
    assert (code, out) == (0, "") and "serve run app:app" in err
    app = built(work / "app.py", monkeypatch)
    assert app.kind == "Router"
    (families,) = app.given
    assert list(families) == ["eyes", "ears"]
    for name, one in families.items():
        assert one.kind == "Family" and one.options["name"] == name
        target = one.options["autoscaling_config"]["target_ongoing_requests"]
        assert 2 * 2 <= target < one.options["max_ongoing_requests"] < one.options["max_queued_requests"]
    assert served_by(app) == {name: str(work / "served" / name) for name in families}


def test_the_text_is_clean(work: Path, run: Run) -> None:
    """It is ours to keep readable: short, formatted, without a finding of ruff, and it names no folder of here."""
    run("export", "ray", "served/eyes", "one.more-name=served/ears", "-o", "app.py")
    text = (work / "app.py").read_text()
    root = Path(__file__).parent.parent
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--config", root / "pyproject.toml", "app.py"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
        assert done.returncode == 0, done.stdout + done.stderr
    assert text.count("\n") < 60
    assert str(work) not in text and "\t" not in text
    assert ast.get_docstring(ast.parse(text))


def test_as_json(work: Path, run: Run) -> None:
    code, out, _ = run("export", "ray", "served/eyes", "served/ears", "-o", "app.py", "--json")
    said = json.loads(out)
    assert code == 0 and said["ok"]
    names = {one["name"]: one["models"] for one in said["families"]}
    assert names == {"eyes": ["a", "eyes.b"], "ears": ["ears.b", "c"]}


# --------------------------------------------------------------------------- where bundles are


def test_an_app_elsewhere_finds_its_bundles(work: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is seen from the folder of the app, however the app is started."""
    (work / "apps").mkdir()
    assert run("export", "ray", "served/eyes", "-o", "apps/app.py")[0] == 0
    monkeypatch.chdir("/")
    assert served_by(built(work / "apps" / "app.py", monkeypatch)) == {"eyes": str(work / "served" / "eyes")}


def test_other_folders_at_deployment(
    work: Path, bundles: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments come before the variable, and that before what stands in the app."""
    run("export", "ray", "served/eyes", "served/ears", "-o", "app.py")
    (work / "moved").symlink_to(bundles)
    app, ears = work / "app.py", str(bundles / "ears")
    moved = {name: str(work / "moved" / name) for name in ("eyes", "ears")}
    assert served_by(built(app, monkeypatch, bundles=str(work / "moved"))) == moved
    monkeypatch.setenv("NETFUSE_BUNDLES", str(work / "moved"))
    assert served_by(built(app, monkeypatch)) == moved
    assert served_by(built(app, monkeypatch, eyes=ears)) == moved | {"eyes": ears}
    with pytest.raises(errors.NetfuseError, match="no argument 'eye'"):
        built(app, monkeypatch, eye=ears)


def test_an_absolute_path_stays(work: Path, bundles: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("export", "ray", str(bundles / "eyes"), "served/ears", "-o", "app.py")
    app = built(work / "app.py", monkeypatch, bundles=str(work / "served"))
    assert served_by(app) == {"eyes": str(bundles / "eyes"), "ears": str(work / "served" / "ears")}


PLACED = {
    "beside the app": (["served"], ".", ["served"]),
    "in a folder": (["x/eyes", "x/ears"], "x", ["eyes", "ears"]),
    "in two folders": (["x/eyes", "y/ears"], ".", ["x/eyes", "y/ears"]),
    "above": (["../x/eyes"], os.path.join("..", "x"), ["eyes"]),
    "absolute": (["/x/eyes"], ".", ["/x/eyes"]),
}


@pytest.mark.parametrize(("paths", "folder", "listed"), PLACED.values(), ids=PLACED)
def test_where_the_app_looks(
    paths: list[str], folder: str, listed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(paths, str(tmp_path)) == (folder, listed)


def test_new_files_are_another_version(work: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration changes with the files, so that Ray tells the replicas when the app is deployed again."""
    paths = family(work, count=2)
    netfuse_onnx.merge(paths, "own", io="stacked", views=True, verify=False)
    run("export", "ray", "own", "-o", "app.py")
    app = work / "app.py"
    before = built(app, monkeypatch).given[0]["own"].options["user_config"]
    assert before == built(app, monkeypatch).given[0]["own"].options["user_config"]
    netfuse_onnx.merge(paths[::-1], "own", io="stacked", views=True, verify=False)
    after = built(app, monkeypatch).given[0]["own"].options["user_config"]
    assert after["bundle"] == before["bundle"] and after["version"] != before["version"]


# --------------------------------------------------------------------------- what it refuses


REFUSED: dict[str, tuple[Sequence[str], int, str]] = {
    "no bundle": (["nothing"], 3, "does not exist"),
    "a folder of other files": (["."], 3, "has no manifest.json"),
    "a model file": (["a.onnx"], 2, "merge --views"),
    "two families of one name": (["x=served/eyes", "x=served/ears"], 2, "Two families"),
    "the router's name": (["router=served/eyes"], 2, "'router'"),
    "an odd name": (["a#b=served/eyes"], 2, "'a#b'"),
}


@pytest.mark.parametrize(("given", "code", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals_write_nothing(work: Path, run: Run, given: list[str], code: int, said: str) -> None:
    family(work, count=1)
    before = sorted(os.listdir(work))
    refused(run("export", "ray", *given, "-o", "app.py"), code, said)
    assert sorted(os.listdir(work)) == before


@pytest.mark.parametrize("out", ["app", "my-app.py", "app.v2.py", "1.py"])
def test_the_app_must_be_a_module(work: Path, run: Run, out: str) -> None:
    refused(run("export", "ray", "served/eyes", "-o", out), 2, "no name of a Python module")


@pytest.mark.parametrize("out", ["ray.py", "pathlib.py", "netfuse_onnx.py", "class.py"])
def test_the_app_hides_no_module_that_it_imports(work: Path, run: Run, out: str) -> None:
    said = "no name of a Python module" if out == "class.py" else "would hide the module"
    refused(run("export", "ray", "served/eyes", "-o", out), 2, said)
    assert not (work / out).exists()


def test_a_file_that_may_be_changed_stays(work: Path, run: Run) -> None:
    """An app is the user's to edit. The same text again is no loss, and --force is the user's word."""
    app = work / "app.py"
    assert run("export", "ray", "served/eyes", "-o", "app.py")[0] == 0
    assert run("export", "ray", "served/eyes", "-o", "app.py")[0] == 0
    app.write_text(app.read_text() + "# mine\n")
    refused(run("export", "ray", "served/eyes", "-o", "app.py"), 3, "--force")
    assert app.read_text().endswith("# mine\n")
    assert run("export", "ray", "served/eyes", "-o", "app.py", "--force")[0] == 0
    assert "# mine" not in app.read_text()
    assert sorted(os.listdir(work)) == ["app.py", "served"]


def test_no_place_to_write(work: Path, run: Run) -> None:
    refused(run("export", "ray", "served/eyes", "-o", "none/app.py"), 3, "can't be written")
    (work / "app.py").mkdir()
    refused(run("export", "ray", "served/eyes", "-o", "app.py", "--force"), 3, "is no file")


# --------------------------------------------------------------------------- names


def test_a_name_that_could_mean_two_models_means_none() -> None:
    found, short = places({"x": ["a", "b"], "y": ["b", "c", "x.a"], "z": ["z"]})
    assert short == ("a", "x.b", "y.b", "c", "y.x.a", "z.z")
    assert found["a"] == ("x", "a") and found["x.b"] == ("x", "b") and found["y"] == ("y", "")
    assert not {"b", "x.a", "z"} & found.keys()
