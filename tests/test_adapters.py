"""LoRA adapters as models: merged with their base they give what their formula says, for every exporter's file."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import Run, refused
from lora_files import MODULES, STYLES, Adapter, adapter, base, expected, safetensors, values
from onnx import TensorProto, helper, numpy_helper

import netfuse_onnx
from netfuse_onnx.errors import AdapterMismatch, FileFault, UsageFault, ValuesDiffer
from netfuse_onnx.load import folded
from netfuse_onnx.load.adapters import adapted, paths
from netfuse_onnx.run.runtime import Runtime, Session
from netfuse_onnx.storage import numbers
from netfuse_onnx.types import Change, Weight

Q, V = MODULES


def merged(folder: Path, base_path: str, adapters: Sequence[Adapter], **options: Any) -> Any:
    """Merge with all proofs; return the report."""
    paths = netfuse_onnx.adapters(base_path, [one.path for one in adapters])
    return netfuse_onnx.merge(paths, str(folder / "merged.onnx"), **options)


def check_values(folder: Path, report: Any, adapters: Sequence[Adapter], left: bool = False) -> None:
    """Compare the merged model with the formula, in numpy."""
    rng = np.random.default_rng(5)
    x = [rng.standard_normal((3, 6)).astype(np.float32) for _ in adapters]
    feeds = {f"{name}/x": part.T if left else part for name, part in zip(report.models, x, strict=True)}
    session = Session(str(folder / "merged.onnx"), Runtime("cpu"))
    result = session.run(feeds)
    for name, part, one in zip(report.models, x, adapters, strict=True):
        got = np.asarray(result[f"{name}/y"])
        want = expected(part, one)
        np.testing.assert_allclose(got.T if left else got, want, rtol=1e-4, atol=1e-4)
        assert np.abs(want - expected(part, Adapter("", {}, {}))).max() > 0.1  # the adapter matters


@pytest.mark.quick
@pytest.mark.parametrize("style", STYLES)
def test_each_exporters_file_merges_with_adapters(tmp_path: Path, style: str) -> None:
    """Ranks differ, and one adapter changes one module alone."""
    some = [
        adapter(tmp_path, "first"),
        adapter(tmp_path, "second", rank=3),
        adapter(tmp_path, "third", rank=1, modules=[V]),
    ]
    report = merged(tmp_path, base(tmp_path, style), some)
    assert report.ok and report.models == ("first", "second", "third")
    assert {(row.module, row.ranks) for row in report.adapters.rows} == {(Q, (2, 3, 0)), (V, (2, 3, 1))}
    check_values(tmp_path, report, some, left=style == "left")


@pytest.mark.parametrize(("ours", "theirs"), [("", "model."), ("model.", ""), ("a.b.", "")])
@pytest.mark.parametrize("style", ["torchscript", "gemm", "dynamo"])
def test_a_prefix_may_be_missing_on_either_side(tmp_path: Path, style: str, ours: str, theirs: str) -> None:
    some = [adapter(tmp_path, name, prefix=f"base_model.model.{theirs}") for name in "ab"]
    report = merged(tmp_path, base(tmp_path, style, prefix=ours), some)
    check_values(tmp_path, report, some)


def test_the_base_is_stored_once(tmp_path: Path) -> None:
    some = [adapter(tmp_path, f"t{k}") for k in range(5)]
    report = merged(tmp_path, base(tmp_path), some)
    stored = sum(np.prod(t.dims) for t in onnx.load(report.out).graph.initializer if t.data_type == 1)
    sizes = 6 * 10 + 10 + 10 * 4 + 4
    assert sizes + 5 * 2 * (6 + 10 + 10 + 4) <= stored <= sizes + 5 * 2 * (6 + 10 + 10 + 4) + 5 * 14


# --------------------------------------------------------------------------- scales


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"lora_alpha": 5}, (2.5, 2.5)),
        ({"lora_alpha": 5, "use_rslora": True}, (5 / 2**0.5, 5 / 2**0.5)),
        ({"alpha_pattern": {"q": 8}}, (4.0, 3.0)),
        ({"alpha_pattern": {"layer.1.v": 8}}, (3.0, 4.0)),
        ({"alpha_pattern": {r".*\.layer\.\d+\.q": 1}}, (0.5, 3.0)),
        ({"rank_pattern": {"q": 2}, "r": 7, "lora_alpha": 4}, None),
    ],
)
def test_the_scale_is_that_of_peft(
    tmp_path: Path, config: dict[str, Any], scales: tuple[float, float] | None
) -> None:
    if scales is None:  # the rank of v would be 7
        wrong = adapter(tmp_path, "a", **config)
        with pytest.raises(FileFault, match="rank 7"):
            merged(tmp_path, base(tmp_path), [wrong, wrong])
        return
    some = [adapter(tmp_path, name, **config) for name in "ab"]
    for one in some:
        one.pairs = {m: (*one.pairs[m][:2], scale) for m, scale in zip(MODULES, scales, strict=True)}
    check_values(tmp_path, merged(tmp_path, base(tmp_path), some), some)


@pytest.mark.parametrize("kind", ["F16", "BF16", "F64"])
def test_other_floats_are_cast(tmp_path: Path, kind: str) -> None:
    some = [adapter(tmp_path, name, kind=kind) for name in "ab"]
    report = merged(tmp_path, base(tmp_path), some)
    assert len(report.adapters.notes) == (kind == "F64")
    check_values(tmp_path, report, some)


def test_a_half_precision_base_takes_adapters(tmp_path: Path) -> None:
    some = [adapter(tmp_path, name) for name in "ab"]
    report = merged(tmp_path, base(tmp_path, "gemm", dtype=TensorProto.FLOAT16), some)
    assert report.ok
    assert "float16" in report.adapters.notes[0]


# --------------------------------------------------------------------------- whole tensors


@pytest.mark.parametrize("style", [style for style in STYLES if style not in ("conv1d", "left")])
def test_a_tensor_that_is_saved_whole_replaces_the_bases(tmp_path: Path, style: str) -> None:
    whole = {f"{V}.weight": values(V, "weight") + 1, f"{V}.bias": values(V, "bias") - 2}
    some = [
        adapter(tmp_path, "a", modules=[Q], replaced=whole),
        adapter(tmp_path, "b", modules=[Q], replaced={f"{V}.bias": whole[f"{V}.bias"]}),
        adapter(tmp_path, "c", modules=[Q]),
    ]
    report = merged(tmp_path, base(tmp_path, style), some)
    assert {row.module: row.replaced for row in report.adapters.rows if row.replaced} == {
        f"{V}.weight": ("a",), f"{V}.bias": ("a", "b")
    }  # fmt: skip
    check_values(tmp_path, report, some)


def test_names_of_wrappers_are_understood(tmp_path: Path) -> None:
    """Older files keep the wrapper in the name of what modules_to_save holds, and that of the bias."""
    some = [
        adapter(
            tmp_path, "a", modules=[Q], replaced={f"{V}.modules_to_save.default.bias": values(V, "bias") * 2}
        )
    ]
    some.append(adapter(tmp_path, "b", modules=[Q], replaced={f"{V}.base_layer.bias": values(V, "bias") * 3}))
    report = merged(tmp_path, base(tmp_path), some)
    for one in some:
        one.replaced = {f"{V}.bias": array for array in one.replaced.values()}
    check_values(tmp_path, report, some)


def test_a_bias_that_is_saved_twice_counts_once(tmp_path: Path) -> None:
    """With bias="all" peft saves that of modules_to_save under two names, and the one that it takes the place of."""
    bias = values(V, "bias") * 2
    own = {
        f"{V}.bias": bias,
        f"{V}.modules_to_save.bias": bias,
        f"{V}.original_module.bias": values(V, "bias"),
    }
    some = [adapter(tmp_path, name, modules=[Q], replaced=own) for name in "ab"]
    report = merged(tmp_path, base(tmp_path), some)
    for one in some:
        one.replaced = {f"{V}.bias": bias}
    check_values(tmp_path, report, some)
    other = adapter(tmp_path, "c", modules=[Q], replaced=own | {f"{V}.bias": bias + 1})
    with pytest.raises(FileFault, match="another tensor"):
        merged(tmp_path, base(tmp_path), [other, other])


# --------------------------------------------------------------------------- convolutions


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_take_adapters(tmp_path: Path, kernel: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, kernel, kernel)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "stem.conv.weight"], ["y"], name="/stem/conv/Conv", pads=[kernel // 2] * 4
    )
    shapes = [[("x"), ["n", 3, 8, 8]], ["y", ["n", 4, 8, 8]]]
    ends = [[helper.make_tensor_value_info(name, 1, dims)] for name, dims in shapes]
    graph = helper.make_graph([node], "g", *ends, [numpy_helper.from_array(weight, "stem.conv.weight")])
    path = tmp_path / "base.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    folders, deltas = [], []
    for rank in (2, 3):
        a = rng.standard_normal((rank, 3, kernel, kernel)).astype(np.float32)
        b = rng.standard_normal((4, rank, 1, 1)).astype(np.float32)
        deltas.append(np.einsum("or,rckl->ockl", b[:, :, 0, 0], a))
        folders.append(tmp_path / f"rank{rank}")
        folders[-1].mkdir()
        names = [f"base_model.model.stem.conv.lora_{part}.weight" for part in "AB"]
        safetensors(folders[-1] / "adapter_model.safetensors", dict(zip(names, (a, b), strict=True)))
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
        (folders[-1] / "adapter_config.json").write_text(json.dumps(config))
    out = str(tmp_path / "merged.onnx")
    assert netfuse_onnx.merge(netfuse_onnx.adapters(str(path), map(str, folders)), out).ok
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    result = Session(out, Runtime("cpu")).run({"rank2/x": x, "rank3/x": x})
    for name, delta in zip(("rank2", "rank3"), deltas, strict=True):
        graph.initializer[0].CopyFrom(numpy_helper.from_array(weight + delta, "stem.conv.weight"))
        alone = Session(
            helper.make_model(
                graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
            ).SerializeToString(),
            Runtime("cpu"),
        )
        np.testing.assert_allclose(result[f"{name}/y"], alone.run({"x": x})["y"], rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------- what proves it


def test_sources_of_the_proof_have_the_products_folded_in(tmp_path: Path) -> None:
    """The file that ONNX Runtime runs for a source has the base's nodes and no others."""
    one = adapter(tmp_path, "a")
    (source,) = adapted(base(tmp_path), [f"{one.path}/adapter_model.safetensors"])
    with folded.opened(source) as path:
        model = onnx.load(path)
        ops = [node.op_type for node in model.graph.node]
        assert ops == [node.op_type for node in onnx.load(source.adapted.base).graph.node]  # type: ignore[union-attr]
        x = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
        got = Session(path, Runtime("cpu")).run({"x": x})["y"]
    np.testing.assert_allclose(got, expected(x, one), rtol=1e-4, atol=1e-4)
    assert not os.path.exists(path)


