"""`check` of many models: the families that they fall into, what differs, who wrote them, and the bytes that a
merge stores. A merged model is no source.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import samples
from commands import Run, refused
from families import MLP, MLP_TEXT, family, model, save
from onnx import TensorProto, helper, numpy_helper

import netfuse_onnx
from netfuse_onnx import api, families, sources
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.load import producer
from netfuse_onnx.match import matcher
from netfuse_onnx.report import CheckReport, FamilyRow
from netfuse_onnx.types import Correspondence, Source

OTHERS = {
    "relu": MLP_TEXT,
    "sigmoid": MLP_TEXT.replace("Relu", "Sigmoid"),
    "longer": MLP_TEXT.replace("y = MatMul(r, w2)", "s = Neg(r)  y = MatMul(s, w2)"),
}


def written(folder: Path, texts: dict[str, str]) -> list[str]:
    """A file for each name, of that text."""
    return [
        save(folder / f"{name}.onnx", model(text, MLP, seed=i))
        for i, (name, text) in enumerate(texts.items())
    ]


def named(report: CheckReport) -> list[tuple[str, ...]]:
    return [row.models for row in report.families]


# --------------------------------------------------------------------------- which models fit


def test_all_models_that_do_not_fit_are_listed_with_their_first_difference(tmp_path: Path, run: Run) -> None:
    texts = {
        "spam": "relu",
        "odd": "longer",
        "stars": "sigmoid",
        "toxicity": "relu",
        "mood": "sigmoid",
        "d": "relu",
    }
    paths = written(tmp_path, {name: OTHERS[text] for name, text in texts.items()})
    report = netfuse_onnx.check(paths)
    assert not report.ok
    assert named(report) == [("spam", "toxicity", "d"), ("stars", "mood"), ("odd",)]
    assert [row.operators for row in report.families] == [4, 4, 5]
    first, second, third = (row.difference for row in report.families)
    assert first is None and second is not None and third is not None
    assert (second.kind, second.files) == ("operator", (paths[0], paths[2]))
    assert (second.nodes, second.operators) == (("r", "r"), ("Relu", "Sigmoid"))
    assert (second.left, second.right) == ("Relu", "Sigmoid")
    assert (third.kind, third.files) == ("connection", (paths[0], paths[1]))
    assert (third.nodes, third.operators) == (("y", "y"), ("MatMul", "MatMul"))
    assert (third.left, third.right) == ("the result of Relu 'r'", "the result of Neg 's'")
    code, out, err = run("check", *paths)
    assert (code, out) == (1, "")
    assert err.startswith(
        "Not equivalent: 3 families: spam, toxicity, d (4 operators); stars, mood (4 operators); "
        "odd (5 operators).\n"
    )
    for difference in (second, third):
        assert f"  {difference.message}\n    {difference.hint}\n" in err
    answer = run("merge", *paths, "-o", tmp_path / "m.onnx")
    refused(answer, 1, "There are 3 families: spam, toxicity, d (4 operators); stars, mood (4 operators)")


def test_a_hundred_models_of_three_families_are_matched_once_each(tmp_path: Path) -> None:
    """Every match counts the models that it compares with another one."""
    texts = {f"m{i:02}": [*OTHERS.values()][i % 3] for i in range(100)}
    models = sources.read(written(tmp_path, texts))
    compared = []

    def match(some: list[Source], names: list[str]) -> Correspondence:
        compared.append(len(some) - 1)
        return matcher.match(some, names)

    rows = families.rows(models, list(texts), match)
    assert [len(row.models) for row in rows] == [34, 33, 33]
    assert [row.models[:2] for row in rows] == [("m00", "m03"), ("m01", "m04"), ("m02", "m05")]
    assert sum(compared) <= 97 + 2 * 3
    assert len(compared) <= 3 + 2 * 3


def test_models_that_do_not_look_alike_may_fit(tmp_path: Path) -> None:
    """Default or explicit attributes, another opset, other names and orders are no difference."""
    text = "g (float[n, 8] x) => (float[n, 8] y) {{ h = LeakyRelu {} (x)  y = Mul(h, w) }}"
    plain, explicit = text.format(""), text.format("<alpha = 0.01>")
    other = "g (float[k, 8] x) => (float[k, 8] y) { a = LeakyRelu(x)  b = Identity(a)  y = Mul(v, b) }"
    protos = [
        model(plain, {"w": (8,)}),
        model(explicit, {"w": (8,)}),
        model(other, {"v": (8,)}),
        model(plain, {"w": (8,)}, opset=13),
        model(plain.replace("Mul", "Add"), {"w": (8,)}),
        model(text.format("<alpha = 0.5>"), {"w": (8,)}),
        model(explicit.replace("Mul", "Add"), {"w": (8,)}),
    ]
    paths = [save(tmp_path / f"{name}.onnx", proto) for name, proto in zip("abcdefg", protos, strict=True)]
    report = netfuse_onnx.check(paths)
    assert named(report) == [("a", "b", "c", "d"), ("e", "g"), ("f",)]
    assert named(netfuse_onnx.check(paths, partial=True)) == [("a", "b", "c", "d", "f"), ("e", "g")]
    assert netfuse_onnx.check(paths[:4]).ok


@pytest.mark.parametrize("order", ["abc", "acb", "bca", "cba", "bac", "cab"])
def test_sizes_are_not_transitive(tmp_path: Path, order: str) -> None:
    """n takes 1 and n takes 2, and yet the three are no family; the first that fits has it."""
    text = "g (float[{}, 4] x) => (float[m, 4] y) {{ y = Mul(x, w) }}"
    sizes = {"a": "n", "b": "1", "c": "2"}
    paths = [save(tmp_path / f"{name}.onnx", model(text.format(sizes[name]), {"w": (4,)})) for name in order]
    report = netfuse_onnx.check(paths)
    assert not report.ok
    found = named(report)
    assert len(found) == 2 and len(found[0]) == 2 and "a" in found[0]
    assert netfuse_onnx.check([str(tmp_path / f"{name}.onnx") for name in found[0]]).ok
    difference = report.families[1].difference
    assert difference is not None
    assert (difference.kind, difference.value) == ("input", "x")
    assert {difference.left, difference.right} == {"1", "2"}


@pytest.mark.parametrize(
    ("text", "weights", "kind", "value", "sides"),
    [
        (MLP_TEXT, MLP | {"w2": (16, 5)}, "weight", "w2", ("float32[16,4]", "float32[16,5]")),
        (MLP_TEXT.replace("x)", "x, float[n] z)", 1), MLP, "input", "", ("1", "2")),
        (MLP_TEXT.replace("n, 8]", "n, 3, 8]"), MLP, "input", "x", ("2", "3")),
        (MLP_TEXT.replace("y)", "y, float[n, 16] r)", 1), MLP, "output", "", ("1", "2")),
        (MLP_TEXT.replace("Add(h, b1)", "Add(b1, b1)"), MLP, "connection", "", None),
    ],
    ids=["weight", "inputs", "rank", "outputs", "connection"],
)
def test_the_kinds_of_differences(
    tmp_path: Path,
    text: str,
    weights: dict[str, tuple[int, ...]],
    kind: str,
    value: str,
    sides: tuple[str, str] | None,
) -> None:
    paths = family(tmp_path)
    other = save(tmp_path / "other.onnx", model(text, weights))
    difference = netfuse_onnx.check([*paths, other]).families[1].difference
    assert difference is not None
    assert (difference.kind, difference.value) == (kind, value)
    assert difference.files == (paths[0], other)
    if sides:
        assert (difference.left, difference.right) == sides


def test_a_value_that_decides_a_shape(tmp_path: Path) -> None:
    paths = []
    for name, size in (("a", 2), ("b", 4), ("c", 2)):
        proto = model("g (float[8] x) => (float[p, q] y) { y = Reshape(x, s) }")
        proto.graph.initializer.append(numpy_helper.from_array(np.array([size, 8 // size]), "s"))
        paths.append(save(tmp_path / f"{name}.onnx", proto))
    rows = netfuse_onnx.check(paths).families
    assert [row.models for row in rows] == [("a", "c"), ("b",)]
    difference = rows[1].difference
    assert difference is not None
    assert (difference.kind, difference.value) == ("size", "s")
    assert (difference.left, difference.right) == ("[2, 4]", "[4, 2]")


def test_files_that_can_not_be_read_do_not_hide_the_others(tmp_path: Path, run: Run) -> None:
    texts = {"a": "relu", "b": "sigmoid", "c": "relu"}
    paths = written(tmp_path, {name: OTHERS[text] for name, text in texts.items()})
    (tmp_path / "bad.onnx").write_text("This is no model.\n" * 30)
    given = [str(tmp_path / "none.onnx"), *paths, str(tmp_path / "bad.onnx")]
    code, out, err = run("check", *given)
    assert (code, out) == (3, "")
    assert err.startswith("Of those that can be read: 2 families: a, c (4 operators); b (4 operators).\n")
    assert "netfuse-onnx: error: 2 of 5 files can't be read: " in err
    assert "none.onnx does not exist" in err and "bad.onnx is not a" in err
    with pytest.raises(FileFault) as caught:
        netfuse_onnx.check(given)
    assert isinstance(caught.value.report, CheckReport)
    assert [row.model for row in caught.value.report.unreadable] == ["none", "bad"]


# --------------------------------------------------------------------------- who wrote them


def marked(*names: str, version: str = "2.13.0", tool: str = "pytorch", key: str = "") -> onnx.ModelProto:
    """Nodes of these names, a mark on the last one."""
    nodes = [helper.make_node("Relu", ["x"], [f"y{i}"], name) for i, name in enumerate(names)]
    if key:
        nodes[-1].metadata_props.add(key=key, value="x")
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    proto = helper.make_model(helper.make_graph(nodes, "g", [info], []))
    proto.producer_name, proto.producer_version = tool, version
    return proto


@pytest.mark.parametrize(
    ("proto", "said"),
    [
        (marked("/conv/Relu"), "pytorch 2.13.0, TorchScript"),
        (marked("a", "/conv/Relu_1"), "pytorch 2.13.0, TorchScript"),
        (marked("Relu_3", version="1.12.1"), "pytorch 1.12.1, TorchScript"),
        (marked("node_Relu_3"), "pytorch 2.13.0"),
        (marked("/conv/Gelu"), "pytorch 2.13.0"),
        (marked("node_Relu_3", "n", key="pkg.torch.onnx.name_scopes"), "pytorch 2.13.0, dynamo"),
        (marked("/a/Relu", key="pkg.torch.onnx.name_scopes"), "pytorch 2.13.0, dynamo"),
        (marked("n", key="pkg.mine"), "pytorch 2.13.0"),
        (marked("/a/Relu", tool="tf2onnx", version="1.16"), "tf2onnx 1.16"),
        (marked("n", tool="", version=""), ""),
        (marked("n", tool="t" * 99, version=""), "t" * 77 + "..."),
    ],
)
def test_the_exporter_is_told_where_it_is_sure(proto: onnx.ModelProto, said: str) -> None:
    assert str(producer.of(proto)) == said


@pytest.mark.parametrize(("exporter", "said"), [("torchscript", "TorchScript"), ("dynamo", "dynamo")])
def test_the_exporter_of_exported_files(exporter: str, said: str) -> None:
    paths = samples.exported("mlp", exporter)
    (row,) = netfuse_onnx.check(paths).families
    (made,) = row.producers
    assert (made.name, made.exporter) == ("pytorch", said)
    assert made.version.startswith("2.")


def test_families_in_brief_name_exporters_and_all_that_do_not_fit(tmp_path: Path, run: Run) -> None:
    paths = written(tmp_path, {f"m{i}": OTHERS["relu"] for i in range(10)} | {"x": OTHERS["sigmoid"]})
    for path, tool in ((paths[0], "one"), (paths[3], "two"), (paths[10], "three")):
        proto = onnx.load(path)
        proto.producer_name = tool
        save(Path(path), proto)
    said = families.brief(netfuse_onnx.check(paths).families)
    assert said == (
        "2 families: m0, m1, m2, m3, m4, m5, m6, m7 and 2 more (4 operators, one; two); x (4 operators, three)"
    )
    rows = tuple([FamilyRow((f"k{i}",) * 9, (), 1, 17, ()) for i in range(2)])
    assert "k0 and 1 more (1 operator); " in families.brief(rows)
    assert families.brief(rows).endswith(", ".join(["k1"] * 9) + " (1 operator)")
    assert "(4 operators, one); x (4 operators, three)" in run("check", paths[0], paths[10])[2]


# --------------------------------------------------------------------------- bytes


FROZEN = "g (float[n, 6] x) => (float[n, 6] y) { h = MatMul(x, w1)  i = Relu(h)  y = MatMul(i, w2) }"
CONVS = """g (float[n, 8, 6, 6] x) => (float[n, 8, 6, 6] y) {
    h = Conv <pads = [1, 1, 1, 1]> (x, w1)  i = Conv <pads = [1, 1, 1, 1]> (h, w2)
    y = Conv <pads = [1, 1, 1, 1]> (i, w3)
}"""
GEMM = "g (float[n, 6] x) => (float[n, 5] y) { h = Gemm <transB = 1> (x, w1, w2)  y = Softmax(h) }"
ODD = "g (float[n, 6] x) => (float[n, 6] y, int64[2, k] z) { h = Mul(x, w1)  z = NonZero(h)  y = Tanh(h) }"


@pytest.mark.parametrize(
    ("text", "shapes", "frozen"),
    [
        (FROZEN, {"w1": (6, 6), "w2": (6, 6)}, ""),
        (FROZEN, {"w1": (6, 6), "w2": (6, 6)}, "w2"),
        (CONVS, dict.fromkeys(("w1", "w2", "w3"), (8, 8, 3, 3)), ""),
        (CONVS, dict.fromkeys(("w1", "w2", "w3"), (8, 8, 3, 3)), "w2"),
        (CONVS, dict.fromkeys(("w1", "w2", "w3"), (8, 8, 3, 3)), "w1"),
        (GEMM, {"w1": (5, 6), "w2": (5,)}, ""),
        (GEMM, {"w1": (5, 6), "w2": (5,)}, "w1"),
        (ODD, {"w1": (6,)}, ""),
    ],
)
@pytest.mark.parametrize("models", [2, 5])
def test_check_says_the_bytes_that_merge_stores(
    tmp_path: Path, text: str, shapes: dict[str, tuple[int, ...]], frozen: str, models: int
) -> None:
    paths = []
    for i in range(models):
        proto = model(text, shapes, seed=i)
        for tensor in proto.graph.initializer:
            if tensor.name == frozen:
                tensor.CopyFrom(numpy_helper.from_array(np.ones(shapes[frozen], np.float32), frozen))
        paths.append(save(tmp_path / f"m{i}.onnx", proto))
    report = netfuse_onnx.check(paths)
    merged = netfuse_onnx.merge(paths, str(tmp_path / "merged.onnx"), verify=False)
    held = onnx.load(tmp_path / "merged.onnx").graph.initializer
    sizes = {1: 4, 7: 8, 6: 4, 9: 1}
    stored = sum(math.prod(tensor.dims) * sizes[tensor.data_type] for tensor in held)
    assert report.distinct_bytes == merged.distinct_bytes == stored
    assert report.bytes == models * sum(4 * math.prod(shape) for shape in shapes.values())
    assert report.shared_weights == bool(frozen)


# --------------------------------------------------------------------------- merged models


def test_a_merged_model_is_no_source(tmp_path: Path, run: Run) -> None:
    paths, out, target = family(tmp_path), tmp_path / "m.onnx", tmp_path / "k.onnx"
    assert run("merge", *paths, "-o", out)[0] == 0
    said = f"{out} is a merged model of a, b, not one of the models to merge."
    for arguments in (
        ("check", out, paths[0]),
        ("check", paths[0], out),
        ("check", out, out),
        ("merge", *paths, out, "-o", target),
        ("merge", out, *paths, "-o", target, "--partial", "--no-verify"),
        ("verify", out, paths[0], out),
        ("bench", out, out, paths[1]),
    ):
        answer = run(*arguments)
        refused(answer, 2, str(out), "merged model of a, b", "Give the models that went into it")
    assert said in run("check", paths[0], out)[2]
    again = run("merge", *sorted(map(str, tmp_path.glob("*.onnx"))), "-o", out)
    refused(again, 2, said)
    assert not target.exists()
    document = json.loads(run("check", *paths, out, "--json")[1])
    assert document["error"]["kind"] == "usage"


def test_what_other_tools_make_of_a_merged_model_is_no_source(tmp_path: Path) -> None:
    """A merge of two merged files, by an old version, kept their metadata as a/netfuse_onnx and b/netfuse_onnx."""
    paths = family(tmp_path)
    merged = str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, merged, verify=False)
    proto = onnx.load(merged)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "netfuse_onnx"]
    for key in ("a/netfuse_onnx", "x/a/netfuse_onnx"):
        entry.key = key
        other = save(tmp_path / "other.onnx", proto)
        with pytest.raises(UsageFault, match=f"made of merged models: its metadata hold '{key}', of a, b\\."):
            netfuse_onnx.check([paths[0], other])
    entry.key, entry.value = "netfuse_onnx", json.dumps({**json.loads(entry.value), "format": 99})
    with pytest.raises(UsageFault, match=r"other\.onnx is a merged model of a, b, not one"):
        netfuse_onnx.check([paths[0], save(tmp_path / "other.onnx", proto)])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("my_netfuse_onnx", '{"format": 1, "models": ["a"]}'),
        ("netfuse_onnx", "damaged"),
        ("netfuse_onnx", "[" * 100_000),
        ("a/netfuse_onnx", '{"models": ["a"]}'),
        ("author", '{"format": 1, "models": ["a"]}'),
    ],
)
def test_metadata_that_are_not_a_merged_file_s(tmp_path: Path, key: str, value: str) -> None:
    paths = family(tmp_path)
    for path in paths:
        proto = onnx.load(path)
        proto.metadata_props.add(key=key, value=value)
        save(Path(path), proto)
    assert netfuse_onnx.check(paths).ok


def test_metadata_of_the_sources_own_is_no_merge(tmp_path: Path) -> None:
    paths = family(tmp_path)
    for path in paths:
        proto = onnx.load(path)
        proto.metadata_props.add(key="author", value=path)
        save(Path(path), proto)
    assert netfuse_onnx.check(paths).ok
    out = str(tmp_path / "m.onnx")
    assert netfuse_onnx.merge(paths, out, verify=False).ok
    assert api.inspect(out).models == ("a", "b")
