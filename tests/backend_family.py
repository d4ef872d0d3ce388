"""The backend cases as families: what each case feeds its operator, and three models made of it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import oracle
from backend_run import Session, alike, finite
from backend_values import INDICES, LEVELS, STEERS, Value, boldest, differs, vary
from onnx import numpy_helper

from netfuse_onnx.ops import traits

MODELS = ("a", "b", "c")

SALTS = ("", "+", "++", "+++")
"""What is added to the seed, in turn, until the models' results differ."""

OLDER = (25, 24, 23, 22, 21, 19, 17, 13)
"""Opsets that are tried, in turn, where ONNX Runtime has no kernel for a case's own."""

# --------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One backend test. `op` is the operator that it is about, also where its function is expanded."""

    name: str
    op: str
    model: onnx.ModelProto
    values: Mapping[str, Value]
    steers: frozenset[str]
    indices: frozenset[str]
    random: bool
    opset: int = 0  # set where the model was moved to an older one

    @property
    def data(self) -> list[str]:
        return [name for name in self.values if name not in self.steers]


def collect(pattern: str = "", every: int = 1) -> list[Case]:
    """The cases whose names match, or each operator's first and then one in `every`, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = {test.name: test for test in collect_testcases(None)}
    found = [case(tests[name], tests[base(name)]) for name in sorted(tests) if re.search(pattern, name)]
    found.sort(key=lambda one: one.op)
    groups = itertools.groupby(found, key=lambda one: one.op)
    return [one for _, group in groups for one in itertools.islice(group, 0, None, every)]


def base(name: str) -> str:
    """The plain case of one whose function is expanded: its inputs have the same names."""
    return re.sub(r"_expanded.*", "", name)


def case(test: Any, plain: Any) -> Case:
    inputs = zip(test.model.graph.input, test.data_sets[0][0], strict=True)
    values = {info.name: as_value(value) for info, value in inputs}
    nodes = plain.model.graph.node
    return Case(
        name=test.name,
        op="+".join(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes),
        model=test.model,
        values=values,
        steers=frozenset(positions(nodes, STEERS)) & values.keys(),
        indices=frozenset(positions(nodes, INDICES)) & values.keys(),
        random=any(is_random(node, values) for node in nodes),
    )


def as_value(value: Any) -> Value:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if value is None or isinstance(value, list):
        return None if value is None else [as_value(v) for v in value]
    return np.asarray(value)


def positions(nodes: Sequence[onnx.NodeProto], places: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for node in nodes:
        yield from (node.input[i] for i in places.get(node.op_type, ()) if i < len(node.input))


def is_random(node: onnx.NodeProto, values: Mapping[str, Value]) -> bool:
    if node.op_type == "Dropout":
        return len(node.input) > 2 and bool(np.any(values[node.input[2]]))
    return traits.of(node.op_type).random


def older(case: Case) -> Iterator[Case]:
    """The case as it is, then at older opsets."""
    yield case
    own = {entry.domain: entry.version for entry in case.model.opset_import}
    for opset in OLDER:
        if opset < own.get("", 0):
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            next(entry for entry in model.opset_import if not entry.domain).version = opset
            yield dataclasses.replace(case, model=model, opset=opset)


# --------------------------------------------------------------------------- families


def baked(case: Case, values: Mapping[str, Value], names: Sequence[str]) -> bytes:
    """The case's model with the inputs `names` turned into initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)
    kept = [info for info in model.graph.input if info.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name in names:
        model.graph.initializer.append(numpy_helper.from_array(values[name], name))
    return model.SerializeToString()


class Family:
    """The three models of a case: values that ONNX Runtime takes, as bold as it takes them.

    Raises what ONNX Runtime raises where it does not run the case as it is.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = baked(case, case.values, sorted(case.steers))
        self.session = Session(self.model)
        self.first = self.session.run({name: case.values[name] for name in case.data})
        self.levels, self.values = self._vary()

    def _vary(self) -> tuple[dict[str, str], list[dict[str, Value]]]:
        """Values with which the models give different results; else any that they take."""
        for salt, level in itertools.product(SALTS, LEVELS[:-1]):
            levels = dict.fromkeys(self.case.data, level)
            if levels and self._accepts(levels, salt=salt, telling=True):
                return levels, self._values(levels, salt)
        levels = boldest(self.case.data, self._accepts)
        return levels, self._values(levels)

    def _values(self, levels: Mapping[str, str], salt: str = "") -> list[dict[str, Value]]:
        case, seed = self.case, base(self.case.name) + salt
        columns = {
            name: vary(
                case.values[name], len(MODELS), level, index=name in case.indices, seed=f"{seed}/{name}"
            )
            for name, level in levels.items()
        }
        return [{name: column[m] for name, column in columns.items()} for m in range(len(MODELS))]

    def _accepts(self, levels: Mapping[str, str], *, salt: str = "", telling: bool = False) -> bool:
        """Whether the other models run and give as many finite numbers as the case itself."""
        try:
            found = [self.session.run(values) for values in self._values(levels, salt)[1:]]
        except Exception:
            return False
        if any(finite(outputs) < finite(self.first) for outputs in found):
            return False
        pairs = itertools.combinations([self.first, *found], 2)
        return not (telling and any(alike(a, b) for a, b in pairs))

    @functools.cached_property
    def same(self) -> list[str]:
        """Data inputs that have one value in all models."""
        first, *others = self.values
        return [name for name in first if not any(differs(first[name], other[name]) for other in others)]

    def sources(self, form: str) -> tuple[list[bytes], list[str]]:
        """The models' files, one where they are all the same, and the names of the inputs that are fed."""
        data = self.case.data
        weights = [name for name in data[1:] if isinstance(self.case.values[name], np.ndarray)]
        if form == "A" or not weights:
            return [self.model], data
        names = [*sorted(self.case.steers), *weights]
        files = [baked(self.case, {**self.case.values, **mine}, names) for mine in self.values]
        return files, [name for name in data if name not in weights]

    def feeds(self, model: int, names: Sequence[str]) -> dict[str, Value]:
        return {name: self.values[model][name] for name in names}


@dataclass
class Singles:
    """What each model gives alone."""

    family: Family
    files: Sequence[bytes]
    fed: Sequence[str]

    def __post_init__(self) -> None:
        self.sessions = [Session(file) for file in self.files] * (len(MODELS) // len(self.files))
        self.outputs = [self._run(session, m) for m, session in enumerate(self.sessions)]

    def _run(self, session: Session, model: int) -> dict[str, Value]:
        return session.run(self.family.feeds(model, self.fed))

    def unoptimised(self, model: int) -> dict[str, Value]:
        return self._run(Session(self.files[model % len(self.files)], oracle.LEVELS[1]), model)

    @property
    def blind(self) -> bool:
        """Whether one model's weights, or inputs where there are none, could stand in for another's."""
        for m, other in itertools.combinations(range(len(MODELS)), 2):
            swapped = self.outputs[other]
            if len(self.files) > 1:
                swapped = self._run(self.sessions[other], m)
            if alike(swapped, self.outputs[m]):
                return True
        return False
