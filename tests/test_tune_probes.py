"""tune/: a probe holds what the merged graph would hold, and computes what the nodes alone compute."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from families import model, save
from onnx import numpy_helper
from oracle import LEVELS, ask, session
from oracle import family as family_of
from test_convert import hold

from netfuse_onnx.layouts import PER_MODEL, SHARED, Layout
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.storage import weights
from netfuse_onnx.tune.cases import ConversionCase, Member, NodeCase
from netfuse_onnx.tune.chains import chains, members
from netfuse_onnx.tune.filling import feeds, filled
from netfuse_onnx.tune.keys import Keys
from netfuse_onnx.tune.probes import Probe, Unprobed, probe, repeated
from netfuse_onnx.tune.survey import surveyed
from netfuse_onnx.types import Correspondence, ValueType

NETWORKS = {
    "layers": (
        """g (float[batch, 4, 6, 6] x) => (float[batch, 3] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, filters, shift)
    r = Relu(c)
    d = Conv(r, square, shift)
    s = Add(d, r2)
    q = Relu(s)
    r2 = Conv(x, square4, shift)
    p = GlobalAveragePool(q)
    f = Flatten(p)
    y = MatMul(f, w)
}""",
        {
            "filters": (8, 4, 3, 3),
            "square": (8, 8, 1, 1),
            "square4": (8, 4, 1, 1),
            "shift": (8,),
            "w": (8, 3),
        },
    ),
    "words": (
        """g (float[batch, words, 8] x) => (float[batch, words, 4] y) {
    h = MatMul(x, w1)
    i = Add(h, b1)
    r = Relu(i)
    s = Add(r, x)
    n = LayerNormalization<axis = -1>(s, scale, shift)
    t = Transpose<perm = [0, 2, 1]>(n)
    e = Transpose<perm = [0, 2, 1]>(t)
    p = Softmax(e)
    y = MatMul(p, w2)
}""",
        {"w1": (8, 8), "b1": (8,), "scale": (8,), "shift": (8,), "w2": (8, 4)},
    ),
    "steps": (
        """g (float[words, batch, 6] x) => (float[words, 1, batch, 4] y) {
    m = MatMul(x, w)
    a = Add(m, s)
    r = Relu(a)
    y = LSTM<hidden_size = 4>(r, wx, wh, b)
}""",
        {"w": (6, 6), "s": (6,), "wx": (1, 16, 6), "wh": (1, 16, 4), "b": (1, 32)},
    ),
    "one row": (
        """g (float[4, 21] x) => (float[4, 5] y) {
    k = Unsqueeze(x, one)
    c = Conv<pads = [1, 1]>(k, filters)
    f = Flatten(c)
    g = Gemm<transB = 1>(f, w, b)
    y = Sigmoid(g)
}""",
        {"filters": (3, 1, 3), "w": (5, 63), "b": (5,)},
    ),
}
SIZES = {"batch": 2, "words": 3}
MODELS = 3


def network(name: str, folder: Path, models: int = MODELS) -> Correspondence:
    """A family of one of NETWORKS, weights drawn for each model."""
    text, shapes = NETWORKS[name]
    if name == "layers":  # ONNX text is read in order
        lines = text.split("\n")
        lines.insert(2, lines.pop(6))
        text = "\n".join(lines)
    paths = []
    for i in range(models):
        made = model(text, shapes, seed=i)
        if name == "one row":
            made.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
        paths.append(Path(save(folder / f"m{i}.onnx", made)))
    return family_of(paths)


def priced(corr: Correspondence, io: str = "separate", sizes: dict[str, int] = SIZES) -> Any:
    """The survey of a family on the CPU."""
    return surveyed(corr, io, frozenset(), cost("cpu", corr, sizes))  # type: ignore[arg-type]


def node_cases(found: Candidates) -> Iterator[NodeCase]:
    for site, offers in zip(found.sites, found.options, strict=True):
        for offer in offers if len(offers) > 1 else []:
            yield NodeCase((Member(offer, site),))


def chain_cases(corr: Correspondence, found: Candidates) -> Iterator[NodeCase]:
    for chain in chains(corr.graph, corr.weights.keys()):
        for offer in found.options[chain.nodes[0]]:
            yield NodeCase(members(chain, offer, found.options, found.sites))


def values(kind: ValueType, shared: bool, rng: np.random.Generator, models: int = MODELS) -> np.ndarray:
    """N values of a per-model type; one N times where the models share it."""
    shape = tuple(int(dim) for dim in kind.dims or ())  # type: ignore[arg-type]
    drawn = rng.standard_normal((models, *shape)).astype(np.float32)
    if kind.dtype != onnx.TensorProto.FLOAT:
        drawn = np.zeros_like(drawn, onnx.helper.tensor_dtype_to_np_dtype(kind.dtype))
    return np.broadcast_to(drawn[:1], drawn.shape).copy() if shared else drawn


def bare(made: Probe) -> bytes:
    """The model of a probe with its own weights, without its readers: their inputs are its outputs."""
    full = onnx.ModelProto()
    full.CopyFrom(made.model)
    names = {output.name for output in full.graph.output}
    nodes = [node for node in full.graph.node if not names.intersection(node.output)]
    reads = [node.input[0] for node in full.graph.node if names.intersection(node.output)]
    del full.graph.node[:], full.graph.output[:]
    full.graph.node.extend(nodes)
    full.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(reads))
    for tensor in full.graph.initializer:
        if tensor.name in made.recipes:
            tensor.ClearField("data_location")
            tensor.raw_data = b"".join(weights.stream(made.recipes[tensor.name]))
    return full.SerializeToString()


def alone(case: NodeCase, fed: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The outputs of the nodes of a case, run for each model by itself."""
    results: dict[str, list[np.ndarray]] = {}
    for m in range(MODELS):
        graph, given = onnx.GraphProto(name="g"), dict[str, np.ndarray]()
        for member in case.members:
            site = member.lowering.site
            node = site.node
            graph.node.append(
                onnx.helper.make_node(node.op, node.inputs, node.outputs, domain=node.domain, **node.attrs)
            )
            for name, parts in zip(node.inputs, site.parts, strict=True):
                if parts:
                    graph.initializer.append(weights.proto(parts[m if len(parts) > 1 else 0], name))
        for name, each in fed.items():
            given[name] = each[m]
            graph.input.append(
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(each.dtype), each.shape[1:]
                )
            )
        last = case.members[-1].lowering.site.node.outputs
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in last if name)
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in case.opsets.items()]
        proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
        for name, value in ask(session(proto.SerializeToString(), LEVELS[0]), given).items():
            results.setdefault(name, []).append(np.asarray(value))
    return results


