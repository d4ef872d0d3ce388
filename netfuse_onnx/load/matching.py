"""The weights of a base that an adapter names: matched by the paths of modules, never guessed.

An adapter says `bert.encoder.layer.0.attention.self.query`; the file may lack the prefix `bert`, or have one
more, as a wrapper around the network adds it. So one prefix is taken from, or put before, all names of an
adapter alike. The match holds when exactly one prefix finds a place for every name; an equal name needs no
prefix.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from netfuse_onnx.errors import AdapterMismatch
from netfuse_onnx.load.modules import BIAS, WEIGHT, Path, Place, readers, split
from netfuse_onnx.types import Graph

SHOWN = 4
"""The names that a message lists, at most."""
RENAMED = (
    "Export the base from the network that the adapters were trained on. Tools that optimise a file may "
    "remove the names by which modules are found: give the file as torch's exporter wrote it."
)


@dataclass(frozen=True, slots=True)
class Target:
    """The place that a name stands for: the weight of the file, and the nodes that apply it, if they are
    known."""

    weight: str
    places: tuple[Place, ...] = ()
    evidence: str = ""


@dataclass(frozen=True, slots=True, order=True)
class _Prefix:
    """The modules around the network on one side: taken from the adapter's names, or put before them."""

    removed: Path = ()
    added: Path = ()

    def of(self, path: Path) -> Path | None:
        """Return the path in the file; None where the adapter's name lacks what is to be removed."""
        head = len(self.removed)
        return (*self.added, *path[head:]) if path[:head] == self.removed and path[head:] else None


