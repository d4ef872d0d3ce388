"""Checks that the cost model ranks the lowerings of an operator as ONNX Runtime does, shape by shape.

    python bench/ranking.py                              # all of bench/zoo.py, 8 models, batch 1
    python bench/ranking.py --only bert-16 atari --models DIR
    python bench/ranking.py --budget 90                  # seconds; run again to go on
    python bench/ranking.py --target mine.json           # other constants: nothing is measured again

A shape is a distinct product or convolution of the benchmark models. Each lowering that the planner has for
it (once per model, stacked, a pointwise or grouped convolution) becomes a graph of that operator alone, many
times with weights of its own, so that they come from memory as in a network. A probe that costs next to
nothing reads each result; its own time is subtracted. All lowerings of a shape run in turns, and the shortest
time counts.

Right means: the lowering that is cheapest by prediction is the fastest, or within `TIE` of it. What was
measured is kept in the file of results; predictions are made anew by each run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import calibrate, models
from bench.shapes import APART, Shape, Way, shapes
from bench.zoo import ROWS, ZOO, Measured
from netfuse_onnx.plan import targets
from netfuse_onnx.plan.targets import Target
from netfuse_onnx.rules.signals import of_one_row
from netfuse_onnx.tune import kernel_cases as chains
from netfuse_onnx.tune.calibrate import Timer, provenance
from netfuse_onnx.tune.clock import in_turns
from netfuse_onnx.tune.kernel_cases import LONGEST, Link, Made

__all__ = ["APART", "Shape", "Way", "shapes"]

TIE = 1.05
WEIGHTS = 64 << 20
"""Bytes of weights of one graph, or one node's. With more than `SKIPPED` in one node, a shape is skipped."""
SKIPPED = 200 << 20
OPERATIONS = 1e9
"""Multiplications of one graph, or one node's."""


# --------------------------------------------------------------------------- as graphs


def node(what: Shape, way: Way) -> tuple[list[int | str], int, Link]:
    """The input's shape, the elements of a node's weights, and the node."""
    one = way.work
    if one.kernel.startswith("pointwise"):
        link = _same(chains.convolution(one.k, one.n, 1, 1, one.count))
        return [1, one.count * one.k, one.m, 1], one.count * one.k * one.n, link
    if one.kernel == "einsum":
        link = _same(chains.einsum(one.count, one.n, one.k))
        return ["rows", one.count, one.k], one.count * one.k * one.n, link
    if not what.window:
        front = () if one.kernel == "product" else (one.count,)
        link = _same(chains.product(front, one.k, one.n))
        return [*front, "rows", one.k], one.count * one.k * one.n, link
    batch, channels, filters, groups = way.times
    weight = [what.w[0] * filters, *what.w[1:]]
    attrs = dict(what.window)
    attrs["group"] *= groups
    image = [what.x[0] * batch, what.x[1] * channels, *what.x[2:]]
    if way.name == "conv_of_a_row":
        attrs |= of_one_row(attrs)
        image, weight = [*image[:2], 1, image[2]], [*weight[:2], 1, weight[2]]

    def convolution(i: int, x: str) -> Made:
        return helper.make_node(what.op, [x, f"w{i}"], [f"y{i}"], **attrs), [chains.stored(f"w{i}", *weight)]

    return image, math.prod(weight), convolution


def _same(link: Link) -> Link:
    """All nodes as the even ones of a chain: none leads back."""
    return lambda i, x: link(2 * i, x)


def bundle(what: Shape, way: Way, length: int) -> bytes:
    """`length` nodes, each with a probe. Where there is one per model, there is an input per model."""
    dims, _, link = node(what, way)
    inputs = {f"x{i}": dims for i in range(way.launches)}
    nodes, outputs, weights = [], {}, []
    for i in range(length):
        made, more = link(i, f"x{i % way.launches}")
        seen = probe(made.output[0], _image(what, way))
        nodes += [made, seen]
        weights += more
        outputs[seen.output[0]] = TensorProto.FLOAT if seen.op_type == "MaxPool" else TensorProto.INT64
    return chains.graph(nodes, inputs, outputs, weights)


def _image(what: Shape, way: Way) -> tuple[int, ...]:
    """The axes of a convolution's image, at most as long as this; none of a product."""
    if way.work.kernel.startswith("pointwise"):
        return (way.work.m, 1)
    rows = (1,) if way.name == "conv_of_a_row" else ()
    return (*rows, *(max(2 * size, 1) for size in what.x[2:]))


