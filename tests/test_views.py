"""Bundles: each view gives what its source gives, bit for bit, and reads nothing that is another model's."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import Run
from lora_files import adapter, base
from onnx import numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.plan import batch
from netfuse_onnx.runtime import bundle as reader
from netfuse_onnx.storage import external, wire
from netfuse_onnx.storage.tensors import tensors
from netfuse_onnx.types import Weight
from netfuse_onnx.write.regions import Index, Region

MIXED = """g (float[n, 24] x, bool c) => (float[n, 6] y) {
    h = Gemm <transB = 1> (x, w1, b1)
    t = MatMul(h, w2)
    s = Transpose <perm = [1, 0]> (w3)
    u = MatMul(t, s)
    y = If (c) <
        then_branch = then () => (float[n, 6] a) { k = Constant <value = float[6] {1, 2, 3, 4, 5, 6}> () a = Add(u, k) },
        else_branch = other () => (float[n, 6] b) { b = Mul(u, w4) }>
}"""
MIXED_WEIGHTS = {"w1": (40, 24), "b1": (40,), "w2": (40, 30), "w3": (6, 30), "w4": (6,)}
CONVOLUTIONS = """g (float[n, 3, 8, 8] x) => (float[n, 5] y) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(a)
    d = Conv <kernel_shape = [1, 1]> (r, w2)
    p = GlobalAveragePool(d)
    f = Flatten(p)
    y = MatMul(f, w3)
}"""
CONVOLUTION_WEIGHTS = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (40, 16, 1, 1), "w3": (40, 5)}
WIDE = {"w1": (8, 64), "b1": (64,), "w2": (64, 4)}


def mlps(folder: Path, count: int = 3) -> list[str]:
    return families.family(folder, weights=WIDE, count=count)


def merged(folder: Path, paths: Sequence[str], **options: Any) -> tuple[str, Any]:
    """Write a bundle; return its folder and the report."""
    out = str(folder / "served")
    return out, netfuse_onnx.merge(paths, out, views=True, **options)


def session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(runner: ort.InferenceSession, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for port in runner.get_inputs():
        shape = [size if isinstance(size, int) else 3 for size in port.shape]
        kind = {"tensor(float)": np.float32, "tensor(bool)": np.bool_}[port.type]
        made[port.name] = rng.standard_normal(shape).astype(kind)
    return made


def check_views(out: str, paths: Sequence[str]) -> None:
    """Compare each view with its source in ONNX Runtime, and the bytes of every tensor."""
    bundle = reader.read(out)
    for path, view in zip(paths, bundle.view_paths, strict=True):
        source, other = session(path), session(view)
        for seed in range(3):
            given = feeds(source, seed)
            for one, two in zip(source.run(None, given), other.run(None, given), strict=True):
                assert one.tobytes() == two.tobytes()
        held = [onnx.load(each) for each in (path, view)]
        for one, two in zip(*map(tensors, held), strict=True):
            assert (one.name, one.data_type, one.dims) == (two.name, two.data_type, two.dims)
            assert numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(two).tobytes()


def ranges(out: str, model: int) -> dict[str, tuple[str, int, int]]:
    """The file, offset and length of each tensor of a view that lies outside it."""
    path = reader.read(out).view_paths[model]
    found = {}
    for k, tensor in enumerate(tensors(wire.scan(path, threshold=0).model)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            extent = external.extent_of(tensor)
            if extent.path != path:
                place = os.path.basename(extent.path), extent.offset, extent.length
                found[tensor.name or str(k)] = place
    return found


def content(out: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out).iterdir()}


# --------------------------------------------------------------------------- views


@pytest.mark.quick
@pytest.mark.parametrize("io", ["separate", "stacked", "selected", "routed"])
def test_views_are_their_sources_in_every_form_of_inputs(tmp_path: Path, io: str) -> None:
    paths = mlps(tmp_path)
    out, report = merged(tmp_path, paths, io=io)
    check_views(out, paths)
    assert report.views.share == 1.0 and not report.views.weights
    assert report.proof.views.ok and report.proof.views.views == 3
    assert report.size == sum(report.views.files.values()) == sum(map(len, content(out).values()))
    assert set(map(os.path.basename, report.files)) == set(os.listdir(out))
    bundle = reader.read(out)
    assert (bundle.models, bundle.io in (io, "slots", "index")) == (("a", "b", "c"), True)
    assert (bundle.batch, bundle.rows, bundle.rows_apart, bundle.mixes) == (("n",), ("x",), True, "")


CASES: Mapping[str, tuple[str, Mapping[str, Sequence[int]]]] = {
    "mixed": (MIXED, MIXED_WEIGHTS),
    "convolutions": (CONVOLUTIONS, CONVOLUTION_WEIGHTS),
}


@pytest.mark.parametrize("target", ["generic", "cpu", "cuda"])
@pytest.mark.parametrize("case", CASES)
def test_ranges_hold_the_sources_bytes_whatever_the_plan(tmp_path: Path, case: str, target: str) -> None:
    """Plans store weights transposed, grouped or interleaved; a bundle keeps the order of the sources."""
    paths = families.family(tmp_path, *CASES[case], count=3)
    out, report = merged(tmp_path, paths, target=target)
    check_views(out, paths)
    assert report.views.share > 0.85, report.views.weights
    assert netfuse_onnx.bundle(out, paths).ok
    assert netfuse_onnx.verify(reader.read(out).merged_path, paths).ok
    own = [set(ranges(out, model).values()) for model in range(3)]
    assert all(own) and not own[0] & own[1] and not own[1] & own[2]


@pytest.mark.parametrize("seed", range(6))
def test_ranges_of_random_families(tmp_path: Path, seed: int) -> None:
    """Layers of random sizes and forms, some weights equal in all models or in two, types of all widths."""
    rng = np.random.default_rng(seed)
    paths = random_family(tmp_path, rng)
    io = ("separate", "stacked", "selected")[seed % 3]
    out, report = merged(tmp_path, paths, io=io, verify=False, target=("generic", "cpu")[seed % 2])
    check_views(out, paths)
    assert netfuse_onnx.bundle(out).ok
    if io != "selected":
        assert report.views.share > 0.85, report.views.weights


def random_family(folder: Path, rng: np.random.Generator) -> list[str]:
    """Write three models of random layers."""
    width, lines, made = int(rng.integers(5, 40)), [], dict[str, list[np.ndarray]]()
    first, text = width, "x"
    for k in range(int(rng.integers(2, 5))):
        wide = int(rng.integers(5, 40))
        turned, how = bool(rng.integers(2)), int(rng.integers(3))
        shape = (wide, width) if turned else (width, wide)
        each = [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]
        made[f"w{k}"] = [each[0]] * 3 if how == 0 else [each[0], each[1], each[0]] if how == 1 else each
        lines.append(f"h{k} = Gemm <transB = {int(turned)}> ({text}, w{k})")
        text, width = f"h{k}", wide
    source = f"g (float[n, {first}] x) => (float[n, {width}] y) {{ {' '.join(lines)} y = Relu({text}) }}"
    paths = []
    for model in range(3):
        proto = families.model(source)
        for name, values in made.items():
            proto.graph.initializer.append(numpy_helper.from_array(values[model], name))
        paths.append(families.save(folder / f"{'abc'[model]}.onnx", proto))
    return paths


def test_equal_weights_are_one_range_and_own_ones_are_not(tmp_path: Path) -> None:
    paths = mlps(tmp_path)
    protos = [onnx.load(path) for path in paths]
    for proto in protos:
        proto.graph.initializer[0].CopyFrom(protos[0].graph.initializer[0])
    for path, proto in zip(paths, protos, strict=True):
        onnx.save(proto, path)
    out, _ = merged(tmp_path, paths)
    a, b, c = (ranges(out, model) for model in range(3))
    assert a["w1"] == b["w1"] == c["w1"]
    assert len({a["w2"], b["w2"], c["w2"]}) == 3


def test_external_data_bodies_functions_and_constants(tmp_path: Path) -> None:
    """Weights lie in other files, in bodies, in Constant nodes, and in functions."""
    paths = []
    for k in range(2):
        rng = np.random.default_rng(k)
        values = {name: rng.standard_normal((20, 20)).astype(np.float32) for name in ("w", "f", "k", "i")}
        proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["": 17, "own": 1]>
            g (float[n, 20] x, bool c) => (float[n, 20] y) {
                h = MatMul(x, w)
                g = own.F(h)
                y = If (c) <then_branch = t () => (float[n, 20] a) { a = MatMul(g, i) },
                            else_branch = e () => (float[n, 20] b) { b = Neg(g) }>
            }
            <opset_import: ["": 17], domain: "own"> F (p) => (q) { r = Constant <value = float[1] {1}> () q = MatMul(p, r) }""")
        proto.functions[0].node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(values["f"]))
        constant = onnx.helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(values["k"]))
        proto.graph.node.insert(0, constant)
        proto.graph.node[1].input[1] = "w"
        last = onnx.helper.make_node("MatMul", ["h", "k"], ["h2"])
        proto.graph.node.insert(2, last)
        proto.graph.node[3].input[0] = "h2"
        proto.graph.initializer.append(numpy_helper.from_array(values["w"], "w"))
        body = proto.graph.node[4].attribute[0].g
        body.initializer.append(numpy_helper.from_array(values["i"], "i"))
        path = str(tmp_path / f"{'ab'[k]}.onnx")
        onnx.save(proto, path, save_as_external_data=True, location=f"{k}.bin", size_threshold=0)
        paths.append(path)
    out, report = merged(tmp_path, paths)
    check_views(out, paths)
    assert report.views.share == 1.0, report.views.weights
    assert len(ranges(out, 1)) == 4