def fed_to(case: NodeCase, made: Probe, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values for the inputs of a case: of each model, and laid out for its probe."""
    each, laid = dict[str, Any](), dict[str, Any]()
    inside = {name for member in case.members for name in member.lowering.site.node.outputs}
    for member in case.members:
        rows = zip(
            member.sized.node.inputs,
            member.lowering.takes,
            member.sized.inputs,
            member.sized.parts,
            strict=True,
        )
        for name, take, kind, parts in rows:
            if name and name not in inside and not parts:
                each.setdefault(name, values(kind, take == SHARED, rng))
                if take is not None:
                    tensors = hold(each[name], take)
                    names = (
                        [f"{name}/{take}/{m}" for m in range(MODELS)]
                        if take == PER_MODEL
                        else [f"{name}/{take}"]
                    )
                    laid |= dict(zip(names, tensors, strict=True))
    for name, given in made.inputs.items():
        laid.setdefault(name, np.zeros(given.shape, np.int8))
    return each, {name: laid[name] for name in made.inputs}


def given_as(layout: Layout, results: list[np.ndarray]) -> list[np.ndarray]:
    return hold(np.stack(results), layout)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("what", ["nodes", "chains"])
def test_a_probe_computes_what_the_nodes_alone_compute(tmp_path: Path, name: str, what: str) -> None:
    corr = network(name, tmp_path)
    found = priced(corr).found
    cases = list(node_cases(found) if what == "nodes" else chain_cases(corr, found))
    assert cases
    for case, level in itertools.product(cases, LEVELS):
        made = probe(case)
        onnx.checker.check_model(onnx.load_from_string(filled(probe(case))[0]))
        each, laid = fed_to(case, made, np.random.default_rng(0))
        have = [*ask(session(bare(made), level), laid).values()]
        last = case.members[-1].lowering
        want = alone(case, each)
        names = [name for name in last.site.node.outputs if name]
        expected = itertools.chain.from_iterable(
            given_as(layout, want[name]) for name, layout in zip(names, last.gives, strict=True)
        )
        for one, other in zip(have, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_read_the_same_values_and_have_weights_of_their_own(tmp_path: Path, name: str) -> None:
    found = priced(network(name, tmp_path)).found
    for case in node_cases(found):
        one = probe(case)
        many = repeated(one, 4)
        assert many.inputs == one.inputs and many.copies == 4
        assert len(many.recipes) == 4 * len(one.recipes)
        assert {kind: 4 * count for kind, count in one.read.items()} == many.read
        full, given = filled(many)
        onnx.checker.check_model(onnx.load_from_string(full))
        outputs = [*ask(session(full, LEVELS[-1]), given).values()]
        per_copy = len(outputs) // 4
        for k in range(per_copy):
            for copy in range(1, 4):
                np.testing.assert_array_equal(outputs[k], outputs[copy * per_copy + k])


def conversion_cases(dims: tuple[int | str, ...], sized: tuple[int, ...]) -> Iterator[ConversionCase]:
    from test_convert import layouts

    kinds = ValueType(onnx.TensorProto.FLOAT, dims), ValueType(onnx.TensorProto.FLOAT, sized)
    for src, dst in itertools.permutations([SHARED, *layouts(dims)], 2):
        if dst != SHARED:
            for compare in (False, True) if src == PER_MODEL else (False,):
                yield ConversionCase(src, dst, *kinds, MODELS, {"": 17}, "cpu", compare)


@pytest.mark.parametrize("dims", [(2, 3, 4), ("batch", 3, 4), (2, "words", 3, 4)])
def test_a_probe_of_a_conversion_converts(dims: tuple[int | str, ...]) -> None:
    sized = tuple(SIZES.get(dim, dim) if isinstance(dim, str) else dim for dim in dims)
    rng = np.random.default_rng(1)
    for case in conversion_cases(dims, sized):  # type: ignore[arg-type]
        made = probe(case)
        each = values(case.sized, case.src == SHARED, rng)
        names = [f"x/{case.src}/{m}" for m in range(MODELS)] if case.src == PER_MODEL else [f"x/{case.src}"]
        laid = dict(zip(names, hold(each, case.src), strict=True))
        for name, given in made.inputs.items():
            laid.setdefault(name, np.zeros(given.shape, np.int8))
        have = [*ask(session(bare(made), LEVELS[0]), laid).values()]
        want = hold(each, case.dst)
        for one, other in zip(have if len(have) == len(want) else have * len(want), want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_is_no_tensor_has_no_probe() -> None:
    unknown = ValueType(onnx.TensorProto.FLOAT, None)
    case = ConversionCase(PER_MODEL, SHARED, unknown, unknown, 2, {"": 17}, "cpu")
    with pytest.raises(Unprobed):
        probe(case)


# --------------------------------------------------------------------------- keys


def plainly(made: Probe) -> str:
    """The model of a probe as text without names, and the sizes of its inputs."""
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    about: dict[str, Any] = {name: (fed.dtype, fed.shape) for name, fed in made.inputs.items()}
    for tensor in made.model.graph.initializer:
        own = tensor.raw_data if tensor.name not in made.recipes else b""
        about[tensor.name] = tensor.data_type, tuple(tensor.dims), own
    lines = []
    for node in made.model.graph.node:
        attrs = sorted((a.name, a.SerializeToString(deterministic=True)) for a in node.attribute)
        ins = [(number(x), about.get(x)) for x in node.input]
        lines.append(str((node.op_type, node.domain, attrs, ins, [number(y) for y in node.output])))
    return "\n".join(lines)


def test_keys_are_equal_where_the_same_is_emitted_and_only_there(tmp_path: Path) -> None:
    """Over all lowerings of the networks, in two sizes of batch and for two numbers of models."""
    by_key: dict[str, str] = {}
    keyed: dict[str, set[str]] = {}
    for name, models, batch in itertools.product(NETWORKS, (2, 3), (2, 5)):
        folder = tmp_path / f"{name}-{models}-{batch}"
        folder.mkdir()
        corr = network(name, folder, models)
        survey = priced(corr, sizes={"batch": batch, "words": 3})
        for case in (*node_cases(survey.found), *chain_cases(corr, survey.found)):
            key, text = survey.keys.of(case), f"{models} {plainly(probe(case))}"
            assert key
            assert by_key.setdefault(key, text) == text, key
            keyed.setdefault(text, set()).add(key)
    for text, keys in keyed.items():
        digests = {(key.partition(",")[0], key.partition("#")[2]) for key in keys}
        ways = {key.partition("models, ")[2].partition(" #")[0] for key in keys}
        assert len(digests) == 1 or len(ways) == len(keys), text


def test_layers_that_are_alike_have_one_key(tmp_path: Path) -> None:
    text = (
        "g (float[2, 8] x) => (float[2, 8] y) {"
        + "".join(
            f"h{i} = MatMul({'x' if i == 0 else f'r{i - 1}'}, w{i})\n r{i} = Tanh(h{i})\n" for i in range(4)
        )
        + "y = Identity(r3)}"
    )
    paths = [
        Path(save(tmp_path / f"m{k}.onnx", model(text, {f"w{i}": (8, 8) for i in range(4)}, seed=k)))
        for k in range(3)
    ]
    survey = priced(family_of(paths))
    assert len(survey.choices) == 1
    assert len({key for keys in survey.choices for key in keys}) == len(survey.found.options[0])


def test_an_index_that_all_models_share_is_part_of_the_key(tmp_path: Path) -> None:
    def case(index: int) -> tuple[Keys, NodeCase]:
        folder = tmp_path / str(index)
        folder.mkdir()
        made = model("g (float[4, 8] x) => (float[8] y) { y = Gather(x, at) }")
        made.graph.initializer.append(numpy_helper.from_array(np.array(index), "at"))
        survey = priced(family_of([Path(save(folder / f"{k}.onnx", made)) for k in range(2)]))
        return survey.keys, next(node_cases(survey.found))

    one, other, again = (keys.of(found) for keys, found in (case(0), case(1), (case(2))))
    assert len({one, other, again}) == 3


def test_attributes_are_part_of_the_key(tmp_path: Path) -> None:
    keys = set()
    for pads in ([1, 1, 1, 1], [2, 2, 0, 0]):
        folder = tmp_path / str(pads[0])
        folder.mkdir()
        text = f"g (float[1, 4, 6, 6] x) => (float[1, 8, 6, 6] y) {{ y = Conv<pads = {pads}>(x, w) }}"
        paths = [Path(save(folder / f"{k}.onnx", model(text, {"w": (8, 4, 3, 3)}, seed=k))) for k in range(2)]
        survey = priced(family_of(paths))
        keys |= {survey.keys.of(case) for case in node_cases(survey.found)}
    ways = {key.partition(" #")[0] for key in keys}
    assert len(keys) == 2 * len(ways)


def test_the_sizes_of_all_values_of_a_chain_are_part_of_the_key(tmp_path: Path) -> None:
    """The words of a key show the head alone."""
    keys = set()
    for more in ("8", "2, 3, 8"):
        folder = tmp_path / str(len(more))
        folder.mkdir()
        text = f"""g (float[2, 3, 8] x, float[{more}] z) => (float[2, 3, 8] y) {{
            h = MatMul(x, w)
            y = Add(h, z)
        }}"""
        paths = [Path(save(folder / f"{k}.onnx", model(text, {"w": (8, 8)}, seed=k))) for k in range(2)]
        corr = family_of(paths)
        survey = priced(corr)
        cases = [case for case in chain_cases(corr, survey.found) if len(case.members) == 2]
        keys |= {survey.keys.of(case) for case in cases if "once per model" in survey.keys.of(case)}
    assert len(keys) == 2 and len({key.partition(" #")[0] for key in keys}) == 1


def test_unknown_sizes_have_no_key(tmp_path: Path) -> None:
    survey = priced(network("words", tmp_path))
    case = next(node_cases(survey.found))
    member = case.head
    unknown = replace(
        member.sized, inputs=tuple(replace(kind, dims=(None, 3, 8)) for kind in member.sized.inputs)
    )
    assert survey.keys.of(NodeCase((replace(member, sized=unknown),))) == ""


# --------------------------------------------------------------------------- chains and values


def test_chains_end_where_something_else_reads_a_value(tmp_path: Path) -> None:
    corr = network("words", tmp_path)
    ops = [node.op for node in corr.graph.nodes]
    found = [[ops[k] for k in chain.nodes] for chain in chains(corr.graph, corr.weights.keys())]
    assert found == [["MatMul", "Add", "Relu", "Add", "LayerNormalization"]]
    layers = network("layers", tmp_path)
    ops = [node.op for node in layers.graph.nodes]
    found = [[ops[k] for k in chain.nodes] for chain in chains(layers.graph, layers.weights.keys())]
    assert sorted(found) == [["Conv", "Add", "Relu"], ["Conv", "Relu"]]


def test_a_chain_ends_before_a_node_that_is_not_the_only_reader(tmp_path: Path) -> None:
    text = """g (float[2, 8] x) => (float[2, 8] y) {
        h = MatMul(x, w1)
        r = Relu(h)
        q = Sigmoid(r)
        m = MatMul(r, w2)
        y = Add(m, q)
    }"""
    shapes = {"w1": (8, 8), "w2": (8, 8)}
    paths = [Path(save(tmp_path / f"{k}.onnx", model(text, shapes, seed=k))) for k in range(2)]
    corr = family_of(paths)
    ops = [node.op for node in corr.graph.nodes]
    found = [[ops[k] for k in chain.nodes] for chain in chains(corr.graph, corr.weights.keys())]
    assert found == [["MatMul", "Relu"], ["MatMul", "Add"]]


def test_large_weights_are_made_up_and_small_ones_their_own(tmp_path: Path) -> None:
    text = "g (float[1, 64] x) => (float[1, 64] y) { h = MatMul(x, w)\n y = Add(h, b) }"
    paths = [
        Path(save(tmp_path / f"m{k}.onnx", model(text, {"w": (64, 64), "b": (64,)}, seed=k)))
        for k in range(2)
    ]
    corr = family_of(paths)
    for case in chain_cases(corr, priced(corr).found):
        made = probe(case)
        full, given = filled(made)
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(full).graph.initializer}
        for name, recipe in made.recipes.items():
            own = b"".join(weights.stream(recipe))
            assert (stored[name].tobytes() == own) == (recipe.value == "b"), name
        assert all(np.isfinite(array).all() and (array > 0).all() for array in feeds(made.inputs).values())
        assert given.keys() == made.inputs.keys()
