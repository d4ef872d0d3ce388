"""Proof (c): any change of the graph is refused by it alone; other names and another order are no change."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from families import family, merged, save
from onnx import NodeProto, helper, numpy_helper

import netfuse_onnx
from netfuse_onnx import opened, sources
from netfuse_onnx.proofs import GraphProof
from netfuse_onnx.prove import remake
from netfuse_onnx.write import metadata

TEXT = """g (float[n, 4] x, float[n, 4] v, bool c) => (float[n, 4] y, float[n] z)
    <float low = {-8.0}, float high = {8.0}, float t = {0.5}, float[1] half = {0.5}> {
    k = Clip(x, low, high)
    m = MatMul(k, w)
    a = Add(m, b)
    r = Relu(a)
    l = LayerNormalization<epsilon = 0.00001>(r, s, b)
    e = LessOrEqual(l, t)
    o = Where(e, l, v)
    d = Sub(o, v)
    i = If (c) <
        then_branch = yes () => (float[n, 4] p) { q = Sin(d) p = Mul(q, half) },
        else_branch = no () => (float[n, 4] f) { f = Cos(d) }
    >
    y = LeakyRelu<alpha = 0.1>(i)
    z = ReduceMean<axes = [1], keepdims = 0>(l)
}"""
WEIGHTS = {"w": (4, 4), "b": (4,), "s": (4,)}

Change = Callable[[onnx.ModelProto], None]


def proof(path: str, paths: list[str]) -> GraphProof:
    """The graph proof alone."""
    known = metadata.read(path)
    found = opened.matched(sources.read(paths), known.models, known.partial, (), known.target)
    return remake.prove_remade(path, known, found, metadata.recipes(known, found, path))


def nodes(model: onnx.ModelProto, op: str) -> list[NodeProto]:
    """Nodes of an operator, those of bodies included."""
    found, queue = [], list(model.graph.node)
    while queue:
        node = queue.pop(0)
        found += [node] if node.op_type == op else []
        queue += [inner for a in node.attribute if a.HasField("g") for inner in a.g.node]
    assert found, op
    return found


def operator(before: str, after: str, **attrs: object) -> Change:
    """The first node of an operator becomes another operator, on its first inputs."""

    def change(model: onnx.ModelProto) -> None:
        node = nodes(model, before)[0]
        count = {"Identity": 1}.get(after, len(node.input))
        kept = [] if attrs else list(node.attribute)
        node.CopyFrom(helper.make_node(after, node.input[:count], node.output, node.name, **attrs))
        node.attribute.extend([] if after == "Identity" else kept)

    return change


def behind(op: str, values: object) -> Change:
    """A node between the weight of the MatMul and its reader."""

    def change(model: onnx.ModelProto) -> None:
        node = nodes(model, "MatMul")[0]
        weight = node.input[1]
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), "by"))
        model.graph.node.insert(0, helper.make_node(op, [weight, "by"], ["changed"]))
        node.input[1] = "changed"

    return change


def attribute(op: str, name: str, value: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = nodes(model, op)[0]
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def constant(op: str, place: int) -> Change:
    """Another value for a constant that a node reads, which no weight of the models holds."""

    def change(model: onnx.ModelProto) -> None:
        name = nodes(model, op)[0].input[place]
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor) + 1
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))

    return change


def exchanged(op: str, one: int = 0, two: int = 1) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = nodes(model, op)[0]
        node.input[one], node.input[two] = node.input[two], node.input[one]

    return change


def exchanged_outputs(model: onnx.ModelProto) -> None:
    """y of the model a for that of b."""
    other = {"a/y": "b/y", "b/y": "a/y"}
    for node in model.graph.node:
        node.output[:] = [other.get(name, name) for name in node.output]


def exchanged_order(model: onnx.ModelProto) -> None:
    first, second, *rest = model.graph.output
    listed = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in (second, first, *rest)]
    del model.graph.output[:]
    model.graph.output.extend(listed)


def exchanged_inputs(model: onnx.ModelProto) -> None:
    other = {"a/x": "b/x", "b/x": "a/x"}
    for node in model.graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]


def weights_exchanged(model: onnx.ModelProto) -> None:
    """The reader of one weight reads another of its shape."""
    norm = next(n for n in nodes(model, "Add") if any(i.startswith("b") for i in n.input))
    place = next(k for k, name in enumerate(norm.input) if name.startswith("b"))
    norm.input[place] = next(t.name for t in model.graph.initializer if t.name.startswith("s"))


def idle(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["a/x"], ["nobody reads this"], "idle"))


def another_opset(model: onnx.ModelProto) -> None:
    next(o for o in model.opset_import if not o.domain).version += 1


def another_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "other"


def function(model: onnx.ModelProto) -> None:
    """A function that takes the place of an operator."""
    body = [helper.make_node("Identity", ["X"], ["Y"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "Relu", ["X"], ["Y"], body, opsets))


CHANGES: dict[str, tuple[Change, str]] = {
    "Gather behind a weight": (behind("Gather", np.array([1, 0])), "(Gather)"),
    "Mul behind a weight": (behind("Mul", np.float32(1.05)), "(Mul)"),
    "Clip dropped": (operator("Clip", "Identity"), "(Clip) is Identity"),
    "Clip without its upper bound": (lambda m: nodes(m, "Clip")[0].input.pop(), "has 2 inputs"),
    "LessOrEqual": (operator("LessOrEqual", "Less"), "(LessOrEqual) is Less"),
    "ReduceMean": (operator("ReduceMean", "ReduceMax"), "(ReduceMean) is ReduceMax"),
    "Relu": (operator("Relu", "LeakyRelu"), "(Relu) is LeakyRelu"),
    "another domain": (lambda m: setattr(nodes(m, "Relu")[0], "domain", "my"), "is my.Relu"),
    "epsilon": (attribute("LayerNormalization", "epsilon", 1e-3), "'epsilon'"),
    "alpha": (attribute("LeakyRelu", "alpha", 0.15), "'alpha'"),
    "an attribute more": (attribute("LayerNormalization", "stash_type", 1), "'stash_type'"),
    "a constant": (constant("LayerNormalization", 1), "another value"),
    "swapped order of outputs": (exchanged_order, "outputs are"),
    "swapped operands": (exchanged("Sub"), "in the file; merging these sources gives"),
    "another weight": (weights_exchanged, "merging these sources gives 'b"),
    "in a body": (operator("Sin", "Cos"), "(Sin) is Cos"),
    "bodies exchanged": (lambda m: _exchange_bodies(nodes(m, "If")[0]), "in the file"),
    "opset": (another_opset, "opsets"),
    "a function": (function, "functions"),
}
OF_MODELS: dict[str, tuple[Change, str]] = {
    "swapped outputs": (exchanged_outputs, "Output 'a/y'"),
    "swapped inputs": (exchanged_inputs, "an input ("),
    "an idle node": (idle, "No output depends on node 'idle'"),
    "type of an output": (another_type, "'a/y'"),
}
"""For a file with inputs and outputs of each model."""


def _exchange_bodies(node: NodeProto) -> None:
    one, two = node.attribute
    one.name, two.name = two.name, one.name


Made = tuple[str, list[str]]
"""A merged file and its sources."""


def make(folder: Path, io: str) -> Made:
    paths = family(folder, TEXT, WEIGHTS, count=2)
    return merged(folder, paths, io=io, share=["c"]), paths


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("separate"), "separate")


@pytest.fixture(scope="module", params=["separate", "stacked"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp(request.param), request.param)


def refused(made: Made, change: Change, said: str, out: Path) -> None:
    model = onnx.load(made[0])
    change(model)
    found = proof(save(out, model), made[1])
    assert not found.ok
    assert any(said in problem for problem in found.problems), found.problems


def test_what_merge_writes_passes(made: Made) -> None:
    found = proof(*made)
    assert (found.ok, found.made) == (True, True), found
    assert found.nodes == len(nodes_of(onnx.load(made[0]).graph))


def nodes_of(graph: onnx.GraphProto) -> list[NodeProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return [*graph.node, *(node for body in inner for node in nodes_of(body))]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_and_named(name: str, made: Made, tmp_path: Path) -> None:
    refused(made, *CHANGES[name], tmp_path / "changed.onnx")


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_change_at_the_edge_is_refused_and_named(name: str, apart: Made, tmp_path: Path) -> None:
    refused(apart, *OF_MODELS[name], tmp_path / "changed.onnx")


def test_any_input_that_reads_another_value_is_refused(apart: Made, tmp_path: Path) -> None:
    """The inputs of all nodes, those in bodies too, are tried; what one reads instead is defined before."""
    data = onnx.load(apart[0]).SerializeToString()
    model = onnx.ModelProto.FromString(data)
    outer = [value.name for value in model.graph.input] + [t.name for t in model.graph.initializer]
    rng = random.Random(0)
    for index, node in enumerate(nodes_of(model.graph)):
        for place, name in enumerate(node.input):
            changed = onnx.ModelProto.FromString(data)
            other = rng.choice([each for each in outer if each != name])
            nodes_of(changed.graph)[index].input[place] = other
            found = proof(save(tmp_path / "changed.onnx", changed), apart[1])
            assert not found.ok, (node.name, place, name, other)


def test_any_node_that_is_another_operator_is_refused(apart: Made, tmp_path: Path) -> None:
    data = onnx.load(apart[0]).SerializeToString()
    for index in range(len(nodes_of(onnx.ModelProto.FromString(data).graph))):
        changed = onnx.ModelProto.FromString(data)
        node = nodes_of(changed.graph)[index]
        before, node.op_type = node.op_type, f"Other{node.op_type}"
        found = proof(save(tmp_path / "changed.onnx", changed), apart[1])
        assert any(f"({before}) is Other{before}" in problem for problem in found.problems), before


@pytest.mark.parametrize("seed", range(5))
def test_other_names_and_another_order_pass(seed: int, made: Made, tmp_path: Path) -> None:
    model = onnx.load(made[0])
    edge = {value.name for value in (*model.graph.input, *model.graph.output)}
    kept = edge | {tensor.name for tensor in model.graph.initializer}
    graphs.renamed(model.graph, lambda name: name if not name or name in kept else f"other {name}")
    for node in nodes_of(model.graph):
        node.name = f"other {node.name}"
    graphs.shuffled(model.graph, random.Random(seed))
    model.graph.ClearField("value_info")
    model.graph.doc_string = "sorted by another tool"
    found = proof(save(tmp_path / "renamed.onnx", model), made[1])
    assert (found.ok, found.made) == (True, True), found


def test_weights_and_metadata_exchanged_together_are_refused(made: Made, tmp_path: Path) -> None:
    """The bytes agree with the metadata; only the sources know which model stands first."""
    model = onnx.load(made[0])
    recorded = metadata.read(made[0]).weights
    name = next(name for name, line in recorded.items() if line["value"] == "w")
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.raw_data = tensor.raw_data[64:] + tensor.raw_data[:64]
    weights = {**recorded, name: {**recorded[name], "parts": [1, 0]}}
    path = with_metadata(save(tmp_path / "m.onnx", model), tmp_path / "m.onnx", weights=weights)
    found = proof(path, made[1])
    assert netfuse_onnx.verify(path, made[1]).bytes.ok
    assert any("models in the order" in problem for problem in found.problems), found.problems


def test_a_failed_proof_of_the_graph_is_exit_code_1(made: Made, tmp_path: Path) -> None:
    """The values can't see a factor of 1."""
    model = onnx.load(made[0])
    node = next(node for node in model.graph.node if node.op_type == "Clip")
    idle = onnx.helper.make_node("Mul", [f"{node.output[0]}/before", "idle"], [node.output[0]])
    node.output[0] = idle.input[0]
    model.graph.node.insert(list(model.graph.node).index(node) + 1, idle)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), "idle"))
    report = netfuse_onnx.verify(save(tmp_path / "changed.onnx", model), made[1])
    assert report.bytes.ok and report.values.ok
    assert (report.ok, report.exit_code) == (False, 1)
    assert "is Mul in the file" in report.failure