def test_what_the_merged_file_does_not_hold_is_stored_once_more(tmp_path: Path) -> None:
    """Nothing reads two weights, of which one is equal in all models."""
    paths = families.family(tmp_path, families.MLP_TEXT, {**WIDE, "own": (40, 40)}, count=3)
    for path in paths:
        proto = onnx.load(path)
        proto.graph.initializer.append(numpy_helper.from_array(np.arange(500), "equal"))
        proto.graph.initializer[-1].dims[:] = [5, 100]
        onnx.save(proto, path)
    out, report = merged(tmp_path, paths)
    check_views(out, paths)
    again = {row.weight: row for row in report.views.weights}
    assert (again["equal"].bytes, again["equal"].copies, again["equal"].views) == (4000, 1, 3)
    assert (again["own"].bytes, again["own"].copies, again["own"].views) == (6400, 3, 3)
    assert all("does not hold it" in row.why for row in again.values())
    assert report.views.again == 3 * (4000 + 6400) and netfuse_onnx.bundle(out, paths).ok
    (extra,) = (name for name in os.listdir(out) if name.startswith("views-"))
    own = [ranges(out, model) for model in range(3)]
    assert own[0]["equal"] == own[2]["equal"] and own[0]["equal"][0] == own[1]["own"][0] == extra
    assert len({each["own"] for each in own}) == 3