@pytest.mark.parametrize("dtype", [1, 11, 10, 16])
@pytest.mark.parametrize("by_row", [False, True])
def test_moved_weights_differ_by_their_rounding(dtype: int, by_row: bool) -> None:
    """In every type of floats, bfloat16 too, which is none of numpy's. One step of a number, or of the
    largest one in its row."""
    values = np.random.default_rng(1).uniform(1.0, 2.0, (5, 7)) * 2.0 ** np.arange(7)
    whole = Weight(dtype, values.shape, numbers.encoded(values, dtype))
    held, change = numbers.array(whole), Change("", "w", False, "", "", replaced=None if by_row else whole)
    moved = numbers.array(folded._moved(whole, change, 1)) - held
    largest = held.max(axis=1, keepdims=True) if by_row else held
    assert (np.abs(moved) <= 2 * numbers.last_place(largest, dtype)).all()
    assert len(np.unique(np.sign(moved))) == 3
    assert folded._moved(whole, change, 0) == whole


def test_paths_of_adapters_can_be_copied(tmp_path: Path) -> None:
    (path,) = paths("base.onnx", [str(tmp_path / "a.safetensors")])
    for other in (copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert (other, other.base) == (path, "base.onnx")


def test_adapters_take_no_base_of_low_rank_differences(tmp_path: Path, run: Run) -> None:
    some = [adapter(tmp_path, name) for name in "ab"]
    own = base(tmp_path)
    given = [part for one in some for part in ("--adapter", one.path)]
    out = tmp_path / "m.onnx"
    refused(run("merge", own, *given, "--low-rank", "--base", own, "-o", out), 2, "adapters have theirs")
    assert not out.exists()


def test_a_wrong_branch_fails_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes and the graph agree with the sources' branches; only the folded files tell."""
    from netfuse_onnx.load import adapters as module

    own = module._scaled
    monkeypatch.setattr(module, "_scaled", lambda weight, scale, dtype: own(weight, scale * 1.01, dtype))
    some = [adapter(tmp_path, name) for name in "ab"]
    with pytest.raises(ValuesDiffer):
        merged(tmp_path, base(tmp_path), some)
    assert not (tmp_path / "merged.onnx").exists()


def test_large_weights_go_through_the_data_file(tmp_path: Path) -> None:
    """The base's data is copied once; a changed weight and an unchanged one are read from two files."""
    rng = np.random.default_rng(0)
    text = "g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, w) y = MatMul(h, v) }"
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 17]> {text}')
    model.graph.node[0].name, model.graph.node[1].name = "/q/up/MatMul", "/v/up/MatMul"
    w, v = (rng.standard_normal((64, 64)).astype(np.float32) for _ in "wv")
    model.graph.initializer.extend([numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")])
    onnx.save(model, tmp_path / "base.onnx")
    folders = []
    for k in range(2):
        folders.append(tmp_path / f"a{k}")
        folders[-1].mkdir()
        pair = {
            "q.up.lora_A.weight": rng.standard_normal((2, 64)),
            "q.up.lora_B.weight": rng.standard_normal((64, 2)),
        }
        safetensors(folders[-1] / "adapter_model.safetensors", pair)
        (folders[-1] / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    paths = netfuse_onnx.adapters(str(tmp_path / "base.onnx"), map(str, folders))
    assert netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx")).ok


# --------------------------------------------------------------------------- what does not fit


def test_names_that_match_nothing_are_an_error(tmp_path: Path) -> None:
    wrong = adapter(tmp_path, "a", replaced={"net.head.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(AdapterMismatch, match=r"1 of 3 names match nothing.*net\.head\.weight"):
        merged(tmp_path, base(tmp_path), [wrong, wrong])


def test_a_file_without_names_is_an_error(tmp_path: Path) -> None:
    model = onnx.load(base(tmp_path))
    for i, node in enumerate(model.graph.node):
        node.name = f"n{i}"
        for k, name in enumerate(node.input):
            if name.endswith("bias"):
                node.input[k] = name.replace(".", "_")
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace(".", "_") if tensor.name.endswith("bias") else tensor.name
    onnx.save(model, tmp_path / "plain.onnx")
    some = [adapter(tmp_path, name) for name in "ab"]
    with pytest.raises(AdapterMismatch, match="2 of 2 names match nothing"):
        merged(tmp_path, str(tmp_path / "plain.onnx"), some)


def test_a_shape_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    a, b = np.zeros((2, 7), np.float32), np.zeros((10, 2), np.float32)
    one = adapter(tmp_path, "a", modules=[], replaced={f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b})
    with pytest.raises(AdapterMismatch, match=r"shape \[10, 7\].*has \[10, 6\]"):
        merged(tmp_path, base(tmp_path), [one, one])


def two_towers(folder: Path) -> str:
    """Two modules whose names end alike, `left.net..` and `right.net..`."""
    left, right = (onnx.load(base(folder, prefix=prefix)) for prefix in ("left.", "right."))
    for model, mark in ((left, "l"), (right, "r")):
        for node in model.graph.node:
            node.input[:] = [n if n == "x" else f"{mark}:{n}" if "net" not in n else n for n in node.input]
            node.output[:] = [f"{mark}:{n}" for n in node.output]
            node.name = "" if node.name == "/Relu" else node.name
        for tensor in model.graph.initializer:
            tensor.name = tensor.name if "net" in tensor.name else f"{mark}:{tensor.name}"
    left.graph.node.extend(right.graph.node)
    left.graph.initializer.extend(right.graph.initializer)
    left.graph.node.append(helper.make_node("Add", ["l:y", "r:y"], ["y"]))
    onnx.save(left, folder / "towers.onnx")
    return str(folder / "towers.onnx")


def test_two_places_of_one_name_are_an_error(tmp_path: Path) -> None:
    path = two_towers(tmp_path)
    some = [adapter(tmp_path, name) for name in "ab"]
    with pytest.raises(
        AdapterMismatch, match=r"may be any of 'left\.net\.layer\.0\.q', 'right\.net\.layer\.0\.q'"
    ):
        merged(tmp_path, path, some)
    whole = [adapter(tmp_path, name, prefix="base_model.model.left.") for name in "cd"]
    assert merged(tmp_path, path, whole).ok


def test_layers_are_no_prefix(tmp_path: Path) -> None:
    """`0.q` is the end of `net.layer.0.q`; an adapter of another network must not match by that."""
    some = [adapter(tmp_path, name, modules=[Q], prefix="base_model.model.5.other.") for name in "ab"]
    with pytest.raises(AdapterMismatch, match="match nothing"):
        merged(tmp_path, base(tmp_path), some)


def test_a_weight_of_two_modules_is_no_target(tmp_path: Path) -> None:
    """An exporter stores equal biases once: another bias for one module would be another for both."""
    model = onnx.load(base(tmp_path, prefix="m."))
    (last,) = (node for node in model.graph.node if node.op_type == "Add" and f"m.{V}.bias" in node.input)
    model.graph.node.append(
        helper.make_node("Mul", [last.output[0], f"m.{V}.bias"], ["z"], name="/other/Mul")
    )
    model.graph.output.append(helper.make_tensor_value_info("z", 1, ["n", 4]))
    onnx.save(model, tmp_path / "tied.onnx")
    some = [adapter(tmp_path, name, modules=[Q], replaced={f"{V}.bias": values(V, "bias")}) for name in "ab"]
    with pytest.raises(AdapterMismatch, match="other modules"):
        merged(tmp_path, str(tmp_path / "tied.onnx"), some)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"peft_type": "LOHA"}, "type 'LOHA'"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "'pissa'"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"something_new": 1}, "something_new"),
        ({"r": 0}, "usable r"),
        ({"lora_alpha": True}, "usable lora_alpha"),
        ({"alpha_pattern": {"(a+)+": 1}}, "too complex"),
        ({"alpha_pattern": {"(": 1}}, "is none"),
        ({"alpha_pattern": [1]}, "no object"),
    ],
)
def test_what_is_more_than_lora_is_refused(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    one = adapter(tmp_path, "a", **config)
    with pytest.raises(FileFault, match=said):
        merged(tmp_path, base(tmp_path), [one, one])


@pytest.mark.parametrize(
    "name", ["lora_magnitude_vector", "lora_embedding_A", "hada_w1_a", "lora_A.one.bias"]
)
def test_tensors_of_other_kinds_are_refused(tmp_path: Path, name: str) -> None:
    one = adapter(tmp_path, "a", replaced={f"{Q}.{name}": np.zeros((2, 2), np.float32)})
    with pytest.raises(FileFault, match="no part of plain LoRA"):
        merged(tmp_path, base(tmp_path), [one, one])


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    a = np.zeros((2, 6), np.float32)
    one = adapter(tmp_path, "a", replaced={f"{Q}.lora_A.other.weight": a})
    with pytest.raises(FileFault, match="another tensor"):
        merged(tmp_path, base(tmp_path), [one, one])


def test_an_adapter_without_its_configuration_is_refused(tmp_path: Path) -> None:
    one = adapter(tmp_path, "a")
    os.unlink(f"{one.path}/adapter_config.json")
    with pytest.raises(FileFault, match="no adapter_config"):
        merged(tmp_path, base(tmp_path), [one, one])


def test_files_in_one_folder_have_configurations_of_their_own(tmp_path: Path) -> None:
    some = [adapter(tmp_path, "a"), adapter(tmp_path, "b", rank=3, lora_alpha=3)]
    some[1].pairs = {m: (*pair[:2], 1.0) for m, pair in some[1].pairs.items()}
    for one, name in zip(some, "xy", strict=True):
        shutil.move(f"{one.path}/adapter_model.safetensors", tmp_path / f"{name}.safetensors")
        shutil.move(f"{one.path}/adapter_config.json", tmp_path / f"{name}.json")
        one.path = str(tmp_path / f"{name}.safetensors")
    report = merged(tmp_path, base(tmp_path), some)
    assert report.models == ("x", "y")
    check_values(tmp_path, report, some)


# --------------------------------------------------------------------------- the verbs


@pytest.fixture
def ready(tmp_path: Path) -> tuple[str, list[str], str]:
    """A base, two adapters and their merged file."""
    some = [adapter(tmp_path, name) for name in ("one", "two")]
    path = base(tmp_path)
    merged(tmp_path, path, some)
    return path, [one.path for one in some], str(tmp_path / "merged.onnx")


def options(adapters: Sequence[str]) -> list[str]:
    return list(itertools.chain.from_iterable(("--adapter", one) for one in adapters))


def test_the_command_line_takes_adapters(tmp_path: Path, ready: tuple[str, list[str], str], run: Run) -> None:
    path, adapters, file = ready
    assert run("check", path, *options(adapters))[0] == 0
    assert run("verify", file, path, *options(adapters))[0] == 0
    assert run("verify", file, path, *options([f"two={adapters[1]}", f"one={adapters[0]}"]))[0] == 0
    assert run("bench", file, path, *options(adapters), "--seconds", "1", "--rounds", "2")[0] == 0
    named = [f"x={adapters[0]}", f"y={adapters[1]}"]
    found = json.loads(run("merge", path, *options(named), "-o", tmp_path / "out.onnx", "--json")[1])
    assert found["models"] == ["x", "y"]
    assert found["adapters"]["rows"][0]["evidence"] == "node name"


@pytest.mark.parametrize(
    ("given", "code"),
    [(["BASE", "A", "-o", "OUT"], 2), (["BASE", "BASE", "A", "B", "-o", "OUT"], 2), (["BASE", "A", "B", "-o", "BASE"], 3), (["BASE", "A", "B", "-o", "FILE"], 3)],
)  # fmt: skip
def test_calls_that_make_no_sense(
    tmp_path: Path, ready: tuple[str, list[str], str], run: Run, given: list[str], code: int
) -> None:
    path, adapters, _ = ready
    words = {
        "BASE": path,
        "OUT": str(tmp_path / "out.onnx"),
        "FILE": f"{adapters[0]}/adapter_model.safetensors",
    }
    words |= {"A": f"--adapter={adapters[0]}", "B": f"--adapter={adapters[1]}"}
    before = [Path(words[name]).read_bytes() for name in ("BASE", "FILE")]
    assert run("merge", *(words.get(word, word) for word in given))[0] == code
    assert before == [Path(words[name]).read_bytes() for name in ("BASE", "FILE")]


def test_verify_tells_another_adapter(tmp_path: Path, ready: tuple[str, list[str], str]) -> None:
    path, adapters, file = ready
    paths = netfuse_onnx.adapters(path, [adapters[0], adapter(tmp_path, "three").path])
    report = netfuse_onnx.verify(file, paths)
    assert not report.ok
    assert any("as two: its SHA-256 differs (that of the adapter)" in text for text in report.warnings)
    swapped = netfuse_onnx.adapters(path, adapters[::-1])
    with pytest.raises(UsageFault, match="another order"):
        netfuse_onnx.verify(file, swapped)


def test_verify_tells_another_base(tmp_path: Path, ready: tuple[str, list[str], str]) -> None:
    path, adapters, file = ready
    model = onnx.load(path)
    changed = numpy_helper.to_array(model.graph.initializer[0]) + 1
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, model.graph.initializer[0].name))
    onnx.save(model, tmp_path / "other.onnx")
    report = netfuse_onnx.verify(file, netfuse_onnx.adapters(str(tmp_path / "other.onnx"), adapters))
    assert not report.ok
    assert sum("(that of the base)" in text for text in report.warnings) == 2


def test_verify_wants_adapters_for_a_file_of_adapters(ready: tuple[str, list[str], str], run: Run) -> None:
    path, _, file = ready
    refused(run("verify", file, path, path), 2, "--adapter")
