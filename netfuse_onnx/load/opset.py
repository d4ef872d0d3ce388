"""One opset for the family: the highest of its sources, raised to 17 where that can be done.

From opset 17 on all rules apply; below, each rule says what it needs. Where no operator in use has changed,
only the number changes. Else lift.py raises operator by operator. Steps that it does not know are left to
onnx.version_converter, on the skeleton, except where that is known to be wrong (compared with ONNX Runtime,
onnx 1.23): Resize and Upsample from before opset 11, whose coordinates it leaves to the new default,
GroupNormalization from before 21, whose scale it leaves per group, and operators outside the default domain,
on some of which it asserts. From before opset 9 it is not asked at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnx import version_converter

from netfuse_onnx.errors import FileFault, Mismatch, NotEquivalent
from netfuse_onnx.load import batches, normal, prepared, steps  # noqa: F401  steps register
from netfuse_onnx.load.lift import Lift, Unconvertible, UnknownStep
from netfuse_onnx.ops import schemas, tables, walk
from netfuse_onnx.types import Graph, Source

TARGET = 17
OLDEST = 9
"""The oldest opset from which onnx.version_converter is asked; older files are raised at least to it."""
RUNS = 7
"""The oldest opset that ONNX Runtime supports."""
_WRONG = {"Resize": 11, "Upsample": 11, "GroupNormalization": 21}
_COMPLEX = ("Sequence", "Optional", "SplitToSequence", "ConcatFromSequence")
HINT = "Export all models with one opset, or convert them with onnx.version_converter first."


def read(source: Source) -> Source:
    """Check a source as load gives it. Raises FileFault for one from before opset 7, the oldest that ONNX
    Runtime loads, that can't be raised."""
    now = source.opsets.get("", OLDEST)
    reason = ""
    for goal in (TARGET, OLDEST) if now < OLDEST else ():
        try:
            converted(source, goal)
            return source
        except Unconvertible as fault:
            reason = reason or str(fault)
    if reason and now < RUNS:
        raise FileFault(
            f"{source.path} has opset {now}, and it can't be raised to {OLDEST}: {reason}.",
            "Export the model again with a newer opset: 17 or later is best.",
        )
    return source


def align(sources: Sequence[Source], *, keep: bool = False) -> tuple[Source, ...]:
    """Return the sources at one opset: the highest of them with `keep`, else at least TARGET. Raises
    NotEquivalent where that is impossible."""
    sources = _other_domains(sources)
    versions = {source.opsets.get("", 0) for source in sources}
    goals = sorted({max(TARGET, *versions), max(OLDEST, *versions), max(versions)}, reverse=True)
    goals = goals[-1:] if keep else goals
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
    versions_text = ", ".join(f"{source.path} has opset {source.opsets.get('', 0)}" for source in sources[:8])
    one, other = sources[0], next(s for s in sources if s.opsets.get("", 0) != sources[0].opsets.get("", 0))
    left, right = (str(source.opsets.get("", 0)) for source in (one, other))
    raise NotEquivalent(
        f"The opsets differ ({versions_text}), and they can't be brought together: {reason}.",
        HINT,
        Mismatch("opset", (one.path, other.path), left=left, right=right),
    )


def convert(source: Source, version: int) -> Source:
    """Return the source at another version of the default domain. Raises NotEquivalent."""
    try:
        return converted(source, version)
    except Unconvertible as fault:
        raise NotEquivalent(f"{source.path} can't be converted to opset {version}: {fault}.", HINT) from fault


def converted(source: Source, version: int) -> Source:
    """Return the source at `version`. Raises Unconvertible."""
    now = source.opsets.get("", 0)
    if now == version:
        return source
    used = set(_operators(source))
    opsets = {**source.opsets, "": version}
    if all(_unchanged(op, now, version) for domain, op in used if not domain):
        return replace(source, opsets=opsets)
    source = prepared.fronted(source)
    try:
        lift = Lift(source, version)
        lift.run()
        graph = normal.normalise(lift.model.graph, source.path, opsets)
    except UnknownStep:
        if now < OLDEST:
            raise
        _refuse(source, used, now, version)
        graph = _by_onnx(source, version)
    except FileFault as fault:
        raise Unconvertible(f"{source.path} is not valid at opset {version}: {fault.message}") from fault
    return replace(source, graph=_with_own_weights(source, graph), opsets=opsets)


