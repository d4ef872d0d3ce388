"""Recurrent operators.

With shared weights the models join the batch. With weights of their own the steps can be written out as
products of all models. That pays for few steps: ONNX Runtime's kernels hold one set of weights, and take less
for a step than nodes do, but more to start (bench/recurrent.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onnx import TensorProto

from netfuse_onnx.dims import reshape_target, same_dim, static_size
from netfuse_onnx.emit.bodies import Slices, scan
from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import FOLDED, STACKED
from netfuse_onnx.layouts.rows import apart, together, told_by
from netfuse_onnx.rules._build import emit_same_op, need
from netfuse_onnx.rules._cells import GATES, Cell, States, directed, functions
from netfuse_onnx.rules._registry import Body, Option, family
from netfuse_onnx.rules._site import Operands, Site
from netfuse_onnx.rules.fallback import RECURRENT
from netfuse_onnx.types import Dim, ValueType

MOST = 16
"""The most steps that are written out one after the other. More are a Scan."""
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
WEIGHTS = ("w", "r", "b", "p")


@family("GRU", "LSTM", "RNN")
def shared_weights(site: Site) -> Iterator[Option]:
    """With one set of weights the models join the batch: T(MN)I -> TD(MN)H."""
    need(not site.is_mapped(*WEIGHTS), RECURRENT)
    batch_first = bool(site.attr("layout"))  # everywhere
    states = FOLDED(0) if batch_first else FOLDED(1)
    takes = site.takes({"x": states, "sequence_lens": FOLDED(0), "initial_h": states, "initial_c": states})
    gives = site.gives(FOLDED(0) if batch_first else FOLDED(2), states)
    yield Option("shared_weights", takes, gives, _one_batch)


def _one_batch(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
    """The operator on the batch of all models. CUDA does not compare the batch of the states and lengths with
    that of the sequences: with another one, models would read each other's, so the run fails."""
    batch = 0 if site.attr("layout") else 1
    changes: dict[str, Tensor] = {}
    for name in ("sequence_lens", "initial_h", "initial_c"):
        given, axis = site[name], 0 if name == "sequence_lens" else batch
        if given.present and not same_dim(given.dims[axis], site.dims("x")[batch]):
            own, size = emit("Shape", ins[name]), _part(emit("Shape", ins["x"]), batch, batch + 1, emit)
            before = [_part(own, 0, axis, emit)] if axis else []
            behind = [_part(own, axis + 1, given.rank, emit)] if axis + 1 < given.rank else []
            sizes = [*before, size, *behind]
            target = emit("Concat", *sizes, axis=0) if len(sizes) > 1 else size
            changes[name] = emit("Reshape", ins[name], target)
    return emit_same_op(site, ins | changes, emit)


def _part(shape: Tensor, start: int, end: int, emit: Emitter) -> Tensor:
    return emit("Slice", shape, emit.const([start]), emit.const([end]))


@family("GRU", "LSTM", "RNN")
def written_out(site: Site) -> Iterator[Option]:
    """One step is batched products: MBI, MID(gates) -> MDBH. Several steps only with --tune."""
    need(site.is_mapped(*WEIGHTS), "its weights are equal in all models")
    form = _Form.of(site)
    read = [name for name in ("w", "r", "b", "p", "initial_h", "initial_c") if site.has(name)]
    takes = site.takes({"x": site.own_layout("x"), **dict.fromkeys(read, STACKED(0))})
    gives = site.gives(STACKED(0))
    if isinstance(form.steps, int) and 0 < form.steps <= MOST:
        several = form.steps > 1
        yield Option(
            "written_out", takes, gives, _body(form, _unrolled), tuned=several, unmeasured=several,
            only="cpu" if several else "",
        )  # fmt: skip
    if form.steps != 1:
        yield Option(
            "written_out_scan", takes, gives, _body(form, _scanned), tuned=True, unmeasured=True, only="cpu"
        )


