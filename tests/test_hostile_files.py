"""Files that no exporter writes: each ends in exit 3 and one sentence, and costs next to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from commands import Run
from families import family, merged, model, save, tampered
from model_files import refer
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

import netfuse_onnx
from netfuse_onnx.errors import FileFault
from netfuse_onnx.load import validate
from netfuse_onnx.load.infer import infer
from netfuse_onnx.load.loader import load
from netfuse_onnx.run.runtime import RunFailed, Runtime, Session

SMALL = "g (float[n, 4] x) => (float[n, 2] y) { y = MatMul (x, w) }"
WEIGHTS = {"w": (4, 2)}
Change = Callable[[ModelProto], None]


def twice(folder: Path, proto: ModelProto) -> list[str]:
    """The same file under two names."""
    return [save(folder / name, proto) for name in ("a.onnx", "b.onnx")]


def changed(folder: Path, change: Change, text: str = SMALL) -> list[str]:
    proto = model(text, WEIGHTS)
    change(proto)
    return twice(folder, proto)


def refused(run: Run, *arguments: object) -> str:
    """The one sentence of a command that ends in exit 3."""
    code, _, said = run(*arguments)
    lines = said.strip().splitlines()
    assert code == 3 and len(lines) <= 2 and lines[0].startswith("netfuse-onnx: error: "), said
    return lines[0]


# --------------------------------------------------------------------------- what a file declares


def opset(version: int, domain: str = "") -> Change:
    def change(proto: ModelProto) -> None:
        entry = next((e for e in proto.opset_import if e.domain == domain), None)
        (entry or proto.opset_import.add(domain=domain)).version = version

    return change


def element(number: int) -> Change:
    def change(proto: ModelProto) -> None:
        proto.graph.input[0].type.tensor_type.elem_type = number

    return change


def untyped(proto: ModelProto) -> None:
    proto.graph.input[0].ClearField("type")


def axes(sizes: list[int]) -> Change:
    def change(proto: ModelProto) -> None:
        shape = proto.graph.input[0].type.tensor_type.shape
        del shape.dim[:]
        for size in sizes:
            shape.dim.add().dim_value = size

    return change


def nested(proto: ModelProto) -> None:
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    for _ in range(20):
        kind = helper.make_sequence_type_proto(kind)
    proto.graph.value_info.add(name="y").type.CopyFrom(kind)


def keyed_by_floats(proto: ModelProto) -> None:
    kind = proto.graph.output[0].type.map_type
    kind.key_type = TensorProto.FLOAT
    kind.value_type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, []))


def with_node(op: str, **attrs: object) -> Change:
    def change(proto: ModelProto) -> None:
        proto.graph.node.append(helper.make_node(op, ["y"], ["z"], **attrs))
        proto.graph.output.add(name="z")

    return change


def referring(op: str) -> Change:
    def change(proto: ModelProto) -> None:
        node = proto.graph.node.add(op_type=op, input=["y"] if op == "Selu" else [], output=["z"])
        name = "alpha" if op == "Selu" else "value_float"
        node.attribute.add(name=name, ref_attr_name="other", type=AttributeProto.FLOAT)

    return change


def many_axes(proto: ModelProto) -> None:
    proto.graph.initializer.append(helper.make_tensor("v", TensorProto.FLOAT, [1] * 70, [1.0]))


def valueless(proto: ModelProto) -> None:
    proto.graph.node.add(op_type="Constant", output=["z"]).attribute.add(
        name="value", type=AttributeProto.TENSOR
    )


def of_another_kind(proto: ModelProto) -> None:
    proto.graph.node.append(helper.make_node("Constant", [], ["z"], value_ints=1))
    proto.graph.node[-1].attribute[0].type = AttributeProto.INT


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (opset(9999), f"opset 9999, and the newest that the installed onnx knows is {validate.newest('')}"),
        (opset(99, "ai.onnx.ml"), "version 99 of ai.onnx.ml, and the newest"),
        (opset(2**40), "which does not exist"),
        (opset(-3, "own"), "which does not exist"),
        (element(99), "the element type 99"),
        (element(-(2**31)), "the element type -2147483648"),
        (element(0), "'x' has no type"),
        (untyped, "'x' has no type"),
        (axes([1] * 70), "70 axes, more than 64"),
        (axes([2**62, 2**62]), "more elements than any memory holds"),
        (nested, "nested more than 8 levels"),
        (keyed_by_floats, "whose keys are of type 1"),
        (with_node("Cast", to=99), "names the element type 99"),
        (with_node("RandomNormalLike", dtype=-7), "names the element type -7"),
        (with_node("Einsum", equation=b"\xff\xfe"), "'equation' of Einsum 'z' is not UTF-8 text"),
        (with_node("Einsum", equation="\u00ff"), "'equation' of Einsum 'z' has a value that can't be"),
        (with_node("LayerNormalization", axis=2**31), "'axis' of LayerNormalization 'z' has a value"),
        (with_node("GatherND", batch_dims=-100), "'batch_dims' of GatherND 'z' has a value"),
        (referring("Selu"), "refers to 'other' of a function"),
        (referring("Constant"), "another type"),
        (many_axes, "has the shape [1, 1, 1, 1"),
        (valueless, "has no value"),
        (of_another_kind, "another type"),
    ],
)
def test_what_can_not_be_declared(tmp_path: Path, run: Run, change: Change, says: str) -> None:
    assert says in refused(run, "check", *changed(tmp_path, change))


@pytest.mark.parametrize("change", [opset(77, "who"), opset(0, "who"), axes([-1, 4]), axes([0, 4])])
def test_odd_but_valid_files_are_taken(tmp_path: Path, run: Run, change: Change) -> None:
    code, _, said = run("check", *changed(tmp_path, change))
    assert code == 0, said


@pytest.mark.parametrize("field", ["dim", "producer", "function"])
def test_text_that_is_not_utf_8(tmp_path: Path, run: Run, field: str) -> None:
    proto = model(SMALL, WEIGHTS)
    if field == "dim":
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "MARK"
    elif field == "producer":
        proto.producer_version = "MARK"
    else:
        proto.functions.add(name="f", domain="own").node.add(op_type="MARK")
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(proto.SerializeToString().replace(b"MARK", b"\xff\xfe\x80\x81"))
    assert "not UTF-8 text" in refused(run, "check", tmp_path / "a.onnx", tmp_path / "b.onnx")


# --------------------------------------------------------------------------- bodies and functions


def body(inputs: int, outputs: int) -> GraphProto:
    """A body with so many inputs and outputs of type bool."""
    names = [f"i{k}" for k in range(inputs)], [f"o{k}" for k in range(outputs)]
    values = [[helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in some] for some in names]
    nodes = [helper.make_node("Constant", [], [name], value_int=1) for name in names[1]]
    return helper.make_graph(nodes, "b", *values)


def owner(op: str, inputs: int, outputs: int, given: GraphProto, **attrs: int) -> NodeProto:
    names = ["then_branch", "else_branch"] if op == "If" else ["body"]
    ins, outs = [f"v{k}" for k in range(inputs)], [f"w{k}" for k in range(outputs)]
    return helper.make_node(op, ins, outs, **dict.fromkeys(names, given), **attrs)


def model_with(node: NodeProto, opset: int = 17) -> ModelProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in node.input]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=node.output[0])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "right", "attrs"),
    [
        ("If", 1, 2, (0, 2), {}),
        ("Loop", 4, 3, (4, 4), {}),
        ("Scan", 3, 2, (3, 2), {"num_scan_inputs": 1}),
        ("SequenceMap", 2, 1, (2, 1), {}),
    ],
)
def test_bodies_of_the_wrong_arity(
    op: str, inputs: int, outputs: int, right: tuple[int, int], attrs: dict[str, int]
) -> None:
    validate.check(model_with(owner(op, inputs, outputs, body(*right), **attrs)), "m.onnx")
    for wrong in ((right[0] + 1, right[1]), (right[0], right[1] + 1), (right[0], right[1] - 1)):
        with pytest.raises(FileFault, match=r"m\.onnx: the body .* it needs"):
            validate.check(model_with(owner(op, inputs, outputs, body(*wrong), **attrs)), "m.onnx")


def test_a_scan_of_opset_8_has_lengths_before_all_else() -> None:
    node = owner("Scan", 3, 1, body(2, 1), num_scan_inputs=1)
    validate.check(model_with(node, opset=8), "m.onnx")
    with pytest.raises(FileFault, match="it needs 3"):
        validate.check(model_with(node, opset=9), "m.onnx")


def functions(calls: list[tuple[str, list[str]]]) -> ModelProto:
    """A model that calls the first function; each is named with those that it calls."""
    text = f'<ir_version: 9, opset_import: ["": 17, "own": 1]> g (float[2] x) => (float[2] y) {{ y = own.{calls[0][0]} (x) }}'
    for name, called in calls:
        steps = " ".join(f"v{k + 1} = own.{other} (v{k})" for k, other in enumerate(called))
        last = f"b = Neg (v{len(called)})"
        text += f'\n<domain: "own", opset_import: ["": 17, "own": 1]> {name} (a) => (b) {{ v0 = Abs (a) {steps} {last} }}'
    parsed: ModelProto = onnx.parser.parse_model(text)
    return parsed


def test_functions_that_call_themselves(tmp_path: Path, run: Run) -> None:
    for calls in ([("f", ["f"])], [("f", ["g"]), ("g", ["f"])]):
        assert "calls itself" in refused(run, "check", *twice(tmp_path, functions(calls)))


def test_functions_that_double(tmp_path: Path, run: Run) -> None:
    chain = [(f"f{k}", [f"f{k + 1}"] * 2) for k in range(40)]
    paths = twice(tmp_path, functions([*chain, ("f40", [])]))
    assert "unfold to more than" in refused(run, "check", *paths)
    few = [(f"f{k}", [f"f{k + 1}"] * 2) for k in range(3)]
    code, _, said = run("check", *twice(tmp_path, functions([*few, ("f3", [])])))
    assert code == 0, said


# --------------------------------------------------------------------------- onnx's own inference


def test_operators_that_end_the_process_in_onnx_are_kept_from_it(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["": 20, "ai.onnx.ml": 5, "who": 1]> g (float[2, 2] x) => () {
        u = who.Untold (x)
        eye = EyeLike <dtype = 7> (u) match = RegexFullMatch <pattern = "a"> (u)
        code = ai.onnx.ml.LabelEncoder <keys_int64s = [1], values_strings = ["a"]> (u)
        flat = ai.onnx.ml.DictVectorizer <int64_vocabulary = [1]> (u) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in ("eye", "match", "code", "flat"))
    types = infer(load(save(tmp_path / "m.onnx", proto))).graph.types
    kinds = [types[name].dtype for name in ("eye", "match", "code", "flat")]
    assert kinds == [TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING, 0]


def test_a_label_encoder_of_what_onnx_knows_keeps_its_type(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["": 17, "ai.onnx.ml": 2]> g (string[n] x) => (int64[n] y) {
        u = Reshape (x, s) s = Constant <value_ints = [3, 2]> ()
        v = ai.onnx.ml.LabelEncoder <keys_strings = ["a"], values_int64s = [1]> (u) y = Abs (v) }"""
    types = infer(load(save(tmp_path / "m.onnx", onnx.parser.parse_model(text)))).graph.types
    assert (types["v"].dtype, types["v"].dims) == (TensorProto.INT64, (3, 2))