def _by_onnx(source: Source, version: int) -> Graph:
    """Return the graph as onnx.version_converter gives it. Raises Unconvertible."""
    try:
        result = version_converter.convert_version(prepared.skeleton(source, version), version)
        return normal.normalise(result.graph, source.path, {"": version})
    except Unconvertible:
        raise
    except FileFault as fault:
        raise Unconvertible(f"onnx.version_converter gives an invalid graph ({fault.message})") from fault
    except Exception as fault:  # the converter raises RuntimeError and what protobuf raises
        first = next(iter(str(fault).strip().splitlines()), type(fault).__name__)
        raise Unconvertible(f"onnx.version_converter says: {first[:200]}") from fault


def _with_own_weights(source: Source, graph: Graph) -> Graph:
    """Return the converted graph with the source's weights instead of the inputs in their place."""
    before = source.graph
    inputs = graph.inputs[: len(before.inputs)]
    stand_ins = set(graph.inputs[len(before.inputs) :])
    if inputs != before.inputs or graph.outputs != before.outputs or not stand_ins <= before.weights.keys():
        raise Unconvertible("the conversion changes inputs or outputs")
    read = {name for node in graph.nodes for name in node.reads}
    weights = {name: before.weights[name] for name in before.weights if name in stand_ins and name in read}
    types = {name: before.types[name] for name in (*inputs, *before.outputs) if name in before.types}
    return replace(graph, inputs=inputs, weights={**weights, **graph.weights}, types=types, name=before.name)


def _refuse(source: Source, used: set[tuple[str, str]], now: int, version: int) -> None:
    """Raise Unconvertible for what the converter is known to get wrong."""
    for domain, op in sorted(used):
        if domain:
            raise Unconvertible(
                f"{source.path} uses {domain}.{op}, which onnx.version_converter doesn't know"
            )
        if now < _WRONG.get(op, 0) <= version:
            raise Unconvertible(
                f"{source.path} uses {op} of opset {now}, whose meaning the converter would change"
            )
        if op.startswith(_COMPLEX):
            raise Unconvertible(f"{source.path} uses {op}, whose type the converter drops")
    for name in (*source.graph.inputs, *source.graph.outputs):
        declared = source.graph.types.get(name)
        if declared is not None and declared.proto is not None:
            raise Unconvertible(f"'{name}' of {source.path} is no tensor")


def _unchanged(op: str, now: int, version: int) -> bool:
    """Return True where an operator is the same at both versions."""
    old, new = schemas.facts(op, "", now), schemas.facts(op, "", version)
    return old is not None and new is not None and old.since == new.since


def _operators(source: Source) -> Iterator[tuple[str, str]]:
    """(domain, operator) of all nodes, bodies included."""
    for node in source.graph.nodes:
        yield node.domain, node.op
        for body in walk.bodies_of(node.attrs).values():
            yield from ((schemas.canonical(inner.domain), inner.op_type) for inner in walk.nodes(body))


def _other_domains(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources with the highest version of each domain but the default one.

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
    """Raise NotEquivalent where an operator of another domain may have changed between two versions."""
    for domain, op in sorted(set(_operators(source))):
        now = source.opsets.get(domain, raised.get(domain, 1))
        version = raised.get(domain, now)
        if not domain or now == version:
            continue
        old, new = schemas.facts(op, domain, now), schemas.facts(op, domain, version)
        added = tables.ONLY_ADDED.get(op) if domain == schemas.ML else None
        if old is None or new is None or (old.since != new.since and (old.since, new.since) != added):
            raise NotEquivalent(
                f"{source.path} uses {domain}.{op} of version {now}, another model of version {version}.",
                "Export all models with one version of that domain.",
            )
