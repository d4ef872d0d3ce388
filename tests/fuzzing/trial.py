"""Merges one random family, by the cheapest plan and by random ones, and compares with the single runs."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
import oracle
from oracle import Every

from fuzzing.build import Array
from fuzzing.case import Case
from netfuse_onnx.emit import repeat
from netfuse_onnx.errors import NotEquivalent, NotStackable
from netfuse_onnx.layouts import SHARED
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.match import equal
from netfuse_onnx.ops import walk
from netfuse_onnx.plan import control, offers
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.plan.offers import Candidates
from netfuse_onnx.prove.level import FUSIONS_OF_BYTES
from netfuse_onnx.rules import Option
from netfuse_onnx.types import Became, Correspondence, Lowering, Plan

REPLICATE = 0.06
"""How often a random plan replicates what it need not."""


class Discard(Exception):
    """The case proves nothing: it does not run alone, or may not be merged."""


class Failure(Exception):
    """The merge is wrong. `kind` is one of: match, plan, lower, checker, run, values."""

    def __init__(self, kind: str, detail: str, plan: Plan | None = None, output: str = "") -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.output = output
        self.plan = plan


Singles = Sequence[Mapping[str, Array]]
Values = Mapping[str, Sequence[Array]]
How = tuple[Plan, str, bytes, object]
"""A plan, the kind of I/O, the merged model, the level of optimisation."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Inputs, and what each model alone gives for them. `uneven`: their sizes differ between the models, so
    the merged model may refuse them, but not mix them up."""

    values: Values
    singles: Singles
    uneven: bool = False


def examine(case: Case, folder: Path, *, plans: int = 1) -> dict[str, int]:
    """Try one case with the cheapest plan and `plans` random ones. Raises Discard or Failure. Counts what
    was compared."""
    half = any(array.dtype == np.float16 for arrays in case.known.values() for array in arrays)
    with mock.patch.object(oracle, "session", _session) if half else contextlib.nullcontext():
        return _examine(case, folder, plans)


def _session(
    model: bytes | str, level: ort.GraphOptimizationLevel, left_out: Sequence[str] = ()
) -> ort.InferenceSession:
    """A session without the optimisation on which ONNX Runtime 1.32 crashes for a Transpose and a MatMul of
    float16."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    crashes = ["MatmulTransposeFusion", *left_out]
    session = ort.InferenceSession(model, options, providers=oracle.providers(), disabled_optimizers=crashes)
    return oracle.on_provider(session)


def _examine(case: Case, folder: Path, plans: int) -> dict[str, int]:
    case = dataclasses.replace(case, values=_equal_in_some(case))
    paths = oracle.as_models(case.model, case.values, case.role, folder)
    runs = list(_runs(paths, case))
    corr = _matched(paths, case)
    share = oracle.shared(case.role)
    sound = not _misread(case.model.graph) and _ranked(corr) and oracle.passes_checker(str(paths[0]))
    done = {"merges": 0, "sizes": len(runs) - 1, "batched": 0, "replicated": 0, "unsteady": 0}
    for k, (io, plan) in enumerate(_plans(corr, case, share, plans)):
        with mock.patch.object(repeat, "SMALL", (0, repeat.SMALL)[(case.seed + k) % 2]):
            merged = _lowered(corr, plan, io, share, sound=sound)
        for became, count in ((Became.REPLICATED, "replicated"), (Became.BATCHED, "batched")):
            done[count] += sum(low.became is became for low in plan.lowerings) * (k == 0)
        for level in oracle.LEVELS if k < 2 else oracle.LEVELS[1:]:
            done["unsteady"] += _disagreements(case, paths, corr.names, (plan, io, merged, level), runs)
        done["merges"] += 1
    return done


def _misread(graph: onnx.GraphProto) -> bool:
    """Whether onnx's checker (1.23) may be wrong, or die: it takes a Slice in a body whose bounds stand outside
    of it, as a merge leaves them, for empty when it works out a computed shape."""
    bodies = [inner for node in graph.node for inner in dict(walk.bodies(node)).values()]
    return any(node.op_type == "Slice" for body in bodies for node in body.node) or any(map(_misread, bodies))