# --------------------------------------------------------------------------- memory and time

MEASURED = """
import sys
from netfuse_onnx.cli.main import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:  # ru_maxrss would count what the parent held
    print(code, next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def measured(folder: Path, *arguments: str) -> tuple[int, int, str]:
    """The exit code of a command, the most memory that it held in bytes, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, cwd=folder, timeout=60
    )
    code, kilobytes = map(int, done.stdout.split()[-2:])
    return code, 1024 * kilobytes, done.stderr


BOMBS = {
    "concat": ["two = Constant <value_ints = [2, 2]> () v0 = Identity (two)"]
    + [f"v{k + 1} = Concat <axis = 0> (v{k}, v{k})" for k in range(34)]
    + ["z = Shape (v34)"],
    "zeros": ["n = Constant <value_ints = [8589934592]> () v = ConstantOfShape (n) z = Shape (v)"],
    "range": ["o = Constant <value_int = 0> () n = Constant <value_int = 8589934592> () p = Constant <value_int = 1> ()",
              "v = Range (o, n, p) z = ReduceSum <keepdims = 0> (v)"],
    "one hot": ["i = Constant <value_ints = [1]> () n = Constant <value_int = 1073741824> ()",
                "p = Constant <value_ints = [0, 1]> () v = OneHot (i, n, p) z = ReduceSum <keepdims = 0> (v)"],
    "tile": ["i = Constant <value_ints = [1]> () n = Constant <value_ints = [8589934592]> () v = Tile (i, n) z = Shape (v)"],
}  # fmt: skip


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_small_files_that_ask_for_all_memory(tmp_path: Path, bomb: str) -> None:
    text = SMALL.replace("(float[n, 2] y)", "(float[n, 2] y, int64[m] z)").replace(
        "}", " ".join(BOMBS[bomb]) + " }"
    )
    paths = twice(tmp_path, model(text, WEIGHTS))
    for arguments in (("check", *paths), ("merge", *paths, "-o", "m.onnx")):
        code, memory, said = measured(tmp_path, *arguments)
        assert code == 3 and memory < 500e6 and "from constants alone" in said, said
    assert not (tmp_path / "m.onnx").exists()