def test_partial_families_share_what_is_alike(tmp_path: Path) -> None:
    paths = mlps(tmp_path, 2)
    wide = families.model(families.MLP_TEXT.replace("4]", "7]"), {**WIDE, "w2": (64, 7)}, seed=9)
    paths.append(families.save(tmp_path / "c.onnx", wide))
    out, report = merged(tmp_path, paths, partial=True)
    check_views(out, paths)
    assert report.views.share == 1.0


def test_adapters_have_views_with_branches(tmp_path: Path) -> None:
    adapters = [adapter(tmp_path, "one"), adapter(tmp_path, "two", rank=3)]
    paths = netfuse_onnx.adapters(base(tmp_path), [one.path for one in adapters])
    out, report = merged(tmp_path, paths)
    assert not any(row.exact for row in report.views.views)
    assert report.proof.views.ok and netfuse_onnx.bundle(out, paths).ok
    assert all(view.note for view in reader.read(out).views)


def test_low_rank_differences_have_views_with_branches(tmp_path: Path) -> None:
    """Own names of inputs and outputs stay those of each model."""
    rng = np.random.default_rng(3)
    first = rng.standard_normal((96, 96)).astype(np.float32)
    paths = []
    for k in range(3):
        change = rng.standard_normal((96, 2)) @ rng.standard_normal((2, 96)) * 0.05 * (k > 0)
        proto = families.model(
            f"g (float[n, 96] x{k}) => (float[n, 96] y) {{ h = MatMul(x{k}, w) y = Relu(h) }}"
        )
        proto.graph.initializer.append(numpy_helper.from_array((first + change).astype(np.float32), "w"))
        paths.append(families.save(tmp_path / f"{'abc'[k]}.onnx", proto))
    out, report = merged(tmp_path, paths, low_rank=1e-6)
    assert report.low_rank.weights and report.proof.views.ok
    assert [view.inputs for view in reader.read(out).views] == [("x0",), ("x1",), ("x2",)]
    assert report.views.share == 1.0 and not report.views.views[0].exact
    assert netfuse_onnx.bundle(out, paths).ok