def _ranked(corr: Correspondence) -> bool:
    """False where the rank of an output differs from run to run: the merged file leaves its shape out, which
    onnx's checker does not accept, whatever the source declares."""
    types = map(corr.edge_type, corr.graph.outputs)
    return all(value.dims is not None or value.proto is not None for value in types)


def _runs(paths: Sequence[Path], case: Case) -> Iterator[Run]:
    yield Run(case.values, _singles(paths, case.values, case.role))
    for values, uneven in ((case.other, False), (_unevenly(case), True), (case.torn, True)):
        if values and not _reads_anything(case.model.graph, values):
            with contextlib.suppress(Discard):  # the graph holds for its own sizes only
                singles = _singles(paths, values, case.role, plain=True)
                if _as_declared(case, singles):
                    yield Run(values, singles, uneven or not _as_onnx_says(case, values, singles))


def _reads_anything(graph: onnx.GraphProto, values: Values) -> bool:
    """Whether a convolution on bytes gets a filter without elements: ONNX Runtime (1.32) then gives what its
    memory holds by chance."""
    return any(
        (node.op_type == "QLinearConv" and any(0 in array.shape for array in values.get(node.input[3], ())))
        or any(_reads_anything(body, values) for body in dict(walk.bodies(node)).values())
        for node in graph.node
    )


def _as_onnx_says(case: Case, values: Values, singles: Singles) -> bool:
    """True where onnx's inference agrees with these sizes. ONNX Runtime takes more than ONNX allows: a Concat
    beside an empty tensor of another shape, a slope wider than its input, an Einsum with 1 beside n. There a
    merged model may refuse."""
    if any(node.op_type == "Einsum" for node in case.model.graph.node):
        return False  # its inference looks at no sizes
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for info in model.graph.input:
        if info.name in values:
            for dim, size in zip(info.type.tensor_type.shape.dim, values[info.name][0].shape, strict=True):
                dim.dim_value = size
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    try:
        found = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
    except Exception:  # onnx raises several classes
        return False
    return all(
        not dim.HasField("dim_value") or dim.dim_value == size
        for info in found
        if info.name in singles[0]
        for dim, size in zip(info.type.tensor_type.shape.dim, singles[0][info.name].shape, strict=False)
    )


def _as_declared(case: Case, singles: Singles) -> bool:
    """Whether the outputs have the ranks that the graph declares (a Squeeze may drop an axis more), and none is
    empty where the merged graph can't say so (see case.draw)."""
    ranks = {out.name: len(out.type.tensor_type.shape.dim) for out in case.model.graph.output}
    opset = max(entry.version for entry in case.model.opset_import if not entry.domain)
    least = 1 if case.keep_opset and opset < 15 else 0
    every = [(name, array) for single in singles for name, array in single.items()]
    return all(array.ndim == ranks[name] and array.size >= least for name, array in every)


def _unevenly(case: Case) -> Values | None:
    """The own sizes for the first model, the third, ..; the other sizes for the rest."""
    if case.other is None or case.io != "separate":
        return None
    return {
        name: [
            (case.other if m % 2 and case.role[name] == "input" else case.values)[name][m]
            for m in range(case.models)
        ]
        for name in case.values
    }


def _singles(
    paths: Sequence[Path], values: Values, role: Mapping[str, str], *, plain: bool = False
) -> Singles:
    """What each model gives alone. `plain`: they must run with optimisations off as well, which drop checks."""
    try:
        if plain:
            with mock.patch.object(oracle, "LEVELS", oracle.LEVELS[1:]):
                oracle.run_apart(paths, values, role)
        return oracle.run_apart(paths, values, role)
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
        raise Discard(f"does not run alone: {_first(error)}") from error


def _equal_in_some(case: Case) -> dict[str, list[Array]]:
    """The values of the case; in every third one, models hold weights of models before them."""
    if case.seed % 3:
        return case.values
    rng = random.Random(case.seed)
    return {
        name: [arrays[rng.randrange(m + 1)] for m in range(len(arrays))]
        if case.role[name] == "weight"
        else arrays
        for name, arrays in case.values.items()
    }