@dataclass(frozen=True)
class _Form:
    """The sizes and settings of a node that can be written out, of one model."""

    steps: Dim
    batch: Dim
    directions: int
    inner: int
    hidden: int
    gates: int
    backward: tuple[bool, ...]
    """True for a direction that begins with the last step."""

    @classmethod
    def of(cls, site: Site) -> _Form:
        need(not site.attr("layout"), "ONNX Runtime runs no recurrent operator with the batch in front")
        need(not site.has("sequence_lens"), "its sequences may have unequal lengths")
        need(site["x"].dtype in FLOATS, "it computes in no float that MatMul takes")
        w, r = site.dims("w"), site.dims("r")
        static = all(isinstance(dim, int) and dim > 0 for dim in (*w, *r))
        need(len(w) == len(r) == 3 and static and site.rank("x") == 3, "the sizes of its weights are unknown")
        steps, batch, _ = told_by(site.dims("x"), site.dims("x"))
        need(None not in (steps, batch), "the sizes of its input have no names")
        directions, gates, inner = map(static_size, w)
        hidden = static_size(r[2])
        need(gates == GATES[site.op] * hidden and site.opset >= 13, "its weights are not as its gates need")
        functions(site)
        backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        return cls(steps, batch, directions, inner, hidden, gates, backward[directed(site)])


# --------------------------------------------------------------------------- what is the same for all steps


Steps: TypeAlias = Callable[
    [Site, Operands, Cell, "_Form", Tensor, States, Emitter], "tuple[Tensor | None, States]"
]
"""Emits all steps: gates and first states -> Y where it is present, and the last states."""


def _body(form: _Form, run: Steps) -> Body:
    """The body that prepares what all steps read, and lets `run` emit the steps."""

    def body(site: Site, ins: Operands, emit: Emitter) -> Sequence[Any]:
        cell, bias = _cell(site, ins, form, emit)
        pre = _inputs(site, ins, form, bias, emit)
        names = ("initial_h", "initial_c") if site.op == "LSTM" else ("initial_h",)
        first = [ins[name] if site.has(name) else _zeros(form, cell.dtype, emit) for name in names]
        every, last = run(site, ins, cell, form, pre, first, emit)
        made = [every, *last]
        return [made[k] if site.has_output(k) else None for k in range(len(site.node.outputs))]

    return body


def _cell(site: Site, ins: Operands, form: _Form, emit: Emitter) -> tuple[Cell, Tensor | None]:
    """The operator as a Cell, and the bias [N, D, 1, gates] of the products with the input."""
    r = [emit.swap_last(ins["r"], 4)]
    bias: Tensor | None = None
    inner: Tensor | None = None
    after = site.op == "GRU" and bool(site.attr("linear_before_reset"))
    if site.has("b"):
        outer, inner = emit.split(ins["b"], [form.gates, form.gates], 2)
        bias = emit.unsqueeze(outer if after else emit("Add", outer, inner), [2])
        inner = emit.unsqueeze(inner, [2]) if after else None
    if site.op == "GRU" and not after:
        r = emit.split(r[0], [2 * form.hidden, form.hidden], 3)
    peepholes = (
        [emit.unsqueeze(p, [2]) for p in emit.split(ins["p"], [form.hidden] * 3, 2)] if site.has("p") else []
    )
    clip = site.attr("clip")
    cell = Cell(
        site.op, form.hidden, site["x"].dtype, functions(site), None if clip is None else float(clip),
        bool(site.attr("input_forget")) if site.op == "LSTM" else False, r, inner, peepholes,
    )  # fmt: skip
    return cell, bias


def _inputs(site: Site, ins: Operands, form: _Form, bias: Tensor | None, emit: Emitter) -> Tensor:
    """The products of all steps with W: N1(TB)I, NDI(gates) -> ND(TB)(gates). An input that is equal in all
    models is (TB)I."""
    if site["x"].mapped:
        x = emit.unsqueeze(together(emit, ins["x"], form.inner), [1])
    else:
        x = emit.reshape(ins["x"], [-1, form.inner])
    pre = emit("MatMul", x, emit.swap_last(ins["w"], 4))
    return pre if bias is None else emit("Add", pre, bias)