class Names:
    """The names of modules and tensors in a base. `path` is that of its file, for messages."""

    def __init__(self, path: str, graph: Graph, places: Sequence[Place], stored: Iterable[str]) -> None:
        self.path, self.graph = path, graph
        self.modules: dict[Path, list[Place]] = defaultdict(list)
        self.tensors: dict[Path, list[Target]] = defaultdict(list)
        for place in places:
            if place.path:
                self.modules[place.path].append(place)
        for path_of, some in self.modules.items():
            for role, names in ((WEIGHT, {p.weight for p in some}), (BIAS, {p.bias for p in some} - {""})):
                for name in sorted(names):
                    own = tuple(p for p in some if name in (p.weight, p.bias))
                    self.tensors[*path_of, role].append(Target(name, own, own[0].evidence))
        for name in stored:
            if name in graph.weights and name not in [t.weight for t in self.tensors[split(name)]]:
                self.tensors[split(name)].append(Target(name, (), "weight name"))
        self._stored = frozenset(stored)
        self._ends: dict[tuple[bool, str], list[Path]] = defaultdict(list)
        for of_tensors, known in ((False, self.modules), (True, self.tensors)):
            for each in known:
                self._ends[of_tensors, each[-1]].append(each)

    # ------------------------------------------------------------------ matching

    def match(
        self, adapter: str, modules: Sequence[str], tensors: Sequence[str]
    ) -> tuple[dict[str, Target], dict[str, Target]]:
        """Return the targets of an adapter's modules and of its tensors, by name. Raises AdapterMismatch."""
        wanted = [(split(name), False) for name in modules] + [(split(name), True) for name in tensors]
        prefix = self._prefix(adapter, wanted)
        return (
            {name: self._module(adapter, name, prefix.of(split(name)) or ()) for name in modules},
            {name: self._tensor(adapter, name, prefix.of(split(name)) or ()) for name in tensors},
        )

    def _prefix(self, adapter: str, wanted: Sequence[tuple[Path, bool]]) -> _Prefix:
        """Return the one prefix with which all names have a place."""
        counts = Counter(prefix for path, of_tensor in wanted for prefix in self._prefixes(path, of_tensor))
        whole = [prefix for prefix, count in counts.items() if count == len(wanted)]
        if len(whole) == 1 or _Prefix() in whole:
            return whole[0] if len(whole) == 1 else _Prefix()
        if whole:
            path = wanted[0][0]
            candidates = sorted(".".join(prefix.of(path) or ()) for prefix in whole)
            raise AdapterMismatch(
                f"{adapter}: {'.'.join(path)!r} may be any of {_some(candidates)} in {self.path}.",
                "Export the base so that the names of its modules are those of the adapter.",
            )
        best = max(sorted(counts), key=lambda prefix: counts[prefix], default=_Prefix())
        missing = [one for one in wanted if best not in set(self._prefixes(*one))]
        raise self._unmatched(adapter, missing, len(wanted))

    def _prefixes(self, path: Path, of_tensor: bool) -> Iterator[_Prefix]:
        """Yield each prefix with which the path is one of the file. Numbers are no part of one: layers have
        them."""
        for known in self._ends[of_tensor, path[-1]]:
            size = min(len(known), len(path))
            prefix = _Prefix(path[: len(path) - size], known[: len(known) - size])
            numbered = any(name.isdecimal() for name in (*prefix.removed, *prefix.added))
            if known[-size:] == path[-size:] and not numbered:
                yield prefix

    def _unmatched(self, adapter: str, missing: Sequence[tuple[Path, bool]], count: int) -> AdapterMismatch:
        names = [".".join(path) for path, _ in missing]
        message = f"{adapter}: {len(missing)} of {count} names match nothing in {self.path}: {_some(names)}."
        path, of_tensor = missing[0]
        if not of_tensor and (reason := self._reason(path)):
            return AdapterMismatch(message, reason)
        near = sorted(".".join(known) for known in self._ends[of_tensor, path[-1]])
        nearest = f"For {names[0]!r} the file has {_some(near)}. " if near else ""
        return AdapterMismatch(message, nearest + RENAMED)

    def _reason(self, path: Path) -> str:
        """Return the reason why the weight of a module, which the file has by its name, is no target."""
        needs = "a low-rank difference needs a MatMul, a Gemm or a Conv without groups."
        for prefix in self._prefixes((*path, WEIGHT), True):
            for target in self.tensors[prefix.of((*path, WEIGHT)) or ()]:
                ops = sorted({self.graph.nodes[i].key for i in readers(self.graph, target.weight)})
                return f"{target.weight!r} is read by {' and '.join(ops)}; {needs}"
        return ""

    # ------------------------------------------------------------------ targets

    def _module(self, adapter: str, name: str, path: Path) -> Target:
        places = self.modules[path]
        found = sorted({place.weight for place in places})
        if len(found) > 1:
            raise self._ambiguous(adapter, name, found)
        target = Target(found[0], tuple(places), places[0].evidence)
        self._check(adapter, name, target)
        return target

    def _tensor(self, adapter: str, name: str, path: Path) -> Target:
        targets = self.tensors[path]
        if len(targets) > 1:
            raise self._ambiguous(adapter, name, [target.weight for target in targets])
        self._check(adapter, name, targets[0])
        return targets[0]

    def _ambiguous(self, adapter: str, name: str, weights: Sequence[str]) -> AdapterMismatch:
        return AdapterMismatch(
            f"{adapter}: {name!r} may be any of the weights {_some(weights)} of {self.path}.",
            "Export the base so that every module has a name of its own.",
        )

    def _check(self, adapter: str, name: str, target: Target) -> None:
        """Refuse a weight that other modules read as well, or that is no tensor of the file's main graph."""
        own = {i for place in target.places for i in (place.node, place.reader)}
        own |= {i for place in target.places for i in self._users(place) if place.bias == target.weight}
        users = set(readers(self.graph, target.weight))
        through = {i for place in target.places if place.reader != place.node for i in self._users_of(place)}
        if (users - own if own else len(users) > 1) or through - own:
            nodes = sorted(
                f"{self.graph.nodes[i].op} {self.graph.nodes[i].name!r}" for i in (users | through)
            )
            raise AdapterMismatch(
                f"{adapter} changes {name!r}, but other modules of {self.path} read its weight "
                f"{target.weight!r}, too: {_some(nodes)}.",
                "Export the base with a weight of its own for each module.",
            )
        if target.weight not in self._stored:
            raise AdapterMismatch(
                f"{adapter} changes {name!r}, whose weight is inside of a function or a body of {self.path}.",
                RENAMED,
            )

    def _users(self, place: Place) -> Sequence[int]:
        """Return the nodes that read the result of a place."""
        return readers(self.graph, self.graph.nodes[place.node].outputs[0])

    def _users_of(self, place: Place) -> Sequence[int]:
        """Return the nodes that read the transposed weight of a place."""
        return readers(self.graph, place.operand)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
