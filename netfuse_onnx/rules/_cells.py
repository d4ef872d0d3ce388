"""The equations of LSTM, GRU and RNN for one step, on all models and directions at once.

Values are [N, D, B, ..]: models, directions, batch. The gates of a step are `pre`, which its input and the
biases come to, plus the product of the hidden state and R.

ONNX: https://onnx.ai/onnx/operators/onnx__LSTM.html, and those of GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from netfuse_onnx.emit.emitter import Emitter, Tensor
from netfuse_onnx.rules._build import need
from netfuse_onnx.rules._site import Site

GATES: Mapping[str, int] = {"GRU": 3, "LSTM": 4, "RNN": 1}
"""The number of products in one step, which W, R and B hold one after the other."""

LAST = 3
"""The axis of the gates in [N, D, B, gates*H]."""

States: TypeAlias = list[Tensor]
"""The hidden state, and for LSTM the cell state behind it, [N, D, B, H]."""


@dataclass(frozen=True)
class Function:
    """An activation function of the operator's list, with its parameters."""

    name: str
    alpha: float | None = None
    beta: float | None = None

    def emit(self, x: Tensor, dtype: int, emit: Emitter) -> Tensor:
        """The nodes of f(x)."""

        both = {"alpha": self.alpha, "beta": self.beta}
        given = {key: value for key, value in both.items() if value is not None}
        alpha, beta = (emit.filled(given[k], dtype, ()) if k in given else None for k in ("alpha", "beta"))
        if self.name == "Affine":
            return emit("Add", emit("Mul", x, alpha), beta)
        if self.name == "ScaledTanh":
            return emit("Mul", emit("Tanh", emit("Mul", x, beta)), alpha)
        return emit(self.name, x, **given)


PARAMETERS: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("Relu", "Sigmoid", "Softplus", "Softsign", "Tanh"), ()),
    **dict.fromkeys(("Elu", "LeakyRelu", "ThresholdedRelu"), ("alpha",)),
    **dict.fromkeys(("Affine", "HardSigmoid", "ScaledTanh"), ("alpha", "beta")),
}
"""The activation functions, and which of their parameters the operator's lists have."""

_NAMES = {name.lower(): name for name in PARAMETERS}


@dataclass(frozen=True)
class Cell:
    """One recurrent operator: its functions and settings, and its weights but W, ready to be multiplied.
    `r` are one or two matrices [N, D, H, ..]; `bias` is what is added to their product, and `peepholes` those
    of an LSTM, [N, D, 1, H]."""

    op: str
    hidden: int
    dtype: int
    functions: Sequence[Function]
    clip: float | None
    coupled: bool
    """input_forget of an LSTM: the forget gate is 1 - the input gate."""
    r: Sequence[Tensor]
    bias: Tensor | None = None
    peepholes: Sequence[Tensor] = ()

    def step(self, pre: Tensor, states: States, emit: Emitter) -> States:
        """The states after one step."""
        return _STEPS[self.op](self, pre, states, emit)

    def apply(self, k: int, x: Tensor, emit: Emitter) -> Tensor:
        """Function k of the list, on x within the threshold."""
        if self.clip is not None:
            x = emit("Clip", x, *(emit.filled(bound, self.dtype, ()) for bound in (-self.clip, self.clip)))
        return self.functions[k].emit(x, self.dtype, emit)

    def parts(self, x: Tensor, sizes: Sequence[int], emit: Emitter) -> list[Tensor]:
        """Parts of the gates, as many as `sizes`, each as many times H wide."""
        return emit.split(x, [size * self.hidden for size in sizes], LAST) if len(sizes) > 1 else [x]

    def rest(self, x: Tensor, emit: Emitter) -> Tensor:
        """1 - x"""
        return emit("Sub", emit.filled(1.0, self.dtype, ()), x)


def _rnn(cell: Cell, pre: Tensor, states: States, emit: Emitter) -> States:
    """H = f(pre + H R)"""
    return [cell.apply(0, emit("Add", pre, emit("MatMul", states[0], cell.r[0])), emit)]