def test_constants_that_the_allowed_memory_does_not_hold(tmp_path: Path) -> None:
    held = "n = Constant <value_ints = [200000000]> () v = ConstantOfShape (n) z = Shape (v)"
    text = SMALL.replace("(float[n, 2] y)", "(float[n, 2] y, int64[m] z)").replace("}", f"{held} }}")
    paths = twice(tmp_path, model(text, WEIGHTS))
    assert measured(tmp_path, "check", *paths)[0] == 0
    code, memory, said = measured(tmp_path, "merge", *paths, "-o", "m.onnx")
    assert code == 5 and memory < 500e6 and "from constants alone takes about" in said
    assert not (tmp_path / "m.onnx").exists()


ENDLESS = """g (float[2] x) => (float[2] y) {
    COUNT go = Constant <value = bool {1}> ()
    y = Loop (count, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t)
        { d = Identity (c) t = Add (s, w) }> }"""
HUGE = ENDLESS.replace("COUNT", f"count = Constant <value_int = {2**40}> ()")
NEVER = ENDLESS.replace("COUNT", "").replace("(count, go", "(, go")


@pytest.mark.parametrize("text", [HUGE, NEVER])
def test_loops_without_end(tmp_path: Path, run: Run, text: str) -> None:
    paths = [save(tmp_path / f"{k}.onnx", model(text, {"w": (2,)}, seed=k)) for k in range(2)]
    assert run("check", *paths)[0] == 0
    code, _, said = run("merge", *paths, "-o", tmp_path / "m.onnx")
    assert code == 5 and "nothing ends its Loop" in said
    assert run("merge", *paths, "-o", tmp_path / "m.onnx", "--no-verify")[0] == 0