# --------------------------------------------------------------------------- what can't be compared


def with_metadata(path: str, out: Path, **changes: object) -> str:
    """The file with other metadata; None takes a key away."""
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == metadata.KEY)
    value = {**json.loads(entry.value), **changes}
    entry.value = json.dumps({key: each for key, each in value.items() if each is not None})
    return save(out, model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "0.0.1"}, "the file was written by netfuse-onnx 0.0.1 with onnx"),
        ({"tools": {"onnx": "1.2.3", "onnx-graphsurgeon": "0.5"}}, "with onnx 1.2.3, onnx-graphsurgeon 0.5"),
        ({"tools": None}, "with an unknown onnx"),
    ],
)
def test_other_versions_are_told(changes: dict[str, object], said: str, made: Made, tmp_path: Path) -> None:
    told = with_metadata(made[0], tmp_path / "m.onnx", **changes)
    assert proof(told, made[1]).made  # an equal graph is equal, whoever wrote it
    model = onnx.load(told)
    attribute("LayerNormalization", "epsilon", 1e-3)(model)
    report = netfuse_onnx.verify(save(tmp_path / "changed.onnx", model), made[1])
    assert report.graph.ok and not report.graph.made
    assert said in report.graph.note
    assert report.graph.note in report.warnings


def test_a_rank_that_a_run_told_depends_on_onnx_runtime(tmp_path: Path) -> None:
    """onnx knows no shape function of this operator, nor does the package."""
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = com.microsoft.SampleOp(x) y = MatMul(a, w) }"
    paths = family(tmp_path, text, {"w": (4, 4)})
    out = merged(tmp_path, paths)
    assert metadata.read(out).tools["onnxruntime"] == onnxruntime.__version__
    assert proof(out, paths).made and proof(out, paths).ok