def _gru(cell: Cell, pre: Tensor, states: States, emit: Emitter) -> States:
    """z, r = f(..); new = g(pre + (r H) R), or g(pre + r (H R + bias)); H = (1 - z) new + z H"""
    (hidden,) = states
    pre_gates, pre_new = cell.parts(pre, (2, 1), emit)
    product = emit("MatMul", hidden, cell.r[0])
    reset_after = len(cell.r) == 1  # linear_before_reset
    if reset_after:
        product = product if cell.bias is None else emit("Add", product, cell.bias)
        product, new = cell.parts(product, (2, 1), emit)
    gates = cell.apply(0, emit("Add", pre_gates, product), emit)
    update, reset = cell.parts(gates, (1, 1), emit)
    if reset_after:
        new = emit("Mul", reset, new)
    else:
        new = emit("MatMul", emit("Mul", reset, hidden), cell.r[1])
    new = cell.apply(1, emit("Add", pre_new, new), emit)
    return [emit("Add", emit("Mul", cell.rest(update, emit), new), emit("Mul", update, hidden))]


def _lstm(cell: Cell, pre: Tensor, states: States, emit: Emitter) -> States:
    """i, o, f = f(..); C = f C + i g(..); H = o h(C)"""
    hidden, memory = states
    gates = emit("Add", pre, emit("MatMul", hidden, cell.r[0]))
    if not cell.peepholes:
        joined, new = cell.parts(gates, (3, 1), emit)
        into, out, forget = cell.parts(cell.apply(0, joined, emit), (1, 1, 1), emit)
    else:
        into, out, forget, new = cell.parts(gates, (1, 1, 1, 1), emit)
        into, forget = (
            cell.apply(0, emit("Add", gate, emit("Mul", memory, cell.peepholes[k])), emit)
            for gate, k in ((into, 0), (forget, 2))
        )
    forget = cell.rest(into, emit) if cell.coupled else forget
    new = emit("Mul", into, cell.apply(1, new, emit))
    memory = emit("Add", emit("Mul", forget, memory), new)
    if cell.peepholes:
        out = cell.apply(0, emit("Add", out, emit("Mul", memory, cell.peepholes[1])), emit)
    return [emit("Mul", out, cell.functions[2].emit(memory, cell.dtype, emit)), memory]


_STEPS: Mapping[str, Callable[[Cell, Tensor, States, Emitter], States]] = {
    "GRU": _gru,
    "LSTM": _lstm,
    "RNN": _rnn,
}


def functions(site: Site) -> list[Function]:
    """The activation functions of one direction. Refuses where those of the other are others."""
    each = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}[site.op]
    directions = 1 + (directed(site) == "bidirectional")
    given = site.node.attrs.get("activations")
    names = [_name(name) for name in given] if given else each * directions
    need(len(names) == len(each) * directions, "its activations are not as many as its directions need")
    values = {key: [float(v) for v in site.attr(f"activation_{key}") or ()] for key in ("alpha", "beta")}
    made = []
    for name in names:
        own = {key: _next(values[key], name, key) for key in PARAMETERS[name]}
        made.append(Function(name, **own))
    need(made[: len(each)] * directions == made, "its directions have other activations")
    return made[: len(each)]


def _name(given: bytes | str) -> str:
    text = given if isinstance(given, str) else given.decode()
    need(text.lower() in _NAMES, f"its activation {text!r} has no operator of its own")
    return _NAMES[text.lower()]


def _next(values: list[float], name: str, key: str) -> float | None:
    """The parameter that is next in the operator's list. None is the default of the function as an operator,
    and two functions have none."""
    need(bool(values) or name not in ("Affine", "ScaledTanh"), f"its {name} has no {key}")
    return values.pop(0) if values else None


def directed(site: Site) -> str:
    """The direction: forward, reverse or bidirectional."""
    direction = site.attr("direction") or "forward"
    return direction if isinstance(direction, str) else str(direction.decode())
