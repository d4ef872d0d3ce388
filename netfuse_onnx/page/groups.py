"""The nodes of a merged graph, by what they were made from: a node of the source, a change of layout, the
inputs and outputs, or the checks and rows of a routed call.

The names that the emitter gives tell it: a node has the name of its source's node, behind the model's where
there is one for each model, and a conversion the name of its value and of the layout (lower/interpreter.py).
What has another name, such as a size that is read off a tensor, belongs to the node that first reads it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from netfuse_onnx import edges
from netfuse_onnx.labels import NameRow
from netfuse_onnx.lowered import Lowered
from netfuse_onnx.ops import walk

ROW, CONVERSION, ROUTING, INPUT, OUTPUT, ADDED = "row", "conversion", "routing", "input", "output", "added"
"""The kinds of groups."""
LAYOUT = re.compile(r"(?s)(.+)/((?:[A-Z_]+)(?:\(-?\d+\))?)")
COUNTED = re.compile(r"(?s)(.+)-\d+")
ROWS = "/rows"
CHECKS = ("chosen models", "chosen models/kept")
"""The scopes of lower/guards.py."""

Key = tuple[str, str]
"""The kind of a group, and its name among those: the place of a row is its number."""


@dataclass
class Group:
    """Nodes of the merged graph that are drawn as one. `row` is the place of the source's node in the
    report, `before` and `after` are the layouts of a conversion, and `tensors` the names of the merged inputs
    or outputs. `nodes` are in the order of the graph."""

    kind: str
    name: str
    row: int | None = None
    before: str = ""
    after: str = ""
    boundary: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Names:
    """The groups by the names of nodes. `rows` maps scopes to places in the report."""

    rows: Mapping[str, int]
    models: Sequence[str]
    ids: str

    @staticmethod
    def of(lowered: Lowered, models: Sequence[str], ids: str = "") -> Names:
        rows = {scope: place for place, scope in enumerate(scopes(lowered)) if scope}
        return Names(rows, models, ids)

    def key(self, name: str) -> Key | None:
        """Return the group of a node, or None where its name says nothing."""
        for scope in (name, base(name)):
            if (place := self._row(scope)) is not None:
                return ROW, str(place)
        scope = base(name)
        if scope in CHECKS or (self.ids and scope == self.ids):
            return ROUTING, scope
        if scope.endswith(ROWS):
            return ROUTING, scope
        if LAYOUT.fullmatch(scope):
            return CONVERSION, scope
        return None

    def _row(self, scope: str) -> int | None:
        if scope in self.rows:
            return self.rows[scope]
        model, _, rest = scope.partition("/")
        return self.rows.get(rest) if model in self.models else None


def base(name: str) -> str:
    """Return the scope of a name that was counted on, such as `x-2`."""
    counted = COUNTED.fullmatch(name)
    return counted[1] if counted else name


def scopes(lowered: Lowered) -> list[str]:
    """Return the scope of each row, by which its nodes are named; '' for a row inside a body, whose nodes are
    in that body. A node without a name is called by its operator and its place."""
    found, place, owner = [], 0, ""
    for row in lowered.nodes:
        if owner and row.name.startswith(owner):
            found.append("")
            continue
        op = row.op.rpartition(".")[2]
        named = not row.name.startswith("-> ")
        found.append(row.name if named else f"{op}_{place}")
        owner = f"{row.name if named else op}/" if op in ("If", "Loop", "Scan", "SequenceMap") else ""
        place += 1
    return found


# --------------------------------------------------------------------------- grouping


def grouped(
    graph: onnx.GraphProto,
    lowered: Lowered,
    models: Sequence[str],
    io: str,
    names: Sequence[NameRow],
    ids: str,
) -> list[Group]:
    """Return the groups in an order in which what is read comes first, as far as there is one."""
    known = Names.of(lowered, models, ids)
    keys = [known.key(node.name) for node in graph.node]
    outputs = _ends(graph.output, models, io, names, OUTPUT, known)
    ends = {name: group for group in outputs for name in group.tensors}
    _adopt(graph, keys, ends)
    groups: dict[Key, Group] = {}
    last: dict[Key, int] = {}
    for place, (node, given) in enumerate(zip(graph.node, keys, strict=True)):
        key = given or (ADDED, node.name)
        groups.setdefault(key, _group(key, lowered)).nodes.append(node)
        last[key] = place
    inputs = _ends(graph.input, models, io, names, INPUT, known)
    return [*inputs, *(groups[key] for key in sorted(groups, key=last.__getitem__)), *outputs]


def _group(key: Key, lowered: Lowered) -> Group:
    kind, name = key
    if kind == ROW:
        return Group(kind, lowered.nodes[int(name)].name, int(name))
    if kind == CONVERSION and (parts := LAYOUT.fullmatch(name)):
        value, after = parts[1], parts[2]
        same = [c for c in lowered.conversions if c.value == value]
        exact = next((c for c in same if c.after == after), None)
        return Group(
            kind, value, before=exact.before if exact else "", after=after,
            boundary=any(c.boundary for c in ([exact] if exact else same)),
        )  # fmt: skip
    return Group(kind, name)


def _adopt(graph: onnx.GraphProto, keys: list[Key | None], ends: Mapping[str, Group]) -> None:
    """Give each node whose name says nothing to the group that reads it first."""
    readers: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        for name in reads(node):
            readers.setdefault(name, place)
    for place in range(len(keys) - 1, -1, -1):
        if keys[place] is None:
            after = [readers[name] for name in graph.node[place].output if name in readers]
            if after:
                keys[place] = keys[min(after)]
            elif first := next((name for name in graph.node[place].output if name in ends), ""):
                keys[place] = (OUTPUT, ends[first].name)


def _ends(
    infos: Sequence[onnx.ValueInfoProto],
    models: Sequence[str],
    io: str,
    names: Sequence[NameRow],
    kind: str,
    known: Names,
) -> list[Group]:
    """Return a group for each input or output of the sources, with its names in the merged graph."""
    first = _first_names(names, kind)
    found: dict[str, Group] = {}
    for info in infos:
        name = first.get(info.name, info.name)
        if edges.is_separate(io) and name == info.name:
            model, _, rest = info.name.partition("/")
            name = rest if model in known.models and rest else name
        found.setdefault(name, Group(kind, name)).tensors.append(info.name)
    return list(found.values())


def _first_names(names: Sequence[NameRow], kind: str) -> dict[str, str]:
    """Return the first model's name of each merged input or output. Rows come name by name, the first model's
    first."""
    found, heads, seen = dict[str, str](), list[str](), Counter[str]()
    for row in names:
        if row.what == kind:
            if seen[row.model] == len(heads):
                heads.append(row.own)
            found[row.merged] = heads[seen[row.model]]
            seen[row.model] += 1
    return found


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node and its bodies read."""
    inside = [name for _, body in walk.bodies(node) for name in walk.outer_names(body)]
    return [name for name in (*node.input, *inside) if name]