def _matched(paths: Sequence[Path], case: Case) -> Correspondence:
    try:
        with mock.patch.object(equal, "LEAST", 0):
            return oracle.family(paths, keep_opset=case.keep_opset)
    except NotEquivalent as error:
        raise Discard(f"not equivalent: {_first(error)}") from error
    except Exception as error:
        raise Failure("match", _trace(error)) from error


# --------------------------------------------------------------------------- plans


def _plans(corr: Correspondence, case: Case, share: frozenset[str], count: int) -> Iterator[tuple[str, Plan]]:
    """The cheapest plan, then random ones; with separate I/O where an output can't be stacked."""
    rng = random.Random(case.seed)
    io = case.io
    cost = Cost(corr.models) if _some_are_empty(case) else Every(corr.models)
    for k in range(1 + count):
        try:
            try:
                found = _one(corr, io, share, cost, rng if k else None)
            except NotStackable:
                io = "separate"
                found = _one(corr, io, share, cost, rng if k else None)
        except Exception as error:
            raise Failure("plan", _trace(error)) from error
        if np.isfinite(found.cost):
            yield io, found


def _some_are_empty(case: Case) -> bool:
    """A convolution takes no image without elements, so that none is made of a product then."""
    drawn = [*case.values.values(), *(case.other or {}).values(), *case.known.values()]
    return any(0 in array.shape for arrays in drawn for array in arrays)


def _one(corr: Correspondence, io: str, share: frozenset[str], cost: Cost, rng: random.Random | None) -> Plan:
    if rng is None:
        return planning.plan(corr, io=io, share=share)

    def solved(inner: Correspondence, found: Candidates, cost: Cost) -> Plan:
        return _random(inner, found, cost, rng)

    with mock.patch.object(control, "solved", solved):
        return solved(corr, planning.candidates(corr, io=io, share=share, cost=cost), cost)


def _random(corr: Correspondence, found: Candidates, cost: Cost, rng: random.Random) -> Plan:
    """Any one of its options for every node, or none of them."""
    chosen: list[list[Lowering]] = []
    for node, options in zip(corr.graph.nodes, found.options, strict=True):
        option = rng.choice(options)
        if option.became in (Became.BATCHED, Became.GROUPED) and SHARED not in option.gives:
            bodies = any(isinstance(value, onnx.GraphProto) for value in node.attrs.values())
            if not bodies and rng.random() < REPLICATE:
                option = offers.replicated(option.site, found.mapped, "by chance")
        chosen.append([option])
    drawn = dataclasses.replace(found, options=chosen)
    search = planning.Search(corr, drawn, cost)
    solution = search.solve()
    return Plan(search.chosen(solution), solution.cost, solution.exact)


def _lowered(corr: Correspondence, plan: Plan, io: str, share: frozenset[str], *, sound: bool) -> bytes:
    try:
        merged = oracle.materialise(lower(corr, plan, io=io, share=share))
    except Exception as error:
        raise Failure("lower", _trace(error), plan) from error
    if sound:
        try:
            onnx.checker.check_model(merged, full_check=True)
        except Exception as error:
            raise Failure("checker", _first(error), plan) from error
    return merged


# --------------------------------------------------------------------------- values


