"""Accounts: the nodes that a lowering emits.

Every price comes from such an account (cost.py, measured.py). It is made by running the body of the rule
against the counting emitter, once for all nodes that are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from netfuse_onnx.dims import APART
from netfuse_onnx.emit.counting import Counted, CountingEmitter, Step, tensors
from netfuse_onnx.emit.emitter import Held
from netfuse_onnx.layouts import PER_MODEL, SHARED, Layout
from netfuse_onnx.ops import traits
from netfuse_onnx.rules import Option, Site
from netfuse_onnx.types import Became, Dim, Lowering, ValueType, Weight

UNKNOWN_DIM = 4
"""The size by which a dim that the file leaves open is priced where no target is named."""

Sizes = Callable[[Sequence[Dim]], tuple[int, ...]]
"""Dims with sizes in the place of those that are open."""


@dataclass(frozen=True, eq=False)
class Account:
    """The nodes of one lowering, which are emitted `times` times. `ports` are the tensors that hold the
    inputs, then those that hold the outputs, with their layouts."""

    steps: tuple[Step, ...]
    ports: tuple[tuple[tuple[Counted, ...], Layout], ...] = ()
    times: int = 1

    @cached_property
    def at_load(self) -> int:
        """The number of nodes that a session computes once, when it loads the file."""
        return self.times * sum(step.at_load for step in self.steps)

    @cached_property
    def views(self) -> int:
        """The number of nodes that run with each call and copy nothing."""
        return self._total(is_view)

    @cached_property
    def launches(self) -> int:
        """The number of nodes that run with each call and compute or copy something."""
        return self._total(lambda step: not is_view(step))

    @cached_property
    def broadcast_products(self) -> int:
        """The number of products of matrices of which one operand has fewer than the other."""
        return self._total(broadcasts_matrices)

    @cached_property
    def copied_operands(self) -> int:
        """The number of operands and results that an Einsum copies."""
        return self._total(lambda step: (len(step.inputs) + 1) * (step.op == "Einsum"))

    def _total(self, number: Callable[[Step], int]) -> int:
        """The sum over the nodes that run with each call, as often as they run."""
        return self.times * sum(number(step) * runs(step, _size) for step in self.steps if not step.at_load)


def runs(step: Step, size: Callable[[Counted, int], int]) -> int:
    """The number of times that a node runs in one call: once, or as often as the bodies around it. `size`
    tells the size of an axis of a tensor."""
    return math.prod(size(tensor, axis) for tensor, axis in step.runs)


def _size(tensor: Counted, axis: int) -> int:
    dims = tensor.type.dims
    dim = dims[axis] if dims is not None else None
    return dim if isinstance(dim, int) else UNKNOWN_DIM


def is_view(step: Step) -> bool:
    """True for a node that copies no element."""
    return traits.of(f"{step.domain}.{step.op}".removeprefix(".")).view


def broadcasts_matrices(step: Step) -> bool:
    """True for a product in which each matrix of one operand meets several of the other."""
    if step.op != "MatMul" or None in step.inputs:
        return False
    x, w = ((value.type.dims or ())[-3::-1] if value else () for value in step.inputs)
    pairs = zip_longest(x, w, fillvalue=1)  # from the last
    return bool(x and w) and any((one == 1) != (other == 1) for one, other in pairs)  # else it is one matrix


class Accounts:
    """The accounts of one merge, in a file for `provider`. Nodes that are alike share theirs."""

    def __init__(self, provider: str = "") -> None:
        self._provider = provider
        self._alike: dict[Any, dict[Any, Account]] = {}
        self._emit: dict[bool, CountingEmitter] = {}
        self._by_site: dict[int, tuple[Site, dict[Any, Account]]] = {}

    def of(self, offer: Lowering) -> Account:
        """The account of a lowering of a node."""
        site, option = offer.site, offer.option
        if not isinstance(option, Option):
            return _itself(offer, self._emitter(site))
        accounts, key = self._accounts(site), (offer.rule, offer.takes, offer.gives)
        if key in accounts:
            return accounts[key]
        emit = self._emitter(site)
        account = _batched(offer, option, emit)
        if not emit.values_read:
            accounts[key] = account
        return account

    def _emitter(self, site: Site) -> CountingEmitter:
        if site.chosen not in self._emit:
            self._emit[site.chosen] = CountingEmitter(
                site.total, site.opset, self._provider, choosing=site.chosen
            )
        emit = self._emit[site.chosen]
        emit.begin({name: parts for name, parts in zip(site.node.inputs, site.parts, strict=True) if parts})
        return emit

    def _accounts(self, site: Site) -> dict[Any, Account]:
        """The accounts that were made for nodes whose rules emit the same."""
        if id(site) not in self._by_site:  # it holds the site, so that no other gets its id
            self._by_site[id(site)] = site, self._alike.setdefault(alike(site), {})
        return self._by_site[id(site)][1]


def alike(site: Site) -> Any:
    """All that the rules of a node can see, but for its names and those of its open dims."""
    node = site.node
    numbers = {"": 0}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers))

    def dim(size: Dim) -> Any:
        if not isinstance(size, str):
            return size
        symbol, _, copy = size.partition(APART)
        return number(symbol), copy

    wiring = tuple([number(name) for name in (*node.inputs, *node.outputs)])
    types = tuple([
        (kind.dtype, kind.dims and tuple([dim(d) for d in kind.dims]), kind.proto is None)
        for kind in (*site.inputs, *site.outputs)
    ])  # fmt: skip
    values = tuple([None if v is None else (v.dtype.str, v.tobytes()) for v in site.values])
    stored = site.weight if not site.chosen else tuple([len(parts) for parts in site.parts])
    attrs = str(node.attrs) if node.attrs else ""
    each = str(site.attrs) if site.attrs else ""
    return node.key, attrs, each, wiring, types, site.mapped, stored, values, site.chosen


def _itself(offer: Lowering, emit: CountingEmitter) -> Account:
    """The source's own operator, once for all models or once for each."""
    site = offer.site
    node = site.node
    ins = [
        emit.value(kind, stored=weight) if name else None
        for name, kind, weight in zip(node.inputs, site.inputs, site.weight, strict=True)
    ]
    captured = [emit.value(ValueType()) for _ in node.captured]
    outs = [name != "" for name in node.outputs]
    given = emit.node(node.op, ins, node.attrs, outs=outs, domain=node.domain, captured=captured)
    times = site.total if offer.became is Became.REPLICATED else 1
    ports = tuple((tensors(held), SHARED) for held in (*ins, *given))
    return Account(tuple(emit.steps), ports, times)