def probe(value: str, image: tuple[int, ...]) -> onnx.NodeProto:
    """Keeps a value from being dropped, and copies next to nothing: one point of an image, so that it may
    stay in blocks of channels, or the shape, which is unknown until the run."""
    if not image:
        return helper.make_node("Shape", [value], [f"{value}p"])
    return helper.make_node("MaxPool", [value], [f"{value}p"], kernel_shape=[1] * len(image), strides=image)


def probes(timer: Timer) -> dict[bool, float]:
    """What a probe costs, of images and of others: a chain with them less one without."""

    def cost(image: tuple[int, ...], shape: Sequence[int], link: Link) -> float:
        def probed(every: bool) -> bytes:
            at, nodes, weights, outputs = "x", [], [], {}
            for i in range(64):
                made, more = link(i, at)
                at = made.output[0]
                nodes.append(made)
                weights += more
                if every:
                    nodes.append(probe(at, image))
                    outputs[f"{at}p"] = TensorProto.FLOAT if image else TensorProto.INT64
            dims = [*shape[:-1], "rows"] if not image else shape
            return chains.graph(nodes, {"x": dims}, {**outputs, at: TensorProto.FLOAT}, weights)

        found = in_turns([timer.ready(probed(every), {"rows": 4}) for every in (True, False)], 40)
        return max(found[0] - found[1], 0.0) / 64

    def sine(i: int, x: str) -> Made:
        return helper.make_node("Sin", [x], [f"y{i}"]), []

    return {
        False: cost((), [4, 4], sine),
        True: cost((4, 4), [1, 64, 4, 4], chains.convolution(64, 64, 1, 1, 1)),
    }