def _disagreements(
    case: Case, paths: Sequence[Path], names: Sequence[str], how: How, runs: Sequence[Run]
) -> int:
    """In how many runs the merged values differ, and so do those of a single model whose inputs change in the
    last bits. Raises Failure where they differ otherwise."""
    plan, io, merged, level = how
    own = any(isinstance(low.option, Option) and low.option.only for low in plan.lowerings)
    what = str(level).rpartition(".")[2]
    count, runner = 0, None
    for run in runs:
        try:
            runner = runner or _session(merged, level, FUSIONS_OF_BYTES if own else ())
            got = oracle.ask(runner, oracle.merged_feeds(run.values, case.role, io, names))
        except Exception as error:
            if run.uneven:
                continue
            if gap := oracle.refused(error):
                raise Discard(f"CUDA refuses it: {gap}") from error
            raise Failure("run", f"{what}: {_first(error)}", plan) from error
        for m, (model, single) in enumerate(zip(names, run.singles, strict=True)):
            for name, want in single.items():
                have = got[name][m] if io == "stacked" else got[f"{model}/{name}"]
                if _without_iterations(case.model.graph, have, want):
                    continue
                difference = _difference(have, want, f"{what}: {name} of model {m}")
                if difference and (right := oracle.right_on_cpu(paths, run.values, case.role, run.singles)):
                    difference = _difference(have, right[m][name], f"{what}: {name} of model {m}, on the CPU")
                if difference and not _unsteady(case, paths, run.values, m, name, have):
                    raise Failure("values", difference, plan, name)
                count += bool(difference)
    return count


def _without_iterations(graph: onnx.GraphProto, have: Array, want: Array) -> bool:
    """Whether this is what no iteration of a Loop collected. ONNX Runtime makes up its shape: what it infers for
    the body's output, and 0 for the rest, so that a merged graph of which more is known has other sizes."""
    empty = have.size == want.size == 0 and have.ndim == want.ndim and have.dtype == want.dtype
    alike = empty and all(a == b or 0 in (a, b) for a, b in zip(have.shape, want.shape, strict=True))
    return alike and have.shape != want.shape and _loops(graph)


def _loops(graph: onnx.GraphProto) -> bool:
    return any(
        node.op_type == "Loop" or any(map(_loops, dict(walk.bodies(node)).values())) for node in graph.node
    )


def _difference(have: Array, want: Array, what: str) -> str:
    if have.shape != want.shape or have.dtype != want.dtype:
        return f"{what}: {have.dtype}{have.shape} for {want.dtype}{want.shape}"
    try:
        oracle.close(have, want, what)
    except AssertionError as error:
        return str(error).strip()
    return ""


def _unsteady(case: Case, paths: Sequence[Path], values: Values, m: int, name: str, have: Array) -> bool:
    """Whether the model alone is as far from itself: with optimisations off, or after a small change."""
    rng = np.random.default_rng(0)
    share = oracle.shared(case.role)
    runs: list[Array] = []
    for turn in range(5):
        nudged = {k: [_nudged(a, rng) if turn > 1 else a for a in arrays] for k, arrays in values.items()}
        again = (
            oracle.as_models(case.model, nudged, case.role, paths[0].parent / "again") if turn > 1 else paths
        )
        fed = {k: nudged[k][0 if k in share else m] for k, r in case.role.items() if r.endswith("input")}
        try:
            runs.append(oracle.run(str(again[m]), fed, oracle.LEVELS[turn == 1])[name])
        except Exception:  # it jumps so far that it fails
            return True
    if any(run.shape != runs[0].shape for run in runs):
        return True
    if have.shape != runs[0].shape or have.dtype != runs[0].dtype:
        return False
    if have.dtype.kind == "b":
        return bool((np.array(runs) != runs[0]).any(axis=0)[have != runs[0]].all())
    want, far = np.asarray(runs[0], np.float64), np.asarray(runs, np.float64)
    with np.errstate(all="ignore"):
        spread = np.nan_to_num(np.abs(far - want), nan=np.inf).max(initial=0.0)
        off = np.abs(np.asarray(have, np.float64) - want)
        scale = float(np.abs(want[np.isfinite(want)]).max(initial=1e-3))
    limit = oracle.TOLERANCE.get(have.dtype.type, 0.0) * scale
    return bool((np.nan_to_num(off, nan=0.0) <= limit + 6 * spread).all()) and bool(
        (np.isnan(have) == np.isnan(want)).all() or spread == np.inf
    )


def _nudged(array: Array, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    by = {2: 1e-3, 4: 2e-6, 8: 1e-13}[array.dtype.itemsize]
    return (array * (1 + by * rng.choice([-1, 1], array.shape))).astype(array.dtype)


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:1500]


def _trace(error: BaseException) -> str:
    """The exception and where it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__} at {where}: {_first(error)}"