def _batched(offer: Lowering, option: Option, emit: CountingEmitter) -> Account:
    site = offer.site
    places = zip(site.node.inputs, offer.takes, site.inputs, site.parts, strict=False)
    ins = [_read(name, take, kind, parts, emit) for name, take, kind, parts in places]
    given = option.emit(site, ins, emit)
    ports = [(tensors(held), take or SHARED) for held, take in zip(ins, offer.takes, strict=False)]
    ports += [(tensors(held), layout) for held, layout in zip(given, offer.gives, strict=False)]
    return Account(tuple(emit.steps), tuple(ports))


def _read(
    name: str, take: Layout | None, kind: ValueType, parts: Sequence[Weight], emit: CountingEmitter
) -> Held | None:
    """An input of a body in the layout that it takes, as lower/interpreter.py fetches it."""
    if not name or take is None:
        return None
    stored = len(parts) > 0 and (emit.chosen is None or take == SHARED)
    if parts and emit.writes(parts, take):
        return emit.weight(name, take)
    if take == PER_MODEL:
        return tuple(emit.value(kind, stored=stored) for _ in range(emit.models))
    dims = None if kind.dims is None else take.merged_dims(kind.dims, emit.total)
    return emit.value(ValueType(kind.dtype, dims), stored=stored)
