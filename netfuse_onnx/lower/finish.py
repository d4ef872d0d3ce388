"""The last step of lower: it makes a ModelProto, recipes and the report from the emitter's graph.

onnx-graphsurgeon removes what nothing reads and writes the nodes. Types at the edge are written here,
because it cannot express sequences, optionals and maps; so are the names of what bodies capture, which
it does not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import onnx
import onnx_graphsurgeon as gs

from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.emit.repeat import REFERRED, SMALL
from netfuse_onnx.emit.stored_once import stored_once
from netfuse_onnx.load import rebuild
from netfuse_onnx.lower.boundary import Boundary
from netfuse_onnx.lowered import Conversion, Lowered, Merged, NodeRow
from netfuse_onnx.ops import walk
from netfuse_onnx.ops.kinds import FLOATS
from netfuse_onnx.ops.schemas import facts
from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.storage import weights
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Correspondence, Plan


def export(
    corr: Correspondence,
    plan: Plan,
    emit: Emitter,
    edge: Boundary,
    conversions: Sequence[Conversion],
    drained: Set[int],
) -> Merged:
    """`drained`: the nodes that split the outputs, by id."""
    graph = emit.graph.cleanup()
    emit.chosen = None  # what follows is about the bytes of all models, whichever a call chooses
    conversions = [*conversions, *stored_once(emit, unmoved=corr.unmoved)]
    boundary = sum(id(node) in drained and node.op not in walk.TRIVIAL for node in graph.nodes)
    model = written(emit, corr.opsets, corr.ir_version)
    for field, infos in (("input", edge.input_infos()), ("output", edge.output_infos())):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(infos)
    large, small = _place_weights(model.graph, emit.recipes, views=corr.unmoved)
    joins = sum(c.nodes for c in conversions if c.boundary and c.value in corr.graph.inputs)
    report = _report(corr, plan, model, conversions, boundary + joins)
    every = corr.every_weight
    inline = {name: recipe for name, recipe in small.items() if recipe.value in every}
    return Merged(model, large, report, round(plan.cost, 3), inline, plan)


def written(emit: Emitter, opsets: Mapping[str, int], ir_version: int) -> onnx.ModelProto:
    """The emitter's graph as a ModelProto without bytes of weights."""
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    model: onnx.ModelProto = gs.export_onnx(emit.graph, do_type_check=False, opset_imports=imports)
    model.ir_version = ir_version
    model.producer_name, model.producer_version = "netfuse-onnx", ""
    _bind_bodies(model.graph, emit.bodies)
    _restore_empty(model.graph, emit.empty, opsets)
    return model


def _bind_bodies(graph: onnx.GraphProto, bodies: Mapping[str, tuple[int, tuple[str, ...]]]) -> None:
    """Captured values travelled as extra inputs; write their final names into the bodies. A body holds no
    weights, though onnx-graphsurgeon writes down those that it reads."""
    for node in walk.nodes(graph):
        if node.name in bodies:
            count, captured = bodies[node.name]
            final = dict(zip(captured, node.input[count:], strict=False))
            del node.input[count:]
            for _, body in walk.bodies(node):
                walk.rename(body, lambda name, final=final: final.get(name, name))  # type: ignore[misc]
        for _, body in walk.bodies(node):
            body.ClearField("initializer")


def _restore_empty(
    graph: onnx.GraphProto, empty: Mapping[str, Sequence[str]], opsets: Mapping[str, int]
) -> None:
    """Write the attributes that are empty lists."""
    for node in walk.nodes(graph) if empty else ():
        schema = facts(node.op_type, node.domain, opsets.get(node.domain, 1))
        for name in empty.get(node.name, ()):
            node.attribute.append(rebuild.attribute(name, [], schema.kinds.get(name) if schema else None))


def _place_weights(
    graph: onnx.GraphProto, recipes: Mapping[str, Recipe], *, views: bool
) -> tuple[dict[str, Recipe], dict[str, Recipe]]:
    """Write small weights into the graph. Returns the recipes of the large weights, and of the small ones.
    With `views`, weights that are worth a reference are large: each view would hold a copy else."""
    large: dict[str, Recipe] = {}
    small: dict[str, Recipe] = {}
    for tensor in graph.initializer:
        recipe = recipes.get(tensor.name)
        if recipe is None:
            continue
        if tensor.data_type == onnx.TensorProto.STRING:
            tensor.ClearField("data_location")
            tensor.string_data.extend(weights.strings(recipe))
            small[tensor.name] = recipe
        elif weights.recipe_nbytes(recipe) <= (REFERRED if views and recipe.dtype in FLOATS else SMALL):
            tensor.ClearField("data_location")
            tensor.raw_data = b"".join(weights.stream(recipe))
            small[tensor.name] = recipe
        else:
            large[tensor.name] = recipe
    return large, small


def _rows(corr: Correspondence, plan: Plan, where: str = "") -> Iterator[NodeRow]:
    """One row for each node; those of merged bodies come behind the node that owns them."""
    costs = plan.prediction.nodes if plan.prediction else ("",) * len(plan.lowerings)
    for node, chosen, cost in zip(corr.graph.nodes, plan.lowerings, costs, strict=True):
        row = chosen.choice
        yield NodeRow(
            name=where + (node.name or f"-> {next(filter(None, node.outputs), '')}"),
            op=node.key,
            became=row.became,
            rule=row.rule,
            reason=chosen.reason,
            cost=cost,
            takes=row.takes,
            gives=row.gives,
        )
        if isinstance(chosen.option, NestedPlan):
            for attr, body in chosen.option.bodies.items():
                yield from _rows(body.corr, body.plan, f"{where}{node.name or node.op}/{attr}/")


def _report(
    corr: Correspondence,
    plan: Plan,
    model: onnx.ModelProto,
    conversions: Sequence[Conversion],
    boundary: int,
) -> Lowered:
    return Lowered(
        nodes=tuple(_rows(corr, plan)),
        conversions=tuple(conversions),
        source_nodes=corr.sources[0].node_count,
        merged_nodes=walk.count(model.graph) - boundary,
        boundary_nodes=boundary,
        notes=plan.notes,
        predicted=plan.prediction.parts if plan.prediction else {},
        alternatives=plan.prediction.alternatives if plan.prediction else {},
        sizes=plan.prediction.sizes if plan.prediction else (),
    )