def test_a_loop_whose_data_end_it_is_run(tmp_path: Path, run: Run) -> None:
    text = HUGE.replace("d = Identity (c)", "k = Constant <value_int = 3> () d = Less (i, k)")
    paths = [save(tmp_path / f"{k}.onnx", model(text, {"w": (2,)}, seed=k)) for k in range(2)]
    code, _, said = run("merge", *paths, "-o", tmp_path / "m.onnx")
    assert code == 0, said


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    session = Session(save(tmp_path / "m.onnx", model(NEVER, {"w": (2,)})), Runtime("cpu"))
    with pytest.raises(RunFailed, match="not done after"):
        session.run({"x": [1.0, 2.0]}, 0.3)  # type: ignore[dict-item]


# --------------------------------------------------------------------------- places of data


@pytest.mark.parametrize("place", ["folder", "folder/", "pipe", "..", "."])
def test_data_in_what_is_no_file(tmp_path: Path, run: Run, place: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    proto = model(SMALL, WEIGHTS)
    refer(proto.graph.initializer[0], location=place)
    refused(run, "check", *twice(tmp_path, proto))


# --------------------------------------------------------------------------- rules on nodes that do not fit


def test_an_attribute_that_is_an_empty_list_is_kept(tmp_path: Path) -> None:
    def build(seed: int) -> ModelProto:
        proto = model(
            "g (float[n, 2] x) => (float[n, 2] y) { y = who.Untold <a = [1.0]> (x, w) }", {"w": (2,)}, seed
        )
        proto.opset_import.add(domain="who", version=1)
        proto.graph.node[0].attribute.add(name="b", type=AttributeProto.INTS)
        return proto

    out = merged(tmp_path, [save(tmp_path / f"{k}.onnx", build(k)) for k in range(2)])
    held = [node.attribute for node in onnx.load(out).graph.node if node.op_type == "Untold"]
    assert [[(a.name, list(a.ints)) for a in some] for some in held] == [[("a", []), ("b", [])]] * 2


def test_a_resize_with_too_few_scales_is_replicated(tmp_path: Path) -> None:
    text = """g (float[1, 2, 4, 4] x) => (float[a, b, c, d] y) {
        s = Constant <value = float[1] {2.0}> () z = Mul (x, w) y = Resize <mode = "nearest"> (z, , s) }"""
    out = merged(tmp_path, family(tmp_path, text, {"w": (2, 1, 1)}))
    assert [row.op for row in netfuse_onnx.inspect(out).lowered.replicated] == ["Resize"]


# --------------------------------------------------------------------------- the metadata of merged files


def with_metadata(folder: Path, change: Callable[[dict[str, object]], object]) -> tuple[str, list[str]]:
    """A merged file whose metadata went through `change`, which may give another text; and its sources."""
    paths = family(folder)

    def rewrite(proto: ModelProto) -> None:
        (entry,) = (p for p in proto.metadata_props if p.key == "netfuse_onnx")
        value = json.loads(entry.value)
        found = change(value)
        entry.value = found if isinstance(found, str) else json.dumps(value)

    return tampered(merged(folder, paths), rewrite), paths


def put(key: str, value: object) -> Callable[[dict[str, object]], object]:
    return lambda metadata: metadata.__setitem__(key, value)


def row(**entries: object) -> dict[str, object]:
    return {"name": "n", "op": "Add", "became": "batched", **entries}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: "[" * 100_000, "nested too deep"),
        (lambda value: "", "damaged"),
        (lambda value: "3", "not an object"),
        (lambda value: value.pop("models"), "has no 'models'"),
        (put("source_nodes", float("nan")), "NaN is no number"),
        (put("predicted", {"batched": float("inf")}), "Infinity is no number"),
        (put("predicted", {"batched": "1"}), "'predicted' 'batched' is not a number"),
        (put("source_nodes", 10**400), "'source_nodes' is not a whole number"),
        (put("merged_nodes", -1), "'merged_nodes' is not a whole number"),
        (put("merged_nodes", True), "'merged_nodes' is not a whole number"),
        (put("format", []), "'format' is not a whole number"),
        (put("partial", 1), "'partial' is not true or false"),
        (put("models", "ab"), "'models' is not a list"),
        (put("models", ["a", "a"]), "one name and one digest"),
        (put("models", ["a/b", "c"]), "no name of a model"),
        (put("sha256", []), "one name and one digest"),
        (put("io", "folded"), "'io' is not one of separate, stacked"),
        (put("share", [["x"]]), "'share' '0' is not text"),
        (put("version", "\ud800"), "'version' is not Unicode text"),
        (put("target", "/etc/passwd"), "'target' is no target"),
        (put("nodes", [row(became="gone")]), "'became' is not one of"),
        (put("nodes", [row(takes=3)]), "'takes' is not a list"),
        (put("nodes", [[]]), "'nodes' '0' is not an object"),
        (put("weights", {"w": {"value": "w1", "parts": [-1]}}), "'parts' '0' is not a whole number"),
        (put("weights", {"w": {"value": "w1", "transform": "x" + "9" * 5000}}), "no transform"),
        (put("dims", {"n": "3"}), "'dims' 'n' is not a whole number"),
    ],
)
def test_metadata_that_nobody_wrote(
    tmp_path: Path, run: Run, change: Callable[[dict[str, object]], object], says: str
) -> None:
    file, paths = with_metadata(tmp_path, change)
    assert says in refused(run, "inspect", file)
    assert says in refused(run, "verify", file, *paths)
    assert says in refused(run, "bench", file, *paths)