# --------------------------------------------------------------------------- the batch


def test_the_manifest_says_why_rows_are_not_apart(tmp_path: Path) -> None:
    text = families.MLP_TEXT.replace("y = MatMul(r, w2)", "m = MatMul(r, w2) y = Softmax <axis = 0> (m)")
    out, _ = merged(tmp_path, families.family(tmp_path, text, WIDE), verify=False)
    bundle = reader.read(out)
    assert not bundle.rows_apart and "Softmax" in bundle.mixes and str(tmp_path) not in bundle.mixes


def test_a_fixed_batch_is_one_row(tmp_path: Path) -> None:
    text = families.MLP_TEXT.replace("[n, ", "[1, ")
    out, _ = merged(tmp_path, families.family(tmp_path, text, WIDE), verify=False)
    bundle = reader.read(out)
    assert (bundle.batch, bundle.rows, bundle.mixes) == ((), ("x",), batch.FIXED)


@pytest.mark.parametrize("seconds", [60.0, -1.0])
def test_an_analysis_that_fails_or_takes_long_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(batch, "SECONDS", seconds)
    if seconds > 0:
        monkeypatch.setattr("netfuse_onnx.plan.rows_apart.SPECIAL", None)
    out, _ = merged(tmp_path, mlps(tmp_path), verify=False)
    bundle = reader.read(out)
    assert not bundle.rows_apart
    assert ("AttributeError" if seconds > 0 else "not known in time") in bundle.mixes


# --------------------------------------------------------------------------- the folder


def test_the_same_merge_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = mlps(tmp_path)
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        out, _ = merged(tmp_path / name, paths, verify=False)
        found.append(content(out))
    assert found[0] == found[1]


def test_a_new_bundle_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """Files of others stay, those with names like ours too."""
    paths = mlps(tmp_path)
    out, _ = merged(tmp_path, paths[:2], verify=False)
    old = set(content(out))
    others = {"tokenizer.json", "view-9-0123456789abcdef.onnx", "merged-01234567.data"}
    for name in others:
        (Path(out) / name).write_text("mine")
    merged(tmp_path, paths[1:], verify=False)
    left, now = set(content(out)), set(reader.read(out).files)
    assert left == old | now | others  # a session that has the old one open may open its views
    check_views(out, paths[1:])
    merged(tmp_path, paths[:1] + paths[2:], verify=False)
    left, last = set(content(out)), set(reader.read(out).files)
    assert left == now | last | others | {reader.MANIFEST}
    assert netfuse_onnx.bundle(out).ok


def test_no_file_of_another_is_overwritten(tmp_path: Path) -> None:
    """A file beside the bundle has the name that one of the next bundle's files would get."""
    paths = mlps(tmp_path)
    next_one, _ = merged(tmp_path, paths, verify=False)
    for name in sorted(set(os.listdir(next_one)) - {reader.MANIFEST}):
        out = str(tmp_path / f"of-{name}-")
        netfuse_onnx.merge(paths[:2], out, views=True, verify=False)
        (Path(out) / name).write_text("mine")
        before = content(out)
        with pytest.raises(FileFault, match="no file of the bundle"):
            netfuse_onnx.merge(paths, out, views=True, verify=False)
        assert content(out) == before and netfuse_onnx.bundle(out).ok


