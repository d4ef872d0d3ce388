"""One opset for the family: the highest of its sources, raised to 17 where onnx's converter can do it.

From opset 17 on all rules apply; below, each rule says what it needs. Where no operator in use has changed,
only the number changes. The converter runs on the skeleton. Where it is known to be wrong (checked against
ONNX Runtime with onnx 1.23), it is not asked: Resize and Upsample from before opset 11, whose coordinates it
leaves to the new default, GroupNormalization from before 21, whose scale it leaves per group, and operators
outside the default domain, on some of which it asserts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnx import AttributeProto, GraphProto, version_converter

from netfuse_onnx.errors import FileFault, NotEquivalent
from netfuse_onnx.load import normal, prepared
from netfuse_onnx.ops import schemas
from netfuse_onnx.types import Source

TARGET = 17
OLDEST = 9
_WRONG = {"Resize": 11, "Upsample": 11, "GroupNormalization": 21}
_COMPLEX = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence")
HINT = "Export all models with one opset, or convert them with onnx.version_converter first."


class Unconvertible(Exception):
    """Why a source stays at its opset; the message completes 'because'."""


def read(source: Source) -> Source:
    """A source as load gives it: of opset 9 or newer. An older one counts as 9 where none of its operators
    has changed. Raises FileFault for others: the converter is wrong there too (Scan)."""
    now = source.opsets.get("", OLDEST)
    if now >= OLDEST:
        return source
    for domain, op in sorted(set(_operators(source))):
        if not domain and not _unchanged(op, now, OLDEST):
            raise FileFault(
                f"{source.path} has opset {now}, whose {op} is not that of opset {OLDEST}, the oldest that "
                "can be merged.",
                "Export the model again with a newer opset: 17 or later is best.",
            )
    return replace(source, opsets={**source.opsets, "": OLDEST})


def align(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources at one opset. Raises NotEquivalent where they differ and can't be brought together."""
    sources = _other_domains(sources)
    versions = {source.opsets.get("", 0) for source in sources}
    goals = sorted({max(TARGET, *versions), max(versions)}, reverse=True)
    reason = ""
    for goal in goals:
        if versions == {goal}:
            return sources
        try:
            return tuple([converted(source, goal) for source in sources])
        except Unconvertible as fault:
            reason = str(fault)
    if len(versions) == 1:
        return sources
    said = ", ".join(f"{source.path} has opset {source.opsets.get('', 0)}" for source in sources[:8])
    raise NotEquivalent(f"The opsets differ ({said}), and they can't be brought together: {reason}.", HINT)


def convert(source: Source, version: int) -> Source:
    """The source at another version of the default domain. Raises NotEquivalent where that can't be."""
    try:
        return converted(source, version)
    except Unconvertible as fault:
        raise NotEquivalent(f"{source.path} can't be converted to opset {version}: {fault}.", HINT) from fault


def converted(source: Source, version: int) -> Source:
    """The source at `version`. Raises Unconvertible."""
    now = source.opsets.get("", 0)
    if now == version:
        return source
    used = set(_operators(source))
    opsets = {**source.opsets, "": version}
    if all(_unchanged(op, now, version) for domain, op in used if not domain):
        return replace(source, opsets=opsets)
    _refuse(source, used, now, version)
    try:
        result = version_converter.convert_version(prepared.skeleton(source, version), version)
        graph = normal.normalise(result.graph, source.path, {"": version})
    except prepared.ManyAxes as fault:
        said = f"{source.path} uses {fault.op} of opset {now} along several axes, or of unknown rank"
        raise Unconvertible(f"{said}: opset 13 has another meaning for it") from fault
    except FileFault as fault:
        raise Unconvertible(f"onnx.version_converter gives an invalid graph ({fault.message})") from fault
    except Exception as fault:  # the converter raises RuntimeError and what protobuf raises
        first = next(iter(str(fault).strip().splitlines()), type(fault).__name__)
        raise Unconvertible(f"onnx.version_converter says: {first[:200]}") from fault
    before = source.graph
    inputs = graph.inputs[: len(before.inputs)]
    stand_ins = set(graph.inputs[len(before.inputs) :])
    if inputs != before.inputs or graph.outputs != before.outputs or not stand_ins <= before.weights.keys():
        raise Unconvertible("onnx.version_converter changes inputs or outputs")
    read = {name for node in graph.nodes for name in node.reads}
    weights = {name: before.weights[name] for name in before.weights if name in stand_ins and name in read}
    types = {name: before.types[name] for name in (*inputs, *before.outputs) if name in before.types}
    graph = replace(graph, inputs=inputs, weights={**weights, **graph.weights}, types=types, name=before.name)
    return replace(source, graph=graph, opsets=opsets)


def _refuse(source: Source, used: set[tuple[str, str]], now: int, version: int) -> None:
    """Raises Unconvertible for what the converter is known to get wrong."""
    for domain, op in sorted(used):
        if domain:
            raise Unconvertible(
                f"{source.path} uses {domain}.{op}, which onnx.version_converter doesn't know"
            )
        if now < _WRONG.get(op, 0) <= version:
            raise Unconvertible(f"{source.path} uses {op} of opset {now}, whose meaning it would change")
        if op.startswith(_COMPLEX):
            raise Unconvertible(f"{source.path} uses {op}, whose type the converter drops")
    for name in (*source.graph.inputs, *source.graph.outputs):
        kind = source.graph.types.get(name)
        if kind is not None and kind.proto is not None:
            raise Unconvertible(f"'{name}' of {source.path} is no tensor")


def _unchanged(op: str, now: int, version: int) -> bool:
    old, new = schemas.facts(op, "", now), schemas.facts(op, "", version)
    return old is not None and new is not None and old.since == new.since


def _operators(source: Source) -> Iterator[tuple[str, str]]:
    """(domain, operator) of all nodes, bodies included."""
    for node in source.graph.nodes:
        yield node.domain, node.op
        for value in node.attrs.values():
            if isinstance(value, GraphProto):
                yield from _inside(value)


def _inside(body: GraphProto) -> Iterator[tuple[str, str]]:
    for node in body.node:
        yield schemas.canonical(node.domain), node.op_type
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _inside(attribute.g)


def _other_domains(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources with the highest version of each domain but the default one.

    Raises NotEquivalent where two versions of a domain in use may mean different things.
    """
    highest: dict[str, int] = {}
    for source in sources:
        for domain, version in source.opsets.items():
            highest[domain] = max(version, highest.get(domain, 0))
    result = []
    for source in sources:
        raised = {**highest, "": source.opsets.get("", 0)}
        if raised != source.opsets:
            _comparable(source, raised)
        result.append(replace(source, opsets=raised))
    return tuple(result)


def _comparable(source: Source, raised: Mapping[str, int]) -> None:
    for domain, op in sorted(set(_operators(source))):
        now = source.opsets.get(domain, raised.get(domain, 1))
        version = raised.get(domain, now)
        if not domain or now == version:
            continue
        old, new = schemas.facts(op, domain, now), schemas.facts(op, domain, version)
        if old is None or new is None or old.since != new.since:
            raise NotEquivalent(
                f"{source.path} uses {domain}.{op} of version {now}, another model of version {version}.",
                "Export all models with one version of that domain.",
            )