def test_a_merge_without_that_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where ONNX Runtime, or a library of operators, is missing at one of the two."""
    text = "g (float[n, 4] x) => (float[n, 4] y) { a = com.microsoft.SampleOp(x) y = MatMul(a, w) }"
    paths = family(tmp_path, text, {"w": (4, 4)})
    with monkeypatch.context() as patch:
        patch.setattr(opened, "observed", lambda *_, **__: {})
        out = merged(tmp_path, paths)
    found = proof(out, paths)
    assert found.ok and not found.made
    assert "onnxruntime without an answer" in found.note


def test_the_file_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Sets of strings are in another order in each process, where nobody sorts them."""
    paths = family(tmp_path, TEXT, WEIGHTS)
    code = f"import netfuse_onnx; netfuse_onnx.merge({paths!r}, {{!r}}, verify=False, target={{!r}}, share=['c'])"
    for target in ("generic", "cpu"):
        files = []
        for seed in ("0", "1", "2"):
            out = str(tmp_path / f"{target}-{seed}.onnx")
            run = [sys.executable, "-c", code.format(out, target)]
            subprocess.run(run, check=True, env={**os.environ, "PYTHONHASHSEED": seed})
            files.append(Path(out).read_bytes())
        assert files[0] == files[1] == files[2]


