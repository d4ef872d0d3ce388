"""Proof (c): the merged file's graph is the one that merging these sources gives.

The compiler is deterministic, so its graph can be made again and compared with the file: inputs, outputs,
opsets, operators, attributes, constants and which weight stands where. Names of inner values and nodes, the
order of nodes, value_info and doc strings do not matter. The proof sees changes that values on a few inputs
can't show. It says nothing about the compiler: a graph that is made wrong is made wrong again.

Both graphs are walked from their outputs, value by value. Where two values are paired, their producers must
be equal, and their inputs are paired in turn. Whatever the outputs depend on is compared in this way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import ModelProto, NodeProto, ValueInfoProto

from netfuse_onnx.lowered import Merged
from netfuse_onnx.ops.schemas import canonical
from netfuse_onnx.ops.walk import bodies, key
from netfuse_onnx.ops.walk import nodes as every_node
from netfuse_onnx.proofs import GraphProof
from netfuse_onnx.prove.bits import same_tensor, unequal_attributes
from netfuse_onnx.prove.scopes import Made, Origin, Scope, names, title
from netfuse_onnx.storage import wire
from netfuse_onnx.storage.recipe import Recipe

MOST = 20
"""At most so many differences are reported: after the first ones the rest of the walk makes no sense."""


def prove_graph(path: str, merged: Merged, recipes: Mapping[str, Recipe]) -> GraphProof:
    """Compare the model file at `path` with `merged`, the graph that its sources give.

    `recipes` are those of the file's weights, from its metadata. Proof (a) compares their bytes.
    Raises FileFault when the file can't be read.
    """
    model = wire.scan(path).model
    walk = _Walk(Scope(model.graph), Scope(merged.model.graph), recipes, merged.every_recipe)
    walk.problems += _edges(model, merged.model)
    walk.run()
    count = sum(1 for _ in every_node(model.graph))
    return GraphProof(count, tuple(walk.problems[:MOST]))


# --------------------------------------------------------------------------- around the graph


def _edges(file: ModelProto, own: ModelProto) -> Iterator[str]:
    """Yield the differences in opsets, functions, inputs and outputs."""
    opsets = [{canonical(o.domain): o.version for o in m.opset_import} for m in (file, own)]
    if opsets[0] != opsets[1]:
        have, want = map(_opsets, opsets)
        yield f"The file imports the opsets {have}; merging these sources gives {want}."
    if _functions(file) != _functions(own):
        said = ", ".join(f"{f.domain}.{f.name}" for f in file.functions) or "none"
        yield f"The local functions of the file are not those that merging gives: {said}."
    if file.graph.sparse_initializer:
        yield "The file holds sparse initializers; merging gives none."
    yield from _signature("input", file.graph.input, own.graph.input)
    yield from _signature("output", file.graph.output, own.graph.output)


def _functions(model: ModelProto) -> list[bytes]:
    return sorted(function.SerializeToString(deterministic=True) for function in model.functions)


def _opsets(opsets: Mapping[str, int]) -> str:
    return ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(opsets.items()))


def _signature(what: str, file: Sequence[ValueInfoProto], own: Sequence[ValueInfoProto]) -> Iterator[str]:
    """Yield the differences in names, order and types of the graph's inputs or outputs."""
    have, want = [value.name for value in file], [value.name for value in own]
    if have != want:
        yield f"The file's {what}s are {', '.join(have)}; merging these sources gives {', '.join(want)}."
        return
    for a, b in zip(file, own, strict=True):
        if _type(a) != _type(b):
            yield f"The {what} {a.name!r} of the file has another type or shape than merging gives."


def _type(value: ValueInfoProto) -> bytes:
    return bytes(value.type.SerializeToString(deterministic=True))


# --------------------------------------------------------------------------- the walk