def measure(what: Shape, timer: Timer, probed: Mapping[bool, float]) -> dict[str, float] | None:
    """Microseconds of each lowering, for all models. None where a node's weights are too many."""
    ready, lengths = [], []
    for way in what.ways:
        _, elements, _ = node(what, way)
        if 4 * elements > SKIPPED:
            return None
        one = way.work
        fits = min(WEIGHTS / (4 * elements), OPERATIONS / (one.count * one.m * one.n * one.k))
        most = LONGEST * way.launches // max(w.launches for w in what.ways)
        lengths.append(max(int(min(fits, most)) // way.launches, 1))
        graph = bundle(what, way, lengths[-1] * way.launches)
        ready.append(timer.ready(graph, {"rows": one.m}))
    taken = in_turns(ready, 2)
    rounds = max(timer.rounds, min(100, int(2e5 / sum(taken))))  # of some 0.3 s
    best = in_turns(ready, rounds)
    return {
        way.name: max(t / length - way.launches * probed[bool(_image(what, way))], 1e-3)
        for way, t, length in zip(what.ways, best, lengths, strict=True)
    }


# --------------------------------------------------------------------------- the ranking


def predicted(what: Shape, target: Target) -> dict[str, float]:
    """Microseconds of each lowering, for all models, by the cost model."""

    def price(way: Way) -> float:
        one = way.work
        return way.launches * (
            target.launch + target.kernels[one.kernel].microseconds(one.count, one.m, one.n, one.k)
        )

    return {way.name: price(way) for way in what.ways}


@dataclass(frozen=True)
class Verdict:
    """Result for one shape. `loss` is the time of the predicted best lowering over that of the fastest."""

    chosen: str
    fastest: str
    loss: float
    right: bool
    pairs: int
    pairs_right: int


def verdict(guess: Mapping[str, float], taken: Mapping[str, float]) -> Verdict:
    """Pairs whose times are within `TIE` have no order."""
    chosen, fastest = min(guess, key=lambda way: guess[way]), min(taken, key=lambda way: taken[way])
    loss = taken[chosen] / taken[fastest]
    apart = [
        (a, b) for a, b in combinations(taken, 2) if max(taken[a], taken[b]) > TIE * min(taken[a], taken[b])
    ]
    agree = sum((guess[a] < guess[b]) == (taken[a] < taken[b]) for a, b in apart)
    return Verdict(chosen, fastest, loss, loss <= TIE, len(apart), agree)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`lost`: all shapes once with the choices by prediction, over the fastest."""
    right = sum(row["right"] for row in rows)
    pairs = sum(row["pairs"] for row in rows)
    chosen = sum(row["measured"][row["chosen"]] for row in rows)
    return {
        "shapes": len(rows),
        "right": right,
        "share": right / max(len(rows), 1),
        "pairs": sum(row["pairs_right"] for row in rows) / max(pairs, 1),
        "lost": chosen / max(sum(min(row["measured"].values()) for row in rows), 1e-9),
    }


def line(found: Mapping[str, float]) -> str:
    return (
        f"ranked right: {found['right']} of {found['shapes']} shapes ({found['share']:.0%}); "
        f"pairs {found['pairs']:.0%}; time lost by wrong choices {found['lost']:.2f} x"
    )


# --------------------------------------------------------------------------- the script


def main() -> int:
    given = _arguments()
    start = time.monotonic()
    timer = Timer(given.threads, given.rounds)
    found = collected(given)
    before = json.loads(given.out.read_text()) if given.out.exists() and not given.again else {}
    key = {"count": given.count, "batch": given.batch, "threads": given.threads}
    kept = before.get("shapes", []) if before.get("case") == key else []
    known = {row["key"]: row["measured"] for row in kept}
    probed, skipped = probes(timer), 0
    for what in found:
        if _key(what) not in known and time.monotonic() - start < given.budget:
            taken = measure(what, timer, probed)
            skipped += taken is None
            if taken is not None:
                known[_key(what)] = taken
    target = targets.parsed("given", json.loads(given.target.read_text()))
    rows = [
        {
            "shape": str(what),
            "key": _key(what),
            "models": users,
            "predicted": predicted(what, target),
            "measured": known[_key(what)],
            **asdict(verdict(predicted(what, target), known[_key(what)])),
        }
        for what, users in found.items()
        if _key(what) in known
    ]
    result = summary(rows)
    about = {"machine": provenance("cpu", given.threads) | {"by": "bench/ranking.py"}, "case": key}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "summary": result, "constants": target.provenance, "shapes": rows}, indent=1)
    given.out.write_text(text + "\n")
    _print(rows)
    if missing := len(found) - len(rows) - skipped:
        print(f"{missing} shapes are not measured yet: the time was up; run again to go on.")
    print(line(result))
    return 0


def collected(given: argparse.Namespace) -> dict[Shape, list[str]]:
    """Every distinct shape, and the models that have it."""
    found: dict[Shape, list[str]] = {}
    for row in [row for row in ROWS if not given.only or row.name in given.only]:
        for what in shapes(_files(row, given), given.count, {"batch": given.batch, **row.sizes}):
            users = found.setdefault(what, [])
            if row.name not in users:
                users.append(row.name)
    return found


def _files(row: Measured, given: argparse.Namespace) -> list[str]:
    name = row.family.name
    there = [given.models / name / f"{name}-{i}.onnx" for i in range(2)] if given.models else []
    if not there or not all(path.exists() for path in there):
        folder = given.work / "models" / given.exporter / name
        there = models.files(row.family, folder, 2, exporter=given.exporter)
    return list(map(str, there))


def _key(what: Shape) -> str:
    return json.dumps([what.op, what.x, what.w, what.window, [asdict(way) for way in what.ways]], default=str)


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'':6} {'loss':>5}  {'shape':52} microseconds, predicted and measured")
    for row in rows:
        said = "right" if row["right"] else "WRONG"
        cells = [f"{way} {row['predicted'][way]:.1f} {taken:.1f}" for way, taken in row["measured"].items()]
        print(f"{said:6} {row['loss']:5.2f}  {row['shape']:52} {'; '.join(cells)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(ZOO), metavar="NAME", help=f"of {', '.join(ZOO)}")
    parser.add_argument("--models", type=Path, metavar="DIR", help="where DIR/FAMILY/FAMILY-0.onnx may be")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="models merged; default: 8")
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="default: 1")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=4, help="at least; default: 4")
    parser.add_argument("--budget", type=float, default=math.inf, metavar="SECONDS", help="of measuring")
    parser.add_argument("--again", action="store_true", help="measure again what the results have")
    parser.add_argument("--target", type=Path, default=calibrate.TARGETS / "cpu.json", metavar="FILE")
    parser.add_argument("--exporter", choices=("dynamo", "torchscript"), default="dynamo")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="default: build/bench")
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu/ranking.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
