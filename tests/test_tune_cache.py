"""tune/cache.py: times are kept for the next run, whatever happens to the file."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from netfuse_onnx.run.runtime import Runtime
from netfuse_onnx.tune import cache
from netfuse_onnx.tune.cache import Cache, about, folder

ABOUT = {"processor": "P", "provider": "cpu", "onnxruntime": "1.31.1", "threads": 2}
TIMES = {"Conv 1x2": 12.5, "a call": 3.25}


def test_times_are_read_back(tmp_path: Path) -> None:
    store = Cache(ABOUT, tmp_path)
    assert store.read() == {}
    store.add(TIMES)
    store.add({"Relu": 1.0})
    assert Cache(ABOUT, tmp_path).read() == {**TIMES, "Relu": 1.0}
    value = json.loads(store.path.read_text())
    assert value["about"] == ABOUT and value["unit"] == "microseconds"
    assert [path.name for path in tmp_path.iterdir()] == [store.path.name], "nothing else is left behind"


@pytest.mark.parametrize("other", [{"threads": 4}, {"onnxruntime": "1.32.0"}, {"processor": "Q"}])
def test_another_machine_has_another_file(tmp_path: Path, other: dict[str, str | int]) -> None:
    Cache(ABOUT, tmp_path).add(TIMES)
    assert Cache({**ABOUT, **other}, tmp_path).read() == {}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"version": 1}', '{"version": 99, "about": {}, "times": {}}', "\0" * 100,
        '{"version": 1, "about": {"processor": "Q"}, "times": {"a": 1}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_file_is_replaced(tmp_path: Path, text: str) -> None:
    store = Cache(ABOUT, tmp_path)
    store.path.write_text(text)
    assert store.read() == {}
    store.add(TIMES)
    assert store.read() == TIMES


@pytest.mark.parametrize("time", ["1", None, -1.0, float("nan"), float("inf"), True, [1.0]])
def test_what_is_no_time_is_left_out(tmp_path: Path, time: object) -> None:
    store = Cache(ABOUT, tmp_path)
    value = {"version": cache.VERSION, "about": ABOUT, "times": {"good": 2.0, "bad": time}}
    store.path.write_text(json.dumps(value))
    assert store.read() == {"good": 2.0}


def test_bytes_that_are_no_text_and_files_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Cache(ABOUT, tmp_path)
    store.path.write_bytes(b"\xff\xfe\x00")
    assert store.read() == {}
    store.add(TIMES)
    monkeypatch.setattr(cache, "LARGEST", 10)
    assert store.read() == {}


def test_a_folder_that_can_not_be_written_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    store = Cache(ABOUT, file / "below")
    store.add(TIMES)
    assert store.read() == {}


def _add(where: Path, name: str, count: int) -> None:
    for k in range(count):
        Cache(ABOUT, where).add({f"{name}{k}": float(k)})


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(tmp_path, name, 25)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    want = {f"{name}{k}": float(k) for name in "ab" for k in range(25)}
    assert Cache(ABOUT, tmp_path).read() == want


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "netfuse-onnx" / "times"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for ignored in ("", "relative/path"):  # the specification says that relative ones are ignored
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert folder() == tmp_path / "home" / ".cache" / "netfuse-onnx" / "times"


def test_the_file_is_that_of_this_machine() -> None:
    facts = about(Runtime("cpu"), 3)
    assert facts["provider"] == "cpu" and facts["threads"] == 3
    assert {"processor", "onnxruntime", "cores"} <= facts.keys() and "gpu" not in facts
