"""MergedSession as docs/serving.md shows it: every claim of that page on real files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import oracle
import pytest
from families import family

import netfuse_onnx
from netfuse_onnx import MergedSession
from netfuse_onnx.runtime import errors

MODELS = "abc"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return family(tmp_path_factory.mktemp("sources"), count=3)


@pytest.fixture(scope="module")
def bundle(paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("served") / "bundle")
    netfuse_onnx.merge(paths, out, io="stacked", views=True, verify=False)
    return out


@pytest.fixture(scope="module")
def session(bundle: str) -> Iterator[MergedSession]:
    with MergedSession(bundle, calibrate=0.1) as found:
        yield found


def row(seed: int = 0, rows: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)}


def right(path: str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(oracle.session(path, oracle.LEVELS[0]).run(["y"], feeds)[0])


def test_lists_are_taken_as_the_models_own_type(session: MergedSession, paths: list[str]) -> None:
    outputs = session.run("b", {"x": row()["x"].tolist()})
    assert outputs["y"].dtype == np.float32
    np.testing.assert_allclose(outputs["y"], right(paths[1], row()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "feeds", "error", "told"),
    [
        ("z", row(), errors.UnknownModel, ("z", "", "a, b, c")),
        ("a", {}, errors.BadInput, ("a", "x", "x")),
        ("a", {"x": np.ones((1, 7), np.float32)}, errors.BadInput, ("a", "x", "[n, 8]")),
        ("a", {"x": np.ones((1, 8))}, errors.BadInput, ("a", "x", "float32")),
        ("a", row(rows=65), errors.TooLarge, ("a", "", "at most 64 rows")),
    ],
)
def test_an_error_says_the_model_the_input_and_the_expected(
    session: MergedSession,
    model: str,
    feeds: dict[str, np.ndarray],
    error: type[errors.ServingError],
    told: tuple[str, str, str],
) -> None:
    with pytest.raises(error) as raised:
        session.run(model, feeds)
    found = raised.value
    assert (found.model, found.input, found.expected) == told


def test_all_models_on_the_same_inputs(session: MergedSession, paths: list[str]) -> None:
    each = [right(path, row(1, 2)) for path in paths]
    found = session.run_all(row(1, 2))
    assert [*found] == [*MODELS]
    for model, wanted in zip(MODELS, each, strict=True):
        np.testing.assert_allclose(found[model]["y"], wanted, rtol=1e-4, atol=1e-5)
    mean = session.run_all(row(1, 2), reduce="mean")["y"]
    np.testing.assert_allclose(mean, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)


def test_other_files_while_it_serves(bundle: str, paths: list[str], tmp_path: Path) -> None:
    """A swap that fails changes nothing; one that succeeds may bring other models."""
    lone = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths[1:], lone, names=["b", "d"], verify=False)
    with MergedSession(bundle, calibrate=0.1) as session:
        with pytest.raises(netfuse_onnx.FileFault, match="does not exist"):
            session.swap(tmp_path / "nothing")
        assert session.models == ("a", "b", "c") and session.run("a", row())
        assert session.swap(lone) == 2 and session.models == ("b", "d")
        np.testing.assert_allclose(session.run("d", row())["y"], right(paths[2], row()), rtol=1e-4, atol=1e-5)
        with pytest.raises(errors.UnknownModel):
            session.run("a", row())


def test_a_merged_file_alone_counts_the_rows_of_all_models(paths: list[str], tmp_path: Path) -> None:
    """Without own sessions, one request costs a merged call, and stats() says so."""
    lone = str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, lone, io="stacked", verify=False)
    with MergedSession(lone, calibrate=0.1) as session:
        session.run("a", row())
        told = session.stats()
        assert told["calls"] == {"alone": 0, "merged": 1}
        assert (told["rows"]["useful"], told["rows"]["padded"]) == (1, 2)
    with MergedSession(lone, sources=paths, calibrate=0.1) as session:
        session.run("a", row())
        assert session.stats()["calls"] == {"alone": 1, "merged": 0}


def test_the_import_loads_neither_onnx_nor_the_compiler(bundle: str) -> None:
    code = f"""
import sys
from netfuse_onnx import MergedSession
with MergedSession({bundle!r}, calibrate=0) as session:
    session.run("a", {{"x": [[0.0] * 8]}})
loaded = {{name.split(".")[1] for name in sys.modules if name.startswith("netfuse_onnx.")}}
allowed = {{"errors", "edges", "combining", "expressions", "library", "runtime"}}
assert "onnx" not in sys.modules and loaded <= allowed, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