@pytest.mark.parametrize("kind", ["file", "stranger", "manifest", "later", "torn"])
def test_what_is_no_bundle_is_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "served"
    held = {"stranger": ("thesis.txt", "mine"), "manifest": (reader.MANIFEST, '{"name": "app"}')}
    held |= {
        "later": (reader.MANIFEST, '{"netfuse_bundle": 2, "version": "9"}'),
        "torn": (reader.MANIFEST, "{"),
    }
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / held[kind][0]).write_text(held[kind][1])
    with pytest.raises(FileFault) as refused:
        merged(tmp_path, mlps(tmp_path))
    assert str(out) in refused.value.message and refused.value.hint
    assert out.is_file() or content(str(out)) == {held[kind][0]: held[kind][1].encode()}


def test_views_need_a_folder_and_a_data_file(tmp_path: Path) -> None:
    paths = mlps(tmp_path)
    with pytest.raises(UsageFault, match="Name a folder"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), views=True)
    with pytest.raises(UsageFault, match="single-file"):
        merged(tmp_path, paths, data="single")
    with pytest.raises(FileFault, match="does not exist"):
        netfuse_onnx.merge(paths, str(tmp_path / "no" / "served"), views=True)
    assert not (tmp_path / "served").exists()


def test_a_bundle_is_not_replaced_by_one_of_its_own_views(tmp_path: Path) -> None:
    out, _ = merged(tmp_path, mlps(tmp_path), verify=False)
    before = content(out)
    with pytest.raises(FileFault, match="own files"):
        merged(tmp_path, reader.read(out).view_paths, names=["p", "q", "r"])
    assert content(out) == before


