"""verify --digests: is a merged file still that of these sources?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import MLP, MLP_TEXT, family, merged, model, save

import netfuse_onnx
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.load.loader import load
from netfuse_onnx.write.digests import Digests, of_each


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, list[str]]:
    paths = family(tmp_path, count=3)
    return merged(tmp_path, paths), paths


def test_yes(files: tuple[str, list[str]], run: Run) -> None:
    path, paths = files
    code, out, err = run("verify", path, *paths, "--digests")
    assert (code, err) == (0, "")
    assert out.count("the same") == 3
    assert "All 3 sources" in out and "the bytes of the merged file were not compared" in out
    named = [f"{name}={own}" for name, own in zip("cab", [paths[2], *paths[:2]], strict=True)]
    assert run("verify", path, *named, "--digests")[0] == 0


def test_a_source_that_changed(files: tuple[str, list[str]], run: Run) -> None:
    path, paths = files
    save(Path(paths[1]), model(MLP_TEXT, MLP, seed=9))
    code, out, _ = run("verify", path, *paths, "--digests", "--json")
    document = json.loads(out)
    assert (code, document["error"]["kind"]) == (1, "sources_differ")
    assert (
        document["error"]["message"]
        == f"{paths[1]} is not the file that was merged as b: its SHA-256 differs."
    )
    assert [row["ok"] for row in document["sources"]] == [True, False, True]
    assert document["sources"][1]["recorded"] == netfuse_onnx.inspect(path).sha256["b"]
    assert "another file" in run("verify", path, *paths, "--digests")[1]


def test_the_order_counts(files: tuple[str, list[str]]) -> None:
    """Files that were exchanged on the disk are not what was merged, whatever the set of digests says."""
    path, (a, b, c) = files
    report = netfuse_onnx.digests(path, [b, a, c])
    assert [row.is_model for row in report.sources] == ["b", "a", ""]
    assert report.exit_code == 1 and report.fault is not None
    assert report.fault.hint == f"By their digests they are a={a}, b={b}, c={c}."
    assert netfuse_onnx.digests(path, [b, a, c], names=["b", "a", "c"]).ok
    assert not netfuse_onnx.digests(path, [a, b, a]).ok


def test_what_makes_no_sense(files: tuple[str, list[str]], run: Run) -> None:
    path, paths = files
    refused(run("verify", path, *paths[:2], "--digests"), 2, "holds 3 models, 2 were given")
    refused(run("verify", path, "--digests"), 2, "No models were given")
    refused(run("verify", path, *paths, "--digests", "--isolation"), 2, "--isolation is about proofs")
    refused(run("verify", paths[0], *paths, "--digests"), 3, "was not written by netfuse-onnx")
    with pytest.raises(FileFault, match="does not exist"):
        netfuse_onnx.digests(path, [*paths[:2], "none.onnx"])
    with pytest.raises(UsageFault, match="not merged from adapters"):
        netfuse_onnx.digests(path, netfuse_onnx.adapters(paths[0], paths))


def test_external_data_is_part_of_a_source(tmp_path: Path) -> None:
    paths = family(tmp_path)
    for path in paths:
        proto = onnx.load(path)
        onnx.save(
            proto, path, save_as_external_data=True, location=f"{Path(path).stem}.bin", size_threshold=0
        )
    out = merged(tmp_path, paths)
    assert netfuse_onnx.digests(out, paths).ok
    data = bytearray((tmp_path / "b.bin").read_bytes())
    data[5] ^= 1
    (tmp_path / "b.bin").write_bytes(data)
    assert [row.ok for row in netfuse_onnx.digests(out, paths).sources] == [True, False]


def test_an_adapter_and_its_base(tmp_path: Path) -> None:
    """The parts have digests of their own, joined, and the answer says which of them is another."""
    paths = family(tmp_path)
    sources = [load(path) for path in paths]
    with Digests(sources) as written:
        plain = written.result()
    assert of_each([[(path,)] for path in paths], 2) == plain
    assert of_each([[(paths[0],), (paths[1],)]], 1) == (f"{plain[0]}+{plain[1]}",)


def test_it_loads_no_runtime_and_no_compiler(files: tuple[str, list[str]]) -> None:
    path, paths = files
    code = f"""
import sys
from netfuse_onnx.cli.main import main
assert main(["verify", {path!r}, *{paths!r}, "--digests"]) == 0
heavy = ("onnxruntime", "torch", "scipy", "netfuse_onnx.api", "netfuse_onnx.plan.planner", "netfuse_onnx.prove.prover")
sys.exit(f"loaded: {{[m for m in heavy if m in sys.modules]}}" if any(m in sys.modules for m in heavy) else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_size_is_that_of_the_files(files: tuple[str, list[str]]) -> None:
    path, paths = files
    assert netfuse_onnx.digests(path, paths).size == int(np.sum([Path(one).stat().st_size for one in paths]))
