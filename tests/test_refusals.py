"""Forms that ONNX allows and CUDA's kernels refuse: no lowering that emits one is on offer for CUDA.

Each lowering is forced in turn, and the graph that it makes is read without the compiler's own types.
"""

from __future__ import annotations

import onnx
import pytest
from contrib_graphs import graph
from oracle import Every, as_models, draw, every_merge, family, plans

import netfuse_onnx
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.costs import cost as cost_of
from netfuse_onnx.plan.refusals import PORTABLE, REFUSALS
from netfuse_onnx.rules.fallback import CHEAPER
from netfuse_onnx.run import gaps, others

MODELS = 3
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
CASES = {
    "zero points of weights": (
        "int8[B,3,4] x, int8[4,5] w, int8 p, int8 q",
        "y = MatMulInteger(x, w, p, q)",
        "w q",
        "takes one zero point for all models",
    ),
    "zero points of activations": (
        "int8[B,3,4] x, int8[B,4,5] w, int8 p, int8 q",
        "y = MatMulInteger(x, w, p, q)",
        "p q",
        "takes one zero point for all models",
    ),
    "scalars to bytes": ("float x, float s, uint8 z", "y = QuantizeLinear(x, s, z)", "s z", ""),
    "scalars from bytes": ("uint8 x, float s, uint8 z", "y = DequantizeLinear(x, s, z)", "s z", ""),
    "vectors per axis": (
        "uint8[4] x, float[4] s, uint8[4] z", "y = DequantizeLinear<axis = 0>(x, s, z)", "s", "values of rank 1"
    ),
    "vectors to bytes": ("float[B] x, float s, uint8 z", "y = QuantizeLinear(x, s, z)", "s z", ""),
    "equal zero points": (
        "int8[B,3,4] x, int8[4,5] w, int8 p, int8 q", "y = MatMulInteger(x, w, p, q)", "w", ""
    ),
}  # fmt: skip
"""By name: inputs, nodes, what differs between the models besides x, and the reason why CUDA refuses some form."""


def matched(case, tmp_path):
    text, body, differing, _ = CASES[case]
    model = graph(text, body)
    role = {info.name: "shared weight" for info in model.graph.input} | {"x": "input"}
    if "activations" in case:
        role["w"] = "input"
    role |= dict.fromkeys(differing.split(), "weight")
    values = draw(model, MODELS, sizes={"B": 2})
    for k, name in enumerate(name for name in values if name in "pqz"):
        values[name][:] = [5 * k + m for m in range(MODELS)] if values[name].ndim == 1 else 7
    return family(as_models(model, values, role, tmp_path)), role


def refused_forms(model: onnx.ModelProto) -> list[str]:
    """The nodes of a merged graph that CUDA's kernels refuse, by the ranks that onnx infers."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    infos = (*graph.value_info, *graph.input, *graph.output)
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in infos}
    dims |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}

    def several(node: onnx.NodeProto, place: int) -> bool:
        name = node.input[place] if len(node.input) > place else ""
        return bool(name) and dims.get(name, [0]) not in ([], [1])

    return [
        node.op_type
        for node in graph.node
        if (node.op_type == "MatMulInteger" and (several(node, 2) or several(node, 3)))
        or (node.op_type in QUANTISERS and several(node, 1) and len(dims.get(node.input[0], [])) < 2)
    ]


@pytest.mark.parametrize("case", CASES)
def test_a_form_is_refused_where_it_is_emitted(case, tmp_path):
    """Every lowering that is on offer anywhere, forced: CUDA refuses it where its graph has the form."""
    corr, role = matched(case, tmp_path)
    cuda, reason, seen = cost_of("cuda", corr, {}), CASES[case][3], set()
    for plan, model, what in every_merge(corr, role, "separate"):
        (offer,) = plan.lowerings
        forms = refused_forms(onnx.load_from_string(model))
        said = cuda.refusal(offer)
        assert bool(said) == bool(forms), what
        assert not forms or (reason and reason in said)
        seen.add(bool(forms))
    assert (True in seen) == bool(reason), "the case has no lowering that CUDA refuses"


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize("case", CASES)
def test_a_merge_for_cuda_has_no_such_form(case, io, tmp_path):
    corr, _ = matched(case, tmp_path)
    plan = planning.plan(corr, io=io, cost=cost_of("cuda", corr, {}))
    (chosen,) = plan.lowerings
    if not refused_forms(onnx.load(corr.sources[0].path)):  # else CUDA does not run the source either
        assert not refused_forms(lower(corr, plan, io=io).model)
    assert chosen.reason in ("", CHEAPER) or (CASES[case][3] and CASES[case][3] in chosen.reason)


def test_the_reason_is_told(tmp_path):
    """The node is replicated where no other form is left, and the report says why."""
    corr, _ = matched("vectors per axis", tmp_path)
    paths = [source.path for source in corr.sources]
    report = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"), target="cuda", verify=False)
    assert [CASES["vectors per axis"][3] in row.reason for row in report.lowered.replicated] == [True]
    generic = netfuse_onnx.merge(paths, str(tmp_path / "out.onnx"), verify=False)
    assert not generic.lowered.replicated


def test_other_targets_refuse_nothing(tmp_path):
    corr, _ = matched("zero points of weights", tmp_path)
    for target in ("generic", "cpu"):
        cost = cost_of(target, corr, {})
        for plan in plans(corr, "separate", frozenset(), True):
            assert not cost.refusal(plan.lowerings[0])
    assert not Every(MODELS).refusal(plan.lowerings[0])


def test_each_refusal_names_its_gap():
    for provider, table in REFUSALS.items():
        for refusal in table.values():
            assert getattr(others if provider == PORTABLE else gaps, refusal.gap)