def test_a_failed_proof_leaves_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = mlps(tmp_path)
    out, _ = merged(tmp_path, paths, verify=False)
    before = content(out)
    real = Index.region

    def others(self: Index, weight: Weight, model: int) -> Region | None:
        """Find the weight of the next model in the place of a's."""
        region = real(self, weight, model)
        assert region is not None and region.offset is not None
        return replace(region, offset=region.offset + region.length) if model == 0 else region

    monkeypatch.setattr(Index, "region", others)
    with pytest.raises(netfuse_onnx.ValuesDiffer, match="view of a"):
        merged(tmp_path, paths[::-1], names=["a", "b", "c"])
    assert content(out) == before
    with pytest.raises(netfuse_onnx.ValuesDiffer):
        netfuse_onnx.merge(paths, str(tmp_path / "other"), views=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("call", ["replace", "rename", "fsync", "mkdir", "unlink"])
def test_whatever_fails_the_folder_holds_one_whole_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Each call of the system in turn ends the process, as a power cut would."""
    paths = mlps(tmp_path)
    out, _ = merged(tmp_path, paths[:2], verify=False)
    for count in range(1, 40):
        child = os.fork()
        if child == 0:
            _die_at(monkeypatch, call, count)
            try:
                merged(tmp_path, paths, verify=False)
            finally:
                os._exit(0 if count else 1)
        _, status = os.waitpid(child, 0)
        bundle = netfuse_onnx.bundle(out)
        assert bundle.ok and bundle.models in (("a", "b"), ("a", "b", "c"))
        if os.WEXITSTATUS(status) == 0:
            break
        before = reader.read(out).files
        merged(tmp_path, paths[:2], verify=False)
        assert set(content(out)) == {*before, *reader.read(out).files, reader.MANIFEST}
    else:
        pytest.fail("the merge never ended")
    assert count > 1 or call == "mkdir"


def _die_at(monkeypatch: pytest.MonkeyPatch, call: str, count: int) -> None:
    real: Callable[..., Any] = getattr(os, call)
    left = count

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            os._exit(3)
        return real(*arguments, **named)

    monkeypatch.setattr(os, call, dying)


# --------------------------------------------------------------------------- checks


@pytest.mark.parametrize("ending", [".data", ".onnx"])
def test_a_file_with_another_byte_is_found(tmp_path: Path, run: Run, ending: str) -> None:
    out, _ = merged(tmp_path, mlps(tmp_path), verify=False)
    for path in sorted(Path(out).glob(f"*{ending}")):
        whole = path.read_bytes()
        for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            code, text, _ = run("bundle", out)
            assert code == 1 and path.name in text
        path.write_bytes(whole)
    assert run("bundle", out)[0] == 0


def test_a_session_opens_no_graph_or_manifest_of_something_else(tmp_path: Path) -> None:
    paths = mlps(tmp_path)
    out, _ = merged(tmp_path, paths, verify=False)
    bundle = reader.read(out)
    for path in (bundle.merged_path, *bundle.view_paths):
        whole = Path(path).read_bytes()
        for place in range(0, len(whole), 97):
            flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            Path(path).write_bytes(flipped)
            with pytest.raises(FileFault, match="SHA-256"):
                netfuse_onnx.MergedSession(out, calibrate=0.0)
        Path(path).write_bytes(whole)
    manifest = (Path(out) / reader.MANIFEST).read_text()

    def others(value: dict[str, Any]) -> None:
        value["models"][0]["name"], value["models"][1]["name"] = "b", "a"

    def few(value: dict[str, Any]) -> None:
        del value["models"][2]

    for change, said in ((others, "models"), (few, "models"), (lambda v: v.update(io="stacked"), "inputs and"),
                         (lambda v: v.update(share=["x"]), "shared inputs")):  # fmt: skip
        rewritten(out, change)
        with pytest.raises(FileFault, match=f"name other {said}"):
            netfuse_onnx.MergedSession(out, calibrate=0.0)
        (Path(out) / reader.MANIFEST).write_text(manifest)
    netfuse_onnx.MergedSession(out, calibrate=0.0).close()


def rewritten(out: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of a bundle, and give each file that it names its true hash."""
    path = Path(out) / reader.MANIFEST
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_view_that_reads_another_models_weights_is_found(tmp_path: Path) -> None:
    """The views of a and b change places; all hashes and names are right."""
    paths = mlps(tmp_path)
    out, _ = merged(tmp_path, paths, verify=False)

    def exchange(value: dict[str, Any]) -> None:
        a, b = value["models"][:2]
        a["view"], b["view"] = b["view"], a["view"]

    rewritten(out, exchange)
    answer = netfuse_onnx.bundle(out)
    assert not answer.ok and "not that model's" in answer.problems[0]

    def own(value: dict[str, Any]) -> None:
        rows = value["regions"][value["data"]]
        value["regions"][value["data"]] = [
            [at + k * size, size, "all"] for at, size, who in rows for k in range(3 if who == "each" else 1)
        ]

    rewritten(out, own)
    assert netfuse_onnx.bundle(out).ok  # the manifest says so itself
    answer = netfuse_onnx.bundle(out, paths)
    assert not answer.ok and "bit for bit" in answer.fault.message
    assert netfuse_onnx.bundle(out, [paths[1], paths[0], paths[2]], names=["b", "a", "c"]).ok is False


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("io", "stacked", "other inputs and outputs"),
        ("share", ["x"], "other shared inputs"),
        ("rows_apart", "", "damaged"),
        ("regions", {}, "not that model's"),
        ("regions", {"x": []}, "damaged"),
        ("regions", 3, "damaged"),
        ("again", [{"weight": 3}], "damaged"),
        ("models", [], "damaged"),
    ],
)
def test_a_manifest_that_says_something_else_is_found(
    tmp_path: Path, run: Run, key: str, value: Any, said: str
) -> None:
    out, _ = merged(tmp_path, mlps(tmp_path), verify=False)
    rewritten(out, lambda manifest: manifest.update({key: value}))
    code, text, message = run("bundle", out)
    assert code == (3 if said == "damaged" else 1) and said in text + message


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", ".", "..", ".x", "", reader.MANIFEST, "x" * 300, "\n"]
)
def test_a_manifest_names_files_of_its_own_folder_alone(tmp_path: Path, name: str) -> None:
    out, _ = merged(tmp_path, mlps(tmp_path, 2), verify=False)
    rewritten(out, lambda value: value["files"].update({name: {"bytes": 0, "sha256": "0" * 64}}))
    with pytest.raises(FileFault, match="no plain name"):
        reader.read(out)