def _zeros(form: _Form, dtype: int, emit: Emitter) -> Tensor:
    """A state of nothing, [N, D, B, H]"""
    dims = [emit.models, form.directions, form.batch, form.hidden]
    if isinstance(form.batch, int):
        return emit.filled(0.0, dtype, [static_size(dim) for dim in dims])
    zeros = emit.filled(0.0, dtype, [emit.models, form.directions, 1, form.hidden])
    return emit("Expand", zeros, emit.shape(dims))


# --------------------------------------------------------------------------- the steps


def _unrolled(
    site: Site, ins: Operands, cell: Cell, form: _Form, pre: Tensor, states: States, emit: Emitter
) -> tuple[Tensor | None, States]:
    """The steps one after the other. A backward direction begins with the last."""
    steps, every = static_size(form.steps), []
    sides = [_in_order(_times(side, form, emit), back) for side, back in _sides(pre, form, emit)]
    for t in range(steps):
        now = emit("Concat", *(side[t] for side in sides), axis=1) if len(sides) > 1 else sides[0][t]
        states = cell.step(now, states, emit)
        every.append(states[0])
    if not site.has_output(0):
        return None, states
    by_step = [[side for side, _ in _sides(hidden, form, emit)] for hidden in every]
    made = []
    for k, back in enumerate(form.backward):
        in_time = _in_order([emit.unsqueeze(sides[k], [1]) for sides in by_step], back)
        made.append(emit("Concat", *in_time, axis=1) if steps > 1 else in_time[0])
    return _joined(made, emit), states


def _scanned(
    site: Site, ins: Operands, cell: Cell, form: _Form, pre: Tensor, states: States, emit: Emitter
) -> tuple[Tensor | None, States]:
    """A Scan over the steps."""
    dims = (form.directions, form.steps, form.batch, form.gates)
    target = reshape_target((emit.models, *dims))
    pre = emit.reshape(pre, target) if target else apart(emit, pre, dims)

    def one(size: int) -> ValueType:
        return ValueType(cell.dtype, (emit.models, 1, form.batch, size))

    def step(states: States, slices: States, child: Emitter) -> tuple[States, States]:
        now = child("Concat", *slices, axis=1) if len(slices) > 1 else slices[0]
        after = cell.step(now, states, child)
        every = [side for side, _ in _sides(after[0], form, child)] if site.has_output(0) else []
        return after, every

    slices = [Slices(2, back, one(form.gates), side) for side, back in _sides(pre, form, emit)]
    results = [Slices(1, back, one(form.hidden)) for back in form.backward if site.has_output(0)]
    state = ValueType(cell.dtype, (emit.models, form.directions, form.batch, form.hidden))
    over = ins["x"], int(site["x"].mapped)
    made = scan(emit, step, over, [(x, state) for x in states], slices, results)
    last, every = made[: len(states)], made[len(states) :]
    return (_joined(every, emit) if every else None), last


def _sides(x: Tensor, form: _Form, emit: Emitter) -> list[tuple[Tensor, bool]]:
    """The directions of [N, D, ..], each [N, 1, ..], and whether they go backward."""
    parts = emit.split(x, [1, 1], 1) if form.directions > 1 else [x]
    return list(zip(parts, form.backward, strict=True))


def _times(x: Tensor, form: _Form, emit: Emitter) -> list[Tensor]:
    """The steps of [N, 1, TB, gates], each [N, 1, B, gates]."""
    steps = static_size(form.steps)
    if steps == 1:
        return [x]
    if isinstance(form.batch, int):
        return emit.split(x, [form.batch] * steps, 2)
    parts = emit.split(emit.reshape(x, [emit.models, 1, steps, -1, form.gates]), [1] * steps, 2)
    return [emit.squeeze(part, [2]) for part in parts]


def _in_order(steps: list[Tensor], back: bool) -> list[Tensor]:
    return steps[::-1] if back else steps


def _joined(sides: Sequence[Tensor], emit: Emitter) -> Tensor:
    """Y of all directions, of [N, T, 1, B, H] each."""
    return emit("Concat", *sides, axis=2) if len(sides) > 1 else sides[0]