def test_a_shared_input_that_no_model_has(tmp_path: Path, run: Run) -> None:
    file, paths = with_metadata(tmp_path, put("share", ["nobody"]))
    assert "which no model has" in refused(run, "verify", file, *paths)


def test_verify_reads_no_constants_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside").mkdir()
    os.mkfifo(tmp_path / "outside.json")  # reading it would wait for ever
    file, paths = with_metadata(tmp_path / "inside", put("target", "../outside.json"))
    monkeypatch.chdir(tmp_path / "inside")
    report = netfuse_onnx.verify(file, paths)
    assert "outside of this folder" in report.warnings[0] and report.ok


def test_unknown_keys_of_newer_writers_are_left_out(tmp_path: Path) -> None:
    file, _ = with_metadata(tmp_path, lambda value: value.update(nodes=[row(later=3)], later=[]))
    assert netfuse_onnx.inspect(file).lowered.nodes[0].name == "n"


@pytest.mark.parametrize("dims", [[-4, 2], [2**40, 2**40], [2**23, 8]])
def test_sparse_tensors_of_impossible_sizes(tmp_path: Path, run: Run, dims: list[int]) -> None:
    def change(proto: ModelProto) -> None:
        for name in ("s", "t"):
            values = helper.make_tensor(name, TensorProto.FLOAT, [1], [2.0])
            places = helper.make_tensor(f"{name}_at", TensorProto.INT64, [1], [1])
            proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 2]))
            proto.graph.sparse_initializer[-1].dims[:] = dims

    assert "sparse tensor" in refused(run, "check", *changed(tmp_path, change))