@dataclass
class _Walk:
    """A walk over pairs of values: `file` is the graph that was read, `own` the right one. `nodes` maps the
    nodes of the file to those that they were paired with, `taken` is the other way round."""

    file: Scope
    own: Scope
    recipes: Mapping[str, Recipe]
    wanted: Mapping[str, Recipe]
    problems: list[str] = field(default_factory=list)
    pending: list[tuple[Origin, Origin, str]] = field(default_factory=list)
    nodes: dict[Place, Place] = field(default_factory=dict)
    taken: dict[Place, Place] = field(default_factory=dict)
    stored: set[tuple[Scope, str, Scope, str]] = field(default_factory=set)
    scopes: dict[Scope, Scope] = field(default_factory=dict)

    def run(self) -> None:
        """Compare all that the outputs depend on, then look for nodes on which no output depends."""
        self.scopes[self.file] = self.own
        wanted = [value.name for value in self.own.graph.output]
        have = {value.name for value in self.file.graph.output}
        for name in reversed([name for name in wanted if name in have]):
            self.pending.append((self.file.origin(name), self.own.origin(name), f"Output {name!r}"))
        while self.pending and len(self.problems) < MOST:
            self._values(*self.pending.pop())
        if not self.problems:
            self.problems += self._idle()

    def _values(self, file: Origin, own: Origin, where: str) -> None:
        """Compare two values. `where` begins the message: it names the reader of the two values."""
        paired = file.made is own.made
        if paired and file.made is Made.INPUT:
            paired = self._same_input(file, own)
        elif paired and file.made is Made.NODE:
            paired = self._producers(file, own)
        elif paired and file.made is Made.STORED:
            self._tensors(file, own, where)
        if not paired:
            self._differs(f"{where} is {file}", own)

    def _differs(self, told: str, own: object) -> None:
        self.problems.append(f"{told} in the file; merging these sources gives {own}.")

    def _same_input(self, file: Origin, own: Origin) -> bool:
        """Inputs of the main graph pair by name, those of a body by position."""
        main = file.scope is self.file
        alike = file.name == own.name if main else file.place == own.place
        return alike and self.scopes.get(file.scope) is own.scope

    # ------------------------------------------------------------------ nodes

    def _producers(self, file: Origin, own: Origin) -> bool:
        """True where two outputs of nodes may be one value. The nodes are compared when they first meet."""
        if file.place != own.place or self.scopes.get(file.scope) is not own.scope:
            return False
        ours, theirs = (file.scope, file.index), (own.scope, own.index)
        if ours in self.nodes or theirs in self.taken:
            return self.nodes.get(ours) == theirs
        self.nodes[ours], self.taken[theirs] = theirs, ours
        if key(file.node) != key(own.node):
            self._differs(f"Node {title(own.node)} is {key(file.node)}", key(own.node))
        elif not any(self._arity(file.node, own.node)):
            self._inside(file, own)
        return True

    def _arity(self, file: NodeProto, own: NodeProto) -> Iterator[bool]:
        """Report inputs or outputs of one side only. Absent ones at the end do not matter."""
        for what, have, want in (("inputs", file.input, own.input), ("outputs", file.output, own.output)):
            ours, theirs = [bool(name) for name in names(have)], [bool(name) for name in names(want)]
            if ours != theirs:
                self._differs(f"Node {title(file)} has {sum(ours)} {what}", sum(theirs))
                yield True

    def _inside(self, file: Origin, own: Origin) -> None:
        """Compare attributes, and queue bodies and inputs."""
        node = title(file.node)
        for name, have, want in unequal_attributes(file.node, own.node):
            self._differs(f"Attribute {name!r} of node {node} is {have}", want)
        for name in dict.fromkeys(name for name, _ in bodies(file.node)):
            inner = ([body for other, body in bodies(each.node) if other == name] for each in (file, own))
            for a, b in zip(*inner, strict=False):
                self._body(Scope(a, file.scope), Scope(b, own.scope), f"body {name!r} of node {node}")
        pairs = list(zip(names(file.node.input), names(own.node.input), strict=True))
        for place, (a_name, b_name) in reversed(list(enumerate(pairs))):
            reads = file.scope.origin(a_name), own.scope.origin(b_name)
            self.pending.append((*reads, f"Input {place} of node {node}"))

    def _body(self, file: Scope, own: Scope, where: str) -> None:
        self.scopes[file] = own
        for what in ("input", "output"):
            have, want = (list(map(_type, getattr(each.graph, what))) for each in (file, own))
            if have != want:
                self.problems.append(f"The {what}s of {where} have other types than merging gives.")
        for place, (a, b) in enumerate(zip(file.graph.output, own.graph.output, strict=False)):
            ends = file.origin(a.name), own.origin(b.name)
            self.pending.append((*ends, f"Output {place} of {where}"))

    def _idle(self) -> Iterator[str]:
        """Yield nodes on which no output depends. A body of a source may have some."""
        for file, own in self.scopes.items():
            extra = [n for i, n in enumerate(file.graph.node) if (file, i) not in self.nodes]
            right = [n for i, n in enumerate(own.graph.node) if (own, i) not in self.taken]
            if sorted(map(key, extra)) != sorted(map(key, right)):
                told = title((extra or right)[0])
                yield f"No output depends on node {told} of the file; merging gives none like it."

    # ------------------------------------------------------------------ tensors

    def _tensors(self, file: Origin, own: Origin, where: str) -> None:
        """Compare weights by their recipes, which name their bytes, and constants by their values."""
        pair = (file.scope, file.name, own.scope, own.name)
        if pair in self.stored:
            return
        self.stored.add(pair)
        main = file.scope is self.file and own.scope is self.own
        have, want = (self.recipes.get(file.name), self.wanted.get(own.name)) if main else (None, None)
        if want is None:
            if not same_tensor(file.scope.stored[file.name], own.scope.stored[own.name]):
                told = f"{where} is the constant {file.name!r} in the file, of another value"
                self.problems.append(f"{told} than merging these sources gives.")
        elif have is not None and replace(have, parts=want.parts) == want != have:
            told = f"{where} is the weight {file.name!r} of {want.value!r} in the file"
            self.problems.append(f"{told}, which does not hold the models in the order of merging.")
        elif have != want:
            self._differs(f"{where} is {_weight(file.name, have)}", _weight(own.name, want))


Place = tuple[Scope, int]
"""A node: its graph and its index there."""


def _weight(name: str, recipe: Recipe | None) -> str:
    """Describe a weight for a message: whose bytes it holds, and how they are laid out."""
    if recipe is None:
        return f"the tensor {name!r}, which its metadata call no weight"
    how = f", {recipe.transform.text!r}" if recipe.transform.text else ""
    parts = f"{len(recipe.parts)} part{'s' if len(recipe.parts) > 1 else ''}"
    runs = f" in {recipe.outer} runs" if recipe.outer > 1 else ""
    return f"{name!r} ({parts} of {recipe.value!r}{runs}{how}, shape {list(recipe.shape)})"
