"""ONNX's own backend node tests as families of three models: the yardstick of the rules.

Every case that ONNX Runtime runs alone is merged in two forms. A: each data input is a graph input of each
model. B: each data input but the first is a weight of each model. Inputs that steer shapes, axes or sizes
are initializers, equal in all models. The merged model must give what the single models give.

    python tests/backend_cases.py [--filter REGEX] [--form A|B] [--json FILE] [--jobs 2]

prints what is batched, and by operator what is replicated or fails, and why.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import dataclasses
import functools
import json
import multiprocessing
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import numpy as np
import onnx
import onnxruntime as ort
import oracle
from backend_values import INDICES, STEERS, Array, Value, attempts, differs, vary
from onnx import numpy_helper

from netfuse_onnx import plan as planning
from netfuse_onnx import steering
from netfuse_onnx.load import load
from netfuse_onnx.lower import lower
from netfuse_onnx.match import match
from netfuse_onnx.types import Became

MODELS = ("a", "b", "c")
FORMS = ("A", "B")
FINE = ("batched", "replicated")
FAULTS = ("wrong values", "merge error", "run error")
PATIENCE = 120.0
"""Seconds after which a case that says nothing is given up."""

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

    @property
    def data(self) -> list[str]:
        return [name for name in self.values if name not in self.steers]


def collect(pattern: str = "") -> list[Case]:
    """All cases in order of their names; an expanded one has the roles of the inputs of the plain one."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = {test.name: test for test in collect_testcases(None)}
    plain = {name: re.sub(r"_expanded.*", "", name) for name in tests}
    return [case(tests[name], tests[plain[name]]) for name in sorted(tests) if re.search(pattern, name)]


def case(test: Any, plain: Any) -> Case:
    values = {
        info.name: as_value(v) for info, v in zip(test.model.graph.input, test.data_sets[0][0], strict=True)
    }
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


def positions(nodes: Sequence[onnx.NodeProto], table: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for node in nodes:
        yield from (node.input[i] for i in table.get(node.op_type, ()) if i < len(node.input))


def is_random(node: onnx.NodeProto, values: Mapping[str, Value]) -> bool:
    if node.op_type == "Dropout":
        return len(node.input) > 2 and bool(np.any(values[node.input[2]]))
    return node.op_type in steering.RANDOM


# --------------------------------------------------------------------------- ONNX Runtime


class Session:
    """A model in ONNX Runtime; types that numpy lacks go in and out through models that hold or cast them."""

    def __init__(self, model: bytes, level: ort.GraphOptimizationLevel = oracle.LEVELS[0]) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = [out.name for out in self.session.get_outputs()]
        ports = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.plain = all(port.type not in SPECIAL for port in ports)

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        if self.plain:
            return dict(zip(self.outputs, self.session.run(None, dict(feeds)), strict=True))
        given = {name: to_ort(np.asarray(value)) for name, value in feeds.items()}
        found = self.session.run_with_ort_values(self.outputs, given)
        return {name: from_ort(value) for name, value in zip(self.outputs, found, strict=True)}


SPECIAL = {
    f"tensor({name})"
    for name in (
        "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0",
        "int4", "uint4", "int2", "uint2", "float4e2m1", "float4e2m1fn",
    )
}  # fmt: skip


def to_ort(array: Array) -> ort.OrtValue:
    tensor = numpy_helper.from_array(array, "y")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["y"], value=tensor)],
        "g",
        [],
        [onnx.helper.make_tensor_value_info("y", tensor.data_type, array.shape)],
    )
    return Session(serialised(graph)).session.run_with_ort_values(["y"], {})[0]