def test_hostile_manifests_are_one_sentence(tmp_path: Path) -> None:
    """Each value of a manifest is replaced by others, one at a time: the reader refuses or reads it."""
    out, _ = merged(tmp_path, mlps(tmp_path, 2), verify=False)
    text = reader.manifest(out)
    odd = [None, True, -1, 2**70, 1.5, "", "../a", "a/b", "\ud800", [], [[]], {}, {"a": 1}, "x" * 300]
    for change in odd:
        for path in _places(json.loads(text)):
            value = json.loads(text)
            holder = value
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] = change
            found = _parsed(out, json.dumps(value).encode())
            assert all(
                os.path.dirname(os.path.join(out, name)) == out for name in (found.files if found else ())
            )
    for torn in (text[:-9], b"", b"\xff", b"[" * 100_000, b"[1]", b"NaN"):
        with pytest.raises(FileFault):
            reader.parse(out, torn)


def _parsed(out: str, text: bytes) -> reader.Bundle | None:
    """Read a manifest, or return None where it is refused in one sentence."""
    try:
        return reader.parse(out, text)
    except FileFault as fault:
        if len(fault.message) > 600 or not fault.hint:
            raise
        return None


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, entry in items for place in ((*path, key), *_places(entry, (*path, key)))]


def test_a_reader_sees_one_bundle_or_the_other(tmp_path: Path) -> None:
    """The bundle is replaced twice while it is opened: the last one is opened in its place."""
    paths = mlps(tmp_path)
    out, _ = merged(tmp_path, paths[:2], verify=False)
    seen = []

    def use(bundle: reader.Bundle) -> list[str]:
        seen.append(bundle.models)
        if len(seen) == 1:
            merged(tmp_path, paths[1:], verify=False)
            merged(tmp_path, paths, verify=False)
        return [session(path).get_inputs()[0].name for path in bundle.view_paths]

    assert reader.opened(out, use) == ["x"] * 3 and seen == [("a", "b"), ("a", "b", "c")]
    with pytest.raises(ZeroDivisionError):
        reader.opened(out, lambda _: 1 // 0)  # type: ignore[arg-type, return-value]


def test_readers_and_two_writers_at_once(tmp_path: Path) -> None:
    """Each reader opens one whole bundle, whatever is being written; the last writer's stays."""
    paths = mlps(tmp_path)
    out, _ = merged(tmp_path, paths, verify=False)
    done = threading.Event()

    def write(models: Sequence[str]) -> None:
        for _ in range(4):
            netfuse_onnx.merge(models, out, views=True, verify=False)

    def use(bundle: reader.Bundle) -> list[str]:
        session(bundle.merged_path)
        return [session(path).get_inputs()[0].name for path in bundle.view_paths]

    def read() -> int:
        count = 0
        while not done.is_set():
            assert set(reader.opened(out, use)) == {"x"}
            count += 1
        return count

    with ThreadPoolExecutor() as pool:
        opened = pool.submit(read)
        for writer in [pool.submit(write, paths[:2]), pool.submit(write, paths[1:])]:
            writer.result()
        done.set()
        assert opened.result() > 1
    assert netfuse_onnx.bundle(out).ok
    last = reader.read(out).files
    netfuse_onnx.merge(paths, out, views=True, verify=False)
    assert set(os.listdir(out)) == {*last, *reader.read(out).files, reader.MANIFEST}


def test_folders_without_a_bundle(tmp_path: Path, run: Run) -> None:
    for path in (tmp_path, tmp_path / "no", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        code, _, message = run("bundle", path)
        assert code == 3 and "error:" in message
        with pytest.raises(FileFault):
            reader.read(str(path))


# --------------------------------------------------------------------------- the command line


def test_the_command_line(tmp_path: Path, run: Run) -> None:
    paths = mlps(tmp_path)
    out = tmp_path / "served"
    code, _, text = run("merge", *paths, "-o", out, "--views")
    assert code == 0 and "Views: 3, 100.0% of whose weights" in text
    assert "Views: 9 outputs of 3 views are those of their sources" in text
    code, shown, _ = run("bundle", out, *paths)
    assert code == 0 and "bit for bit" in shown and "Ranges: 6" in shown
    code, shown, _ = run("bundle", out, *paths, "--json")
    answer = json.loads(shown)
    assert code == 0 and answer["ok"] and answer["proof"]["views"] == 3 and answer["ranges"] == 6
    assert answer["views"]["shared"] == 3 * 4 * (8 * 64 + 64 * 4)
