"""The cost of a plan where no target is named.

The unit is one emitted node. Bytes that a conversion copies are charged on top, at `BYTES_PER_NODE` to
the unit, so that among plans with equally many nodes the one that moves less data wins. Dims that the
file leaves open are priced at `UNKNOWN_DIM`. Costs measured for a target are in measured.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from netfuse_onnx.dims import volume
from netfuse_onnx.emit.repeat import is_repeated
from netfuse_onnx.layouts import Hop, Layout, route
from netfuse_onnx.ops.kinds import UNJOINABLE
from netfuse_onnx.plan.account import UNKNOWN_DIM, Account, Accounts
from netfuse_onnx.plan.nested import NestedPlan
from netfuse_onnx.plan.refusals import PORTABLE, refused
from netfuse_onnx.rules import Site
from netfuse_onnx.storage.weights import nbytes
from netfuse_onnx.types import Correspondence, Dim, Lowering, ValueType, Weight

BYTES_PER_NODE = 4 << 20

COPIED_PER_NODE = 16 << 10
"""Bytes of copies of one weight that cost as much as a node. They are dear: a session holds the copies as
long as it lives, and every call reads them, while one weight for the rows of all models is read once."""

RESHAPE = 0.25
"""A Reshape copies nothing; it is a node in a profile, not a kernel."""

AT_LOAD = 0.25
"""A node that reads nothing but stored tensors. A session computes it once, when it loads the file."""

POINTERS = 3.0
"""A product whose operands have unequally many matrices. CUDA has no kernel for it: it is a list of small
products, whose pointers are copied there by three copies with each call."""


class Cost:
    """Prices lowerings and layout conversions for one merge of `models` models."""

    tuned = False
    """True where options that only pay by measured costs are on offer."""
    measures = False
    """True where the options are on offer, too, whose speed the target's constants do not cover."""
    provider = ""
    """The provider that the target names: its own options are on offer, and what it refuses is not."""

    portable = False
    """True where forms that other runtimes do not run are not on offer."""

    def __init__(self, models: int, accounts: Accounts | None = None) -> None:
        self.models = models
        self.accounts = accounts or Accounts(self.provider)
        self._conversions: dict[tuple[Any, ...], float] = {}

    def priced(self, corr: Correspondence) -> Correspondence:
        """The family with the types by which it is priced."""
        return corr

    def lowering(self, offer: Lowering, sized: Site) -> float:
        """The cost of a node in one of its lowerings. `sized` is its site, with sizes for open dims where the
        cost depends on them."""
        if isinstance(offer.option, NestedPlan):
            return offer.option.nodes
        return self._account(self.accounts.of(offer), sized)

    def size(self, dim: Dim) -> int:
        """The size by which a dim is priced."""
        return dim if isinstance(dim, int) else UNKNOWN_DIM

    def refusal(self, offer: Lowering) -> str:
        """The reason why the provider would not run what a lowering emits, or ''."""
        kinds = [self.provider] if self.provider else []
        kinds += [PORTABLE] if self.portable else []
        account = self.accounts.of(offer) if kinds else Account(())
        return next(filter(None, (refused(account, offer.site, kind) for kind in kinds)), "")

    def _account(self, account: Account, sized: Site) -> float:
        nodes = account.launches + RESHAPE * account.views + AT_LOAD * account.at_load
        return nodes + POINTERS * account.broadcast_products + account.copied_operands

    def repeated(self, weight: Weight) -> float:
        """A weight that is equal in all models, where one for each is read. Paid once per layout."""
        size = nbytes(weight)
        at_load = AT_LOAD if is_repeated(weight.dtype, self.models * size) else 0.0
        return at_load + (self.models - 1) * size / COPIED_PER_NODE

    def conversion(self, src: Layout, dst: Layout, value: ValueType, name: str = "") -> float:
        """All hops from `src` to `dst` of one run-time value, `name`. Paid once per (value, dst)."""
        dims = self.emitted_dims(name, value)
        key = src, dst, value.dims, value.dtype, dims
        if key not in self._conversions:
            hops = route(src, dst, dims or (), self.provider)
            total = sum(self.hop(hop, value.dims or (), value.dtype) for hop in hops)
            self._conversions[key] = math.inf if total > 0.0 and value.dtype in UNJOINABLE else total
        return self._conversions[key]

    def call(self, inputs: int, outputs: int) -> float:
        """The cost of a call of the merged model beside its nodes, given the numbers of its inputs and
        outputs. Plans do not differ in it."""
        return 0.0

    def small(self, account: Account) -> float:
        """The cost of nodes that work on a few numbers each, such as those which find the model of a row."""
        return account.launches + RESHAPE * account.views

    def emitted_dims(self, name: str, value: ValueType) -> tuple[Dim, ...] | None:
        """The dims that decide which hops a conversion is emitted as. `value` has those that price them."""
        return value.dims

    def hop(self, hop: Hop, dims: Sequence[Dim], dtype: int = 0) -> float:
        """One hop of a route, for a value of per-model `dims` and element type `dtype`."""
        counts = hop.counts(self.models, self.provider)
        moved = (counts.copies + counts.transposes) * self.models * volume(dims, UNKNOWN_DIM) * 4
        return counts.launches + RESHAPE * counts.views + moved / BYTES_PER_NODE