def test_metadata_name_the_versions(made: Made) -> None:
    assert metadata.read(made[0]).tools["onnx"] == onnx.__version__


def test_a_target_of_a_file_is_read_again(tmp_path: Path) -> None:
    source = Path(netfuse_onnx.__file__).parent / "targets" / "cpu.json"
    target = tmp_path / "mine.json"
    target.write_text(source.read_text())
    paths = family(tmp_path, TEXT, WEIGHTS)
    out = merged(tmp_path, paths, target=str(target), share=["c"])
    assert proof(out, paths).made
    value = json.loads(target.read_text())
    value["microseconds"]["launch"] *= 2
    target.write_text(json.dumps(value))
    assert "have changed since the merge" in proof(out, paths).note
    target.unlink()
    assert "can't be read" in proof(out, paths).note


def test_sizes_of_the_merge_are_those_of_the_plan(tmp_path: Path) -> None:
    """Rows and columns of a product decide its lowering; verify has no --dim."""
    text = (
        """g (float[n, s, 64] x) => (float[n, s, 64] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, u) }"""
    )
    paths = family(tmp_path, text, {"w": (64, 64), "u": (64, 64)}, count=3)
    sizes = ({"n": 1, "s": 1}, {"n": 64, "s": 512})
    files = [
        save(tmp_path / f"{k}.onnx", onnx.load(merged(tmp_path, paths, target="cpu", dims=dims)))
        for k, dims in enumerate(sizes)
    ]
    for path, dims in zip(files, sizes, strict=True):
        assert metadata.read(path).dims == dims
        assert proof(path, paths).made
        assert proof(path, paths).ok
