"""The names at the edge: which input and output of one model is which of another, and what the merged model
calls them. Values are fed and read by the table that the report promises, and compared with the sources'."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import Run, refused
from families import model as build
from families import save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import netfuse_onnx
from netfuse_onnx.errors import NotEquivalent, NotStackable, UsageFault
from netfuse_onnx.load.loader import load
from netfuse_onnx.match import edges
from netfuse_onnx.match.matcher import match
from netfuse_onnx.report import MergeReport
from netfuse_onnx.types import Edge, Graph, ValueType

Table = Mapping[tuple[str, str, str], str]
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def files(folder: Path, *texts: str, weights: Mapping[str, tuple[int, ...]] | None = None) -> list[str]:
    """a.onnx, b.onnx, ...: one per text, with weights of their own."""
    return [
        save(folder / f"{name}.onnx", build(text, dict(weights or {}), seed=k, opset=17))
        for k, (name, text) in enumerate(zip("abcdefgh", texts, strict=False))
    ]


def session(path: str) -> ort.InferenceSession:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def table(report: MergeReport) -> Table:
    """(model, input or output, its own name) -> the name in the merged model."""
    return {(row.model, row.what, row.own): row.merged for row in report.names}


def value(info: ort.NodeArg, rng: np.random.Generator) -> Any:
    """Something that the input of a source takes; 3 for every symbol."""
    if info.type.startswith("seq"):
        return [rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2)]
    shape = [dim if isinstance(dim, int) else 3 for dim in info.shape]
    if "int64" in info.type:
        return rng.integers(0, 4, shape)
    return rng.standard_normal(shape).astype(np.float32)


def agree(paths: Sequence[str], out: str, report: MergeReport) -> None:
    """Every model, fed by its own names, gives what the merged model gives by the names of the table."""
    names, fed, want = table(report), dict[str, Any](), dict[str, Any]()
    for m, (model, path) in enumerate(zip(report.models, paths, strict=True)):
        alone = session(path)
        rng = np.random.default_rng(m)
        own = {info.name: value(info, rng) for info in alone.get_inputs()}
        for name in own:
            once = names[model, "input", name]
            if once in report.share and once in fed:
                own[name] = fed[once]
            if report.io == "stacked" and once not in report.share:
                fed.setdefault(once, []).append(own[name])
            else:
                fed[once] = own[name]
        for info, result in zip(alone.get_outputs(), alone.run(None, own), strict=True):
            want[model, info.name] = (names[model, "output", info.name], m, result)
    merged = session(out)
    fed = {k: np.stack(v) if report.io == "stacked" and k not in report.share else v for k, v in fed.items()}
    assert fed.keys() == {info.name for info in merged.get_inputs()}
    results = dict(zip([o.name for o in merged.get_outputs()], merged.run(None, fed), strict=True))
    assert results.keys() == {name for name, _, _ in want.values()}
    for name, m, right in want.values():
        got = results[name][m] if report.io == "stacked" else results[name]
        for one, two in zip(*[x if isinstance(x, list) else [x] for x in (got, right)], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def right(folder: Path, paths: Sequence[str], **options: Any) -> MergeReport:
    """Merge, compare, and verify the file."""
    out = str(folder / "merged.onnx")
    report = netfuse_onnx.merge(paths, out, **options)
    assert report.proof is not None and report.proof.ok
    agree(paths, out, report)
    assert netfuse_onnx.verify(out, paths).ok
    return report


# --------------------------------------------------------------------------- pairs

TWO = "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] {2}, float[n, 4] {3})"
BODY = " {{ {2} = Sub({4}, {5}) h = MatMul({4}, w) {3} = Mul(h, {5}) }}"
WEIGHTS = {"w": (4, 4)}

EDGES = {
    # inputs and outputs as declared by the second file, then the inputs in the roles of x and y
    "the same names in the same order": ("x", "y", "p", "q", "x", "y"),
    "the same names in another order": ("y", "x", "p", "q", "x", "y"),
    "no name in common": ("one", "two", "three", "four", "one", "two"),
    "no name in common, in another order": ("one", "two", "three", "four", "two", "one"),
    "some names in common": ("x", "other", "p", "result", "x", "other"),
    "some names in common, in another order": ("other", "x", "p", "result", "x", "other"),
    "names of prefixes": ("a/x", "b/y", "a/p", "b/q", "a/x", "b/y"),
    "names that are no identifiers": ("x:0", "a b", "é", "'", "x:0", "a b"),
}


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("what", EDGES)
def test_each_model_keeps_its_own_names(tmp_path: Path, what: str, io: str) -> None:
    paths = []
    for k, names in enumerate((("x", "y", "p", "q", "x", "y"), EDGES[what])):
        # The parser does not take all of these names: they are put in afterwards.
        fresh = {f"v{i}": name for i, name in enumerate(dict.fromkeys(names))}
        plain = {name: spelled for spelled, name in fresh.items()}
        proto = build((TWO + BODY).format(*(plain[name] for name in names)), WEIGHTS, seed=k, opset=17)
        rename(proto, fresh)
        paths.append(save(tmp_path / f"{'ab'[k]}.onnx", proto))
    report = right(tmp_path, paths, io=io)
    own = EDGES[what]
    roles = {"x": own[4], "y": own[5], "p": own[2], "q": own[3]}
    rows = table(report)
    for name, twin in roles.items():
        kind = "input" if name in "xy" else "output"
        expected = (name, name) if io == "stacked" else (f"a/{name}", f"b/{twin}")
        assert (rows["a", kind, name], rows["b", kind, twin]) == expected
    said = [warning for warning in report.warnings if "paired by position" in warning]
    for kind, names in (("Inputs", "xy"), ("Outputs", "pq")):
        unlike = [f"{n!r} of a is {roles[n]!r} of b" for n in names if roles[n] != n]
        told = " ".join(warning for warning in said if warning.startswith(kind))
        assert bool(told) == bool(unlike) and all(pair in told for pair in unlike)


def rename(proto: onnx.ModelProto, names: Mapping[str, str]) -> None:
    graph = proto.graph
    for info in (*graph.input, *graph.output):
        info.name = names.get(info.name, info.name)
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]


def test_one_name_is_never_two_things(tmp_path: Path) -> None:
    """Sub(x, y) and Sub(y, x) are one graph, but not with these names: feeding x would mean two things."""
    text = "g (float[n, 4] x, float[n, 4] y) => (float[n, 4] z) {{ z = Sub({0}, {1}) }}"
    paths = files(tmp_path, text.format("x", "y"), text.format("y", "x"))
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))
    assert f"'x' of {paths[0]} does what 'y' of {paths[1]} does" in caught.value.hint
    assert "Sub 'z'" in caught.value.message


def test_types_decide_where_names_contradict_them(tmp_path: Path) -> None:
    text = "g (int64[n] {0}, float[n, 4] {1}) => (float[n, 4] z) {{ e = Gather(w, {0}) z = Add(e, {1}) }}"
    paths = files(tmp_path, text.format("x", "y"), text.format("y", "x"), weights=WEIGHTS)
    report = right(tmp_path, paths)
    assert table(report)["b", "input", "y"] == "b/y"
    assert "'x' of a is 'y' of b" in " ".join(report.warnings)
    for options in ({"io": "stacked"}, {"share": ["x"]}):
        with pytest.raises(NotStackable, match="'x' of a is not what b calls 'x'"):
            netfuse_onnx.merge(paths, str(tmp_path / "no.onnx"), **options)
    assert not (tmp_path / "no.onnx").exists()


def test_inputs_that_could_be_exchanged_pair_by_name_then_by_position(tmp_path: Path) -> None:
    text = "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] z) {{ h = Add({0}, {1}) z = MatMul(h, w) }}"
    for pair, edge in ((("y", "x"), {"x": "x", "y": "y"}), (("q", "p"), {"x": "q", "y": "p"}),
                       (("q", "x"), {"x": "x", "y": "q"})):  # fmt: skip
        paths = files(tmp_path, text.format("x", "y"), text.format(*pair), weights=WEIGHTS)
        assert match([load(path) for path in paths], "ab").edge(1).inputs == edge
        right(tmp_path, paths)


def test_outputs_pair_by_name_in_any_order(tmp_path: Path) -> None:
    text = "g (float[n, 4] x) => (float[n, 4] {0}, float[n, 4] {1}) {{ p = MatMul(x, w) q = Relu(p) }}"
    report = right(tmp_path, files(tmp_path, text.format("p", "q"), text.format("q", "p"), weights=WEIGHTS))
    assert not [warning for warning in report.warnings if "paired" in warning]


def test_inputs_that_nothing_reads(tmp_path: Path) -> None:
    text = "g (float[n, 4] x, float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] z) {{ z = Sub(x, {1}) }}"
    paths = files(tmp_path, text.format("idle", "y"), text.format("p", "q"))
    right(tmp_path, paths)
    paths = files(tmp_path, text.format("idle", "y"), text.format("p", "q").replace("x, q", "x, p"))
    report = right(tmp_path, paths)  # by position it would be idle
    assert "'idle' of a is 'q' of b, 'y' of a is 'p' of b." in " ".join(report.warnings)


def test_one_input_is_never_two_of_another_model(tmp_path: Path) -> None:
    text = "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] z) {{ z = Sub({2}, {3}) }}"
    for one, two in (
        (("x", "y", "x", "y"), ("p", "q", "p", "p")),
        (("x", "y", "x", "x"), ("p", "q", "p", "q")),
    ):
        with pytest.raises(NotEquivalent):
            netfuse_onnx.merge(
                files(tmp_path, text.format(*one), text.format(*two)), str(tmp_path / "m.onnx")
            )


def test_many_models_with_names_of_their_own(tmp_path: Path) -> None:
    text = (
        "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] {2}) {{ h = MatMul({0}, w) {2} = Sub(h, {1}) }}"
    )
    names = [("x", "y", "z"), ("y", "x", "z"), ("i", "j", "k"), ("x", "j", "k"), ("b/x", "a/x", "b/z")]
    plain = [(f"u{i}", f"v{i}", f"w{i}") for i in range(len(names))]
    paths = files(tmp_path, *(text.format(*row) for row in plain), weights=WEIGHTS)
    for path, own, row in zip(paths, names, plain, strict=True):
        proto = onnx.load(path)
        rename(proto, dict(zip(row, own, strict=True)))
        onnx.save(proto, path)
    with pytest.raises(NotEquivalent):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"))  # b gives x and y other roles
    right(tmp_path, paths[:1] + paths[2:], names=["a", "c", "d", "e"])


def test_numbers_of_inputs_that_differ(tmp_path: Path) -> None:
    one = "g (float[n, 4] x) => (float[n, 4] z) { z = Relu(x) }"
    two = "g (float[n, 4] x, float[n, 4] mask) => (float[n, 4] z) { h = Add(x, mask) z = Relu(h) }"
    with pytest.raises(NotEquivalent, match=r"has 1 input and .*b.onnx has 2: 'mask' is only in .*b.onnx"):
        netfuse_onnx.merge(files(tmp_path, one, two), str(tmp_path / "m.onnx"))


def test_sequences_keep_their_names(tmp_path: Path) -> None:
    text = """g (seq(float[n, 4]) {0}, float[n, 4] {1}) => (seq(float[n, 4]) {2}, float[m, 4] {3}) {{
        {2} = SequenceInsert({0}, {1}) {3} = ConcatFromSequence<axis = 0>({0}) }}"""
    report = right(tmp_path, files(tmp_path, text.format(*"sxtz"), text.format("s", "one", "two", "z")))
    rows = table(report)
    assert (rows["b", "input", "s"], rows["b", "output", "two"]) == ("b/s", "b/two")


def test_maps_and_optionals_keep_their_names(tmp_path: Path) -> None:
    head = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>'
    maps = """g (float[n, 3] {0}) => (seq(map(int64, float)) {1}) {{ s = Softmax({0})
        {1} = ai.onnx.ml.ZipMap<classlabels_int64s = [5, 6, 7]>(s) }}"""
    some = (
        "g (optional(float[n, 3]) {0}) => (float[n, 3] {1}) {{ v = OptionalGetElement({0}) {1} = Relu(v) }}"
    )
    for text in (maps, some):
        paths = [
            save(tmp_path / f"{model}.onnx", onnx.parser.parse_model(head + text.format(*names)))
            for model, names in (("a", ("x", "y")), ("b", ("features", "result")))
        ]
        out = str(tmp_path / "m.onnx")
        report = netfuse_onnx.merge(paths, out)
        assert report.proof is not None and report.proof.ok
        assert [info.name for info in session(out).get_inputs()] == ["a/x", "b/features"]
        merged, x = session(out), np.arange(6, dtype=np.float32).reshape(2, 3)
        results = merged.run(["a/y", "b/result"], {"a/x": x, "b/features": -x})
        for got, path, fed in zip(results, paths, ({"x": x}, {"features": -x}), strict=True):
            right_one = session(path).run(None, fed)[0]
            same = np.array_equal(got, right_one) if isinstance(got, np.ndarray) else got == right_one
            assert same


def test_an_input_that_is_an_output_keeps_its_name(tmp_path: Path) -> None:
    text = "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] {0}, float[n, 4] z) {{ z = Sub({0}, {1}) }}"
    report = right(tmp_path, files(tmp_path, text.format("x", "y"), text.format("state", "y")))
    assert table(report)["b", "output", "state"] == table(report)["b", "input", "state"] == "b/state"


# --------------------------------------------------------------------------- fed once


SHARED = "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] z) {{ h = MatMul({0}, w) z = Sub(h, {1}) }}"


@pytest.mark.parametrize("asked", ["mask", "attention_mask"])
@pytest.mark.parametrize("io", ["separate", "stacked"])
def test_a_shared_input_by_any_models_name(tmp_path: Path, asked: str, io: str) -> None:
    """It is called what the first model calls it."""
    paths = files(tmp_path, SHARED.format("x", "mask"), SHARED.format("x", "attention_mask"), weights=WEIGHTS)
    report = right(tmp_path, paths, io=io, share=[asked])
    assert report.share == ("mask",)
    assert table(report)["b", "input", "attention_mask"] == "mask"


def test_a_name_to_share_that_means_two_things(tmp_path: Path) -> None:
    text = "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] z) {{ z = Sub({0}, {1}) }}"
    paths = files(tmp_path, text.format("x", "y"), text.format("p", "q"), text.format("q", "p"))
    with pytest.raises(UsageFault, match="has no input 'p' to share, and in other models it is 'x' and 'y'"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), share=["p"])
    with pytest.raises(UsageFault, match=r"has no input 'nothing' to share\. "):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), share=["nothing"])


def test_a_shared_name_like_the_prefix_of_another(tmp_path: Path) -> None:
    proto = build(SHARED.format("x", "y"), WEIGHTS, opset=17)
    rename(proto, {"y": "b/x"})
    paths = [save(tmp_path / f"{name}.onnx", proto) for name in "ab"]
    with pytest.raises(UsageFault, match="would be called 'b/x'"):
        netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), share=["b/x"])
    right(tmp_path, paths)
    right(tmp_path, paths, share=["b/x"], names=["one", "two"])


# --------------------------------------------------------------------------- what is said, and kept


@pytest.mark.usefixtures("one_setting")
def test_the_report_prints_the_table(tmp_path: Path, run: Run) -> None:
    paths = files(tmp_path, SHARED.format("x", "mask"), SHARED.format("x", "attention_mask"), weights=WEIGHTS)
    out = tmp_path / "m.onnx"
    code, _, err = run("merge", *paths, "-o", out)
    assert code == 0
    lines = [line.split() for line in err.splitlines()]
    assert ["input", "every", "x", "a/x,", "b/x"] in lines
    assert ["input", "b", "attention_mask", "b/attention_mask"] in lines
    assert ["output", "every", "z", "a/z,", "b/z"] in lines
    told = json.loads(run("merge", *paths, "-o", out, "--json")[1])["names"]
    assert {"model": "b", "what": "input", "own": "attention_mask", "merged": "b/attention_mask"} in told
    assert len(told) == 6
    assert json.loads(run("inspect", out, "--json")[1])["names"] == told
    code, text, _ = run("bench", out, *paths, "--rounds", 1, "--seconds", 1, "--json")
    assert code == 0 and not any(row["problem"] for row in json.loads(text)["rows"] if row["merged"])


def test_inputs_of_a_file_by_each_models_names(tmp_path: Path, run: Run) -> None:
    paths = files(tmp_path, SHARED.format("x", "mask"), SHARED.format("x", "attention_mask"), weights=WEIGHTS)
    x, out = np.ones((2, 4), np.float32), tmp_path / "m.onnx"
    for keys in (("a/x", "a/mask", "b/x", "b/attention_mask"), ("x", "mask"), ("x", "a/mask", "b/mask")):
        np.savez(tmp_path / "in.npz", **{key: x * k for k, key in enumerate(keys)})
        assert run("merge", *paths, "-o", out, "--inputs", tmp_path / "in.npz")[0] == 0
    np.savez(tmp_path / "in.npz", **{"x": x, "a/mask": x})
    refused(
        run("merge", *paths, "-o", out, "--inputs", tmp_path / "in.npz"), 2, "'b/attention_mask' nor 'mask'"
    )


def test_a_file_of_an_old_version_has_the_first_models_names(tmp_path: Path) -> None:
    paths = files(tmp_path, SHARED.format("x", "mask"), SHARED.format("x", "attention_mask"), weights=WEIGHTS)
    out = str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, out)
    proto = onnx.load(out)
    rename(proto, {"b/attention_mask": "b/mask"})
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "netfuse_onnx"]
    known = json.loads(entry.value)
    del known["names"]
    entry.value = json.dumps(known)
    onnx.save(proto, out)
    assert netfuse_onnx.verify(out, paths).ok


@pytest.mark.parametrize(
    "names", [[], {}, 1, [1, 2], [[["x"]], [["x"]]], [[["x"], ["z"]], [["x", "y"], ["z"]]]]
)
def test_names_in_metadata_that_are_none(tmp_path: Path, names: object) -> None:
    paths = files(tmp_path, SHARED.format("x", "mask"), SHARED.format("x", "attention_mask"), weights=WEIGHTS)
    out = str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, out)
    proto = onnx.load(out)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "netfuse_onnx"]
    entry.value = json.dumps({**json.loads(entry.value), "names": names})
    onnx.save(proto, out)
    with pytest.raises(netfuse_onnx.FileFault, match="damaged"):
        netfuse_onnx.verify(out, paths)


def test_names_in_metadata_of_other_models_do_not_mislead(tmp_path: Path) -> None:
    text = "g (float[n, 4] {0}, float[n, 4] {1}) => (float[n, 4] z) {{ h = MatMul({0}, w) z = Sub(h, {1}) }}"
    paths = files(tmp_path, text.format("x", "y"), text.format("p", "q"), weights=WEIGHTS)
    out = str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, out)
    proto = onnx.load(out)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "netfuse_onnx"]
    known = json.loads(entry.value)
    for own in (["q", "p"], ["r", "s"]):
        known["names"][1][0] = own
        entry.value = json.dumps(known)
        onnx.save(proto, out)
        assert netfuse_onnx.verify(out, paths).ok  # the graphs say how they pair


# --------------------------------------------------------------------------- by chance

NAMES = st.permutations([f"n{i}" for i in range(8)])
TYPES = st.lists(st.sampled_from([1, 7]), min_size=1, max_size=5)


def graph(names: Sequence[str], types: Sequence[int]) -> Graph:
    kinds = {name: ValueType(dtype, ("n",)) for name, dtype in zip(names, types, strict=True)}
    return Graph("g", tuple(names), (), (), {}, kinds)


@QUICK
@given(NAMES, NAMES, TYPES, st.randoms(use_true_random=False))
def test_pairs_are_a_bijection_names_first(
    ours: list[str], theirs: list[str], types: list[int], rng: random.Random
) -> None:
    first = graph(ours[: len(types)], types)
    shuffled = rng.sample(types, len(types))
    other = graph(theirs[: len(types)], shuffled)
    found = edges.propose(first, other).inputs
    assert tuple(found) == first.inputs and sorted(found.values()) == sorted(other.inputs)
    for name, twin in found.items():
        assert first.types[name] == other.types[twin]
        if name in other.types and other.types[name] == first.types[name]:
            assert twin == name
    rest = [(n, t) for n, t in found.items() if n != t]
    for kind in (1, 7):
        places = [other.inputs.index(t) for n, t in rest if first.types[n].dtype == kind]
        assert places == sorted(places), "the rest in order"


@QUICK
@given(NAMES, NAMES, st.randoms(use_true_random=False), st.booleans())
def test_permutations_never_change_the_values(
    tmp_path_factory: pytest.TempPathFactory,
    ours: list[str],
    theirs: list[str],
    rng: random.Random,
    alike: bool,
) -> None:
    """Three inputs and two outputs in any order and under any names: merged right, or told why not."""
    folder = tmp_path_factory.mktemp("names")
    order = rng.sample(range(3), 3)
    text = (
        """g ({ins}) => ({outs}) {{ h = MatMul({0}, w) k = Sub(h, {1}) {3} = Mul(k, {2}) {4} = Relu(k) }}"""
    )
    paths = []
    for k, names in enumerate((ours, ours if alike else theirs)):
        declared = [names[i] for i in (range(3) if k == 0 else order)]
        ins = ", ".join(f"float[n, 4] {name}" for name in declared)
        outs = ", ".join(f"float[n, 4] {name}" for name in rng.sample(names[3:5], 2))
        paths.append(
            save(
                folder / f"{'ab'[k]}.onnx",
                build(text.format(*names, ins=ins, outs=outs), WEIGHTS, seed=k, opset=17),
            )
        )
    crossed = any(n in theirs[:3] and theirs.index(n) != ours.index(n) for n in ours[:3])
    crossed |= any(n in theirs[3:5] and theirs.index(n) != ours.index(n) for n in ours[3:5])
    if crossed and not alike:
        with pytest.raises(NotEquivalent):
            netfuse_onnx.merge(paths, str(folder / "m.onnx"), verify=False)
        return
    report = netfuse_onnx.merge(paths, str(folder / "m.onnx"), verify=False)
    agree(paths, str(folder / "m.onnx"), report)
    edge = match([load(path) for path in paths], "ab").edge(1)
    roles = ours if alike else theirs
    assert edge == Edge(
        {name: roles[ours.index(name)] for name in edge.inputs},
        {name: roles[ours.index(name)] for name in edge.outputs},
    )