def from_ort(value: ort.OrtValue) -> Array:
    if value.data_type() not in SPECIAL:
        return value.numpy()
    kind, shape = value.element_type(), tuple(value.shape())
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    count = int(np.prod(shape, dtype=np.int64))
    packed = 8 // BITS.get(kind, 8)
    raw = ctypes.string_at(value.data_ptr(), -(-count // packed) * dtype.itemsize) if count else b""
    tensor = onnx.TensorProto(data_type=kind, dims=shape, raw_data=raw)
    return numpy_helper.to_array(tensor)


BITS = {
    onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4, onnx.TensorProto.FLOAT4E2M1: 4,
    onnx.TensorProto.INT2: 2, onnx.TensorProto.UINT2: 2,
}  # fmt: skip


def serialised(graph: onnx.GraphProto) -> bytes:
    opsets = [onnx.helper.make_opsetid("", 25)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=11).SerializeToString()


# --------------------------------------------------------------------------- families


@dataclass
class Row:
    """What became of one case in one form."""

    case: str
    op: str
    form: str
    status: str = ""
    detail: str = ""
    replicated: list[tuple[str, str]] = field(default_factory=list)
    levels: dict[str, str] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    distinct: bool = True
    seconds: float = 0.0


def baked(case: Case, values: Mapping[str, Value], names: Sequence[str]) -> onnx.ModelProto:
    """The case's model with the inputs `names` turned into initializers."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)
    kept = [info for info in model.graph.input if info.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name in names:
        model.graph.initializer.append(numpy_helper.from_array(values[name], name))
    return model


class Family:
    """The three models of a case: values that ONNX Runtime takes, and what each model gives alone.

    Raises ValueError where ONNX Runtime does not run the case as it is.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = baked(case, case.values, sorted(case.steers)).SerializeToString()
        try:
            self.session = Session(self.model)
            self.first = self.session.run({name: case.values[name] for name in case.data})
        except Exception as error:
            raise ValueError(short(error)) from error
        self.levels = attempts(case.data, self._accepts)
        self.values = [self._values(m, self.levels) for m in range(len(MODELS))]

    def _values(self, model: int, levels: Mapping[str, str]) -> dict[str, Value]:
        case = self.case
        return {
            name: vary(
                case.values[name],
                model,
                level,
                index=name in case.indices,
                seed=f"{re.sub('_expanded.*', '', case.name)}/{name}",
            )
            for name, level in levels.items()
        }

    def _accepts(self, levels: Mapping[str, str]) -> bool:
        """Whether the other models run and give as many finite numbers as the case itself."""
        try:
            found = [self.session.run(self._values(m, levels)) for m in range(1, len(MODELS))]
        except Exception:
            return False
        return all(finite(outputs) >= finite(self.first) for outputs in found)

    @functools.cached_property
    def same(self) -> list[str]:
        """Data inputs that ONNX Runtime takes in no other value."""
        first, *others = self.values
        return [name for name in first if not any(differs(first[name], other[name]) for other in others)]

    def sources(self, form: str) -> tuple[list[bytes], list[str]]:
        """The models' files, and the names of the inputs that they are fed."""
        data = self.case.data
        weights = [name for name in data[1:] if isinstance(self.case.values[name], np.ndarray)]
        if form == "A" or not weights:
            return [self.model], data
        steers = {name: self.case.values[name] for name in sorted(self.case.steers)}
        models = [baked(self.case, steers | mine, [*steers, *weights]) for mine in self.values]
        return [model.SerializeToString() for model in models], [n for n in data if n not in weights]

    def feeds(self, model: int, names: Sequence[str]) -> dict[str, Value]:
        return {name: self.values[model][name] for name in names}


def finite(outputs: Mapping[str, Value]) -> int:
    arrays = [v for v in outputs.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    return sum(int(np.isfinite(v).sum()) for v in arrays)


def short(error: BaseException) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return f"{type(error).__name__}: {text}"[:400]


# --------------------------------------------------------------------------- one case


def examine(case: Case, forms: Sequence[str], folder: Path, tell: Callable[[str], None]) -> list[Row]:
    """The rows of one case. `tell` is called with the form before anything that may not come back."""
    rows = [Row(case.name, case.op, form) for form in forms]
    tell(forms[0])
    try:
        family = Family(case)
    except ValueError as error:
        return [dataclasses.replace(row, status="not run alone", detail=str(error)) for row in rows]
    for i, row in enumerate(rows):
        tell(row.form)
        row.levels, row.same = family.levels, family.same
        files, fed = family.sources(row.form)
        if i and len(files) == 1:
            rows[i] = dataclasses.replace(rows[0], form=row.form, seconds=0.0)
            continue
        start = time.perf_counter()
        try:
            judge(row, family, files, fed, folder)
        except Failed as failure:
            row.status, row.detail = failure.status, failure.detail
        row.seconds = round(time.perf_counter() - start, 3)
    return rows


class Failed(Exception):
    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


def judge(row: Row, family: Family, files: Sequence[bytes], fed: Sequence[str], folder: Path) -> None:
    """Run the models alone, merge them, run the merged model; fill in the row. Raises Failed."""
    with failing("not run alone"):
        alone = singles(files, family, fed)
    row.distinct = not alone[0] or any(differs(alone[0][k], other[k]) for other in alone[1:] for k in alone[0])
    with failing("merge error"):
        merged, row.replicated = merge(files, folder)
    feeds = {f"{m}/{name}": v for i, m in enumerate(MODELS) for name, v in family.feeds(i, fed).items()}
    for level in oracle.LEVELS:
        with failing("run error", level.name):
            got = Session(merged, level).run(feeds)
        with failing("wrong values", level.name):
            touchy = functools.cache(lambda: singles(files, family, fed, oracle.LEVELS[1]))
            compare(alone, got, touchy, shapes_only=family.case.random)
    row.status = "replicated" if row.replicated else "batched"


class failing:
    """What is raised inside becomes a Failed of that status."""

    def __init__(self, status: str, where: str = "") -> None:
        self.status, self.where = status, where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            raise Failed(self.status, f"{short(error)} {self.where}".strip()) from error


def singles(
    files: Sequence[bytes],
    family: Family,
    fed: Sequence[str],
    level: ort.GraphOptimizationLevel = oracle.LEVELS[0],
) -> list[dict[str, Value]]:
    sessions = [Session(file, level) for file in files] * (len(MODELS) // len(files))
    return [session.run(family.feeds(m, fed)) for m, session in enumerate(sessions)]


def merge(files: Sequence[bytes], folder: Path) -> tuple[bytes, list[tuple[str, str]]]:
    """The merged model, and the operators that it holds once per model with the reasons."""
    sources = []
    for i, data in enumerate(files):
        path = folder / f"{MODELS[i]}.onnx"
        path.write_bytes(data)
        sources.append(load(str(path)))
    corr = match(sources * (len(MODELS) // len(sources)), MODELS)
    plan = planning.plan(corr)
    left = [
        (node.key, lowering.reason)
        for node, lowering in zip(corr.graph.nodes, plan.lowerings, strict=True)
        if lowering.became is Became.REPLICATED
    ]
    return oracle.materialise(lower(corr, plan)), left


# --------------------------------------------------------------------------- comparison


def compare(
    alone: Sequence[Mapping[str, Value]],
    got: Mapping[str, Value],
    touchy: Callable[[], Sequence[Mapping[str, Value]]],
    *,
    shapes_only: bool,
) -> None:
    """Equal within the tolerance of the type, or twice the source's own difference between levels."""
    for m, (model, outputs) in enumerate(zip(MODELS, alone, strict=True)):
        for name, want in outputs.items():
            have = got[f"{model}/{name}"]
            same_kind(have, want, f"{name} of model {m}")
            if shapes_only:
                continue
            try:
                close(have, want, f"{name} of model {m}")
            except AssertionError:
                slack = 2 * distance(want, touchy()[m][name])
                if not slack or not distance(have, want) <= slack:
                    raise


def same_kind(have: Value, want: Value, what: str) -> None:
    if isinstance(have, np.ndarray) and isinstance(want, np.ndarray):
        assert (have.shape, have.dtype) == (want.shape, want.dtype), (
            f"{what} is {have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}"
        )
    elif isinstance(have, list) and isinstance(want, list):
        assert len(have) == len(want), f"{what} has {len(have)} elements, not {len(want)}"
        for i, (h, w) in enumerate(zip(have, want, strict=True)):
            same_kind(h, w, f"{what}, element {i}")
    else:
        assert type(have) is type(want), f"{what} is {type(have).__name__}, not {type(want).__name__}"


def close(have: Any, want: Any, what: str) -> None:
    if isinstance(want, list):
        for i, (h, w) in enumerate(zip(have, want, strict=True)):
            close(h, w, f"{what}, element {i}")
    elif isinstance(want, np.ndarray):
        special = want.dtype.kind == "V"
        limit = 2e-2 if want.dtype == "bfloat16" else None
        oracle.close(*(v.astype(np.float32) if special else v for v in (have, want)), what, limit)
    else:
        assert have == want, what


def distance(a: Any, b: Any) -> float:
    """The largest difference of two values; infinite where they can't be subtracted."""
    if isinstance(a, list):
        return max((distance(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if not isinstance(a, np.ndarray) or a.dtype.kind in "OSU" or a.shape != b.shape:
        return 0.0 if not differs(a, b) else np.inf
    x, y = a.astype(np.float64), b.astype(np.float64)
    odd = ~(np.isfinite(x) & np.isfinite(y))
    if not np.array_equal(x[odd], y[odd], equal_nan=True):
        return np.inf
    return float(np.abs(x[~odd] - y[~odd]).max(initial=0.0))


# --------------------------------------------------------------------------- all cases


def table(cases: Sequence[Case], forms: Sequence[str] = FORMS, jobs: int = 1) -> list[Row]:
    """Examine the cases in processes of their own: one that dies takes its case with it, not the rest."""
    todo = list(range(len(cases)))[::-1]
    rows: dict[int, list[Row]] = {}
    workers = [Worker(cases, forms) for _ in range(max(1, min(jobs, len(cases))))]
    for worker in workers:
        worker.start(todo)
    while any(worker.busy for worker in workers):
        busy = {worker.pipe: worker for worker in workers if worker.busy}
        wait(busy, timeout=1.0)
        for worker in busy.values():
            worker.collect(rows, todo)
    for worker in workers:
        worker.stop()
    return [row for i in sorted(rows) for row in rows[i]]


class Worker:
    """A process that examines one case after another."""

    def __init__(self, cases: Sequence[Case], forms: Sequence[str]) -> None:
        self.cases, self.forms = cases, forms
        self.at, self.form, self.busy = -1, forms[0], False

    def start(self, todo: list[int]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.cases, self.forms), daemon=True)
        self.process.start()
        theirs.close()
        self._next(todo)

    def _next(self, todo: list[int]) -> None:
        self.busy = bool(todo)
        if todo:
            self.at = todo.pop()
            self.heard = time.monotonic()
            self.pipe.send(self.at)

    def collect(self, rows: dict[int, list[Row]], todo: list[int]) -> None:
        """Take what the process says; where it died or fell silent, say so and start another."""
        try:
            while self.busy and self.pipe.poll():
                self._hear(self.pipe.recv(), rows, todo)
        except (EOFError, ConnectionResetError):
            self._lost(f"the process died (exit code {self._exit_code()})", rows, todo)
        if self.busy and time.monotonic() - self.heard > PATIENCE:
            self.process.kill()
            self._lost(f"no answer in {PATIENCE:.0f} s", rows, todo)

    def _hear(self, said: Any, rows: dict[int, list[Row]], todo: list[int]) -> None:
        self.heard = time.monotonic()
        if isinstance(said, str):
            self.form = said
        else:
            rows[self.at] = said
            self._next(todo)

    def _lost(self, why: str, rows: dict[int, list[Row]], todo: list[int]) -> None:
        case = self.cases[self.at]
        rows[self.at] = [Row(case.name, case.op, f, "run error", f"{why} in form {self.form}") for f in self.forms]
        self.start(todo)

    def _exit_code(self) -> int | None:
        self.process.join(5)
        return self.process.exitcode

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join(5)


def serve(pipe: Connection, cases: Sequence[Case], forms: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        while (index := pipe.recv()) is not None:
            pipe.send(examine(cases[index], forms, Path(folder), pipe.send))


# --------------------------------------------------------------------------- summary


def summary(rows: Sequence[Row]) -> str:
    return "\n".join([*totals(rows), "", *by_operator(rows)])


def totals(rows: Sequence[Row]) -> Iterator[str]:
    cases = {row.case for row in rows}
    out = {row.case for row in rows if row.status == "not run alone"}
    yield f"{len(cases)} cases, of which ONNX Runtime runs {len(cases - out)} alone"
    counted = [row for row in rows if row.case not in out]
    for form in sorted({row.form for row in rows}):
        count = collections.Counter(row.status for row in counted if row.form == form)
        yield f"form {form}: " + ", ".join(f"{count[s]} {s}" for s in (*FINE, *FAULTS) if count[s])
    yield f"batched in every form: {share(rows):.1%} of the cases"
    weak = [row for row in counted if row.same]
    yield f"{len(weak)} rows hold an input that is equal in all models, {blind(counted)} give the same in all"


def blind(rows: Sequence[Row]) -> int:
    return sum(not row.distinct for row in rows)


def share(rows: Sequence[Row]) -> float:
    """The part of the cases that run alone whose every form is batched."""
    whole = {row.case for row in rows} - {row.case for row in rows if row.status == "not run alone"}
    rest = {row.case for row in rows if row.status != "batched"}
    return len(whole - rest) / max(1, len(whole))


def by_operator(rows: Sequence[Row]) -> Iterator[str]:
    """One line per operator that is not batched throughout, then its reasons."""
    for op in sorted({row.op for row in rows}):
        mine = [row for row in rows if row.op == op and row.status != "not run alone"]
        count = collections.Counter(row.status for row in mine)
        if count["batched"] == len(mine):
            continue
        yield f"{op}: " + ", ".join(f"{count[s]} {s}" for s in (*FINE, *FAULTS) if count[s])
        for reason, where in sorted(reasons(mine).items(), key=lambda item: -len(item[1])):
            yield f"    {len(where)} x {reason}  [{', '.join(where[:2])}{', ...' if len(where) > 2 else ''}]"


def reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        label = f"{row.case} {row.form}"
        lines = [f"{op} replicated: {why}" for op, why in row.replicated] if row.status == "replicated" else []
        if row.status in FAULTS:
            lines = [f"{row.status}: {row.detail}"]
        for line in dict.fromkeys(lines):
            found.setdefault(line, []).append(label)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--filter", default="", metavar="REGEX", help="only cases whose name it matches")
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--json", metavar="FILE", help="write one object per case and form")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    start = time.monotonic()
    rows = table(collect(args.filter), (args.form,) if args.form else FORMS, args.jobs)
    if args.json:
        Path(args.json).write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    sys.stdout.write(f"{summary(rows)}\n\n{time.monotonic() - start:.0f} s\n")
    return int(any(row.status in FAULTS for row in rows))


if __name__ == "__main__":
    sys.exit(main())