def test_a_rule_does_not_fold_what_is_no_tensor(tmp_path: Path) -> None:
    proto = model(
        "g (float[1, 1, 3, 2] x, float[1, 2, 4, 2] grid) => (float[1, 1, 2, 4] y) { y = GridSample (x, grid) }"
    )
    proto.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(proto.graph.input[0].type))
    out = merged(tmp_path, twice(tmp_path, proto))
    assert [row.op for row in netfuse_onnx.inspect(out).lowered.replicated] == ["GridSample"]


@pytest.mark.parametrize("strides", [[1], [0, 1], [1, 1, 1]])
def test_pools_whose_attributes_do_not_fit(tmp_path: Path, strides: list[int]) -> None:
    proto = model("""g (float[1, 1, 5, 5] x) => (float[a, b, c, d] y)
        { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x) }""")
    next(a for a in proto.graph.node[0].attribute if a.name == "strides").ints[:] = strides
    assert netfuse_onnx.check(twice(tmp_path, proto)).equivalent


@pytest.mark.parametrize(
    "op", ["y = Mul (x, w)", "y = Expand (w, x)", "c = Cast <to = 1> (x) d = Add (c, c) y = Sub (d, w)"]
)
def test_long_inputs_are_not_taken_for_shapes(tmp_path: Path, op: str) -> None:
    proto = model(f"g (float[{2**32}] x) => (float[n] y) {{ {op} }}", {"w": (1,)})
    code, memory, said = measured(tmp_path, "check", *twice(tmp_path, proto))
    assert code == 0 and memory < 500e6, said


def test_an_operator_of_the_runtime_that_lacks_inputs_is_replicated(tmp_path: Path) -> None:
    text = """g (float[2, 2, 4] x) => (float[2, 2, 4] y) { z = Mul (x, w)
        y = com.microsoft.SkipLayerNormalization <epsilon = 0.001> (z) }"""
    out = merged(tmp_path, family(tmp_path, text, {"w": (4,)}))
    assert [row.op for row in netfuse_onnx.inspect(out).lowered.replicated] == [
        "com.microsoft.SkipLayerNormalization"
    ]
