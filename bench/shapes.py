"""The distinct products and convolutions of an architecture, with the lowerings that merged models have for
them: what bench/ranking.py measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan import measured, planner, targets
from netfuse_onnx.plan.account import Account, Accounts
from netfuse_onnx.plan.extents import Shapes
from netfuse_onnx.plan.sized import sized
from netfuse_onnx.plan.work import Work, work
from netfuse_onnx.rules import Site
from netfuse_onnx.run.observe import observed
from netfuse_onnx.types import Became, Lowering

APART = "once per model"
WINDOW = ("strides", "pads", "dilations", "auto_pad", "output_padding")


@dataclass(frozen=True)
class Way:
    """A lowering: `launches` nodes, each doing `work`. `times`: how many models are in the batch, the
    channels of the input, the filters, and the groups of one convolution."""

    name: str
    launches: int
    work: Work
    times: tuple[int, int, int, int] = (1, 1, 1, 1)


@dataclass(frozen=True)
class Shape:
    """One operator of one model with its sizes, and the lowerings that merged models have for it."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    window: tuple[tuple[str, Any], ...]
    ways: tuple[Way, ...]

    def __str__(self) -> str:
        if not self.window:
            one = self.ways[0].work
            return f"{one.count} x [{one.m},{one.k}] x [{one.k},{one.n}]"
        said = dict(self.window)
        more = f" /{said['strides'][0]}" if set(said.get("strides", (1,))) != {1} else ""
        more += f" g{said['group']}" if said["group"] > 1 else ""
        return f"{self.op} {list(self.x[1:])} {list(self.w)}{more}"


# --------------------------------------------------------------------------- what there is


def shapes(paths: Sequence[str], count: int, sizes: Mapping[str, int]) -> Iterator[Shape]:
    """The products and convolutions of an architecture, of which two models are given. Those with one
    lowering have nothing to rank."""
    matched = match([load(path) for path in paths], ["a", "b"], partial=False, complete=observed)
    family = sized(matched, sizes)
    cost = measured.Measured(count, targets.target("cpu"), sizes)
    found = planner.candidates(family, io="separate", share=frozenset(), cost=cost)
    for site, offers in zip(found.sites, found.options, strict=True):
        seen = replace(site, total=count)
        known = shape(seen, offers, cost.accounts, cost.sizes)
        if known is not None and len(known.ways) > 1:
            yield known


def products(account: Account, shapes: Shapes) -> list[Work]:
    """The products that the nodes of an account compute."""
    found = (work(step, [*map(shapes.of, step.inputs)], shapes.of(step.outputs[0])) for step in account.steps)
    return [one for one in found if one]


def shape(seen: Site, offers: Sequence[Lowering], accounts: Accounts, sizes: Any) -> Shape | None:
    """One operator, with each of its lowerings that does other work."""
    ways: dict[tuple[int, Work], Way] = {}
    for offer in offers:
        account = accounts.of(replace(offer, site=seen))
        found = products(account, Shapes(account, seen, sizes))
        if offer.became is Became.SHARED or len(found) != 1:
            return None
        name = offer.option.rule if offer.option else APART
        way = Way(name, account.times, found[0], _times(name, seen.models))
        ways.setdefault((account.times, found[0]), way)
    x, w = (tuple(sizes(kind.dims or ())) for kind in seen.inputs[:2])
    window: tuple[tuple[str, Any], ...] = ()
    if "Conv" in seen.op:
        given = {key: seen.attr(key) for key in WINDOW if seen.attr(key) is not None}
        given = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
        window = (("group", int(seen.attr("group") or 1)), *sorted(given.items()))
    else:  # MatMul and Gemm of one size are one shape
        x, w = (), ()
    return Shape("Product" if not window else seen.op, x, w, window, tuple(ways.values()))


def _times(name: str, n: int) -> tuple[int, int, int, int]:
    known = {
        "conv": (1, n, n, n),
        "conv_of_a_row": (1, n, n, n),
        "conv_shared_input": (1, 1, n, 1),
        "conv_shared_weights": (n, 1, 1, 1),
    }
    return known.get(name, (1, 1, 1, 1))
