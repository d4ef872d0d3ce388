"""Measures the constants of a GPU for the cost model: `python bench/calibrate.py --provider cuda`.

Each probe is a chain of one kind of node, and its time the difference of a long and a short chain. Chains are
replayed as CUDA graphs, so that the host's launches are not measured, except where these are the question.
ONNX Runtime's optimisations are off: it would remove two Transposes in a row. The probes come in the order of
their weight; one for which no time is left, or whose time can't be told from its launch, keeps the constant
that it had, and its source.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from netfuse_onnx.ops.kernels import runs_on_cuda
from netfuse_onnx.plan import card
from netfuse_onnx.plan.launches import CONVOLUTION, GROUPED, PRODUCT
from netfuse_onnx.plan.work import Work
from netfuse_onnx.run.runtime import RunFailed, Runtime, onnxruntime
from netfuse_onnx.tune import clock as timing

CUDA = Runtime("cuda", required=True)

SECONDS = 80.0
"""The time of a calibration. It ends within 90 seconds, since a session that is being made is waited for."""
RUNS, SPENT = 20, 0.4
"""Runs of a model, and the seconds after which there are no more."""
OPSET = 18
FLOATS = {"tf32": TensorProto.FLOAT, "half": TensorProto.FLOAT16, "double": TensorProto.DOUBLE}
PRODUCTS = (33, 1024)
"""Matrices, and the size of each side: many full waves of tiles."""
IMAGE, IMAGES, CHANNELS = 56, 8, 256
"""The side of an image, images and channels of a convolution of one group."""
GROUPS, GROUPED_CHANNELS = (1, 4, 8, 32, 128), 2048
"""Channels of one group, and of all groups of a convolution."""
ON_HOST = ("Mish", "Hardmax", "Celu", "MeanVarianceNormalization")
"""Operators of floats, one of which has no kernel for CUDA."""


# --------------------------------------------------------------------------- graphs


@dataclass
class Graph:
    """A chain under construction. All that its nodes read beside it are inputs, which stay on the device, so
    that no weights are made and loaded."""

    element: int = TensorProto.FLOAT
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def given(self, *shape: int) -> str:
        name = "x" + "_".join(map(str, shape))
        self.inputs[name] = shape
        return name

    def op(self, op: str, *inputs: str, **attrs: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attrs))
        return out

    def model(self) -> bytes:
        given = [helper.make_tensor_value_info(n, self.element, shape) for n, shape in self.inputs.items()]
        result = [helper.make_tensor_value_info(self.nodes[-1].output[0], self.element, None)]
        graph = helper.make_graph(self.nodes, "probe", given, result)
        opsets = [helper.make_opsetid("", OPSET)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


Link = Callable[[Graph, str], str]
"""Adds nodes that read a value, and names what they give, which has the same shape."""


def chain(shape: Sequence[int], length: int, link: Link, element: int = TensorProto.FLOAT) -> Graph:
    made = Graph(element)
    at = made.given(*shape)
    for _ in range(length):
        at = link(made, at)
    return made


# --------------------------------------------------------------------------- time


class Clock:
    """The shortest time of a run, in microseconds, until the time of the calibration is up."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def run(self, made: Graph, *, graph: bool) -> float:
        self._in_time()
        kind = helper.tensor_dtype_to_np_dtype(made.element)
        feeds = {name: np.full(shape, 1e-3, kind) for name, shape in made.inputs.items()}
        return self._shortest(timing.Clock(CUDA, graph=graph, optimise=False).ready(made.model(), feeds))

    def fed(self, mebibytes: int) -> float:
        """Copy an input of so many MiB from a numpy array to its place on the device."""
        self._in_time()
        array = np.ones([mebibytes, 256, 1024], np.float32)
        place = onnxruntime().OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, "cuda", 0)

        def once() -> float:
            start = time.perf_counter()
            place.update_inplace(array)
            return (time.perf_counter() - start) * 1e6

        once()
        return self._shortest(once)

    def _in_time(self) -> None:
        if self.left <= 0:
            raise TimeoutError

    def _shortest(self, once: Callable[[], float]) -> float:
        return timing.in_turns([once], RUNS, min(time.monotonic() + SPENT, self.until))[0]

    def link(
        self, shape: Sequence[int], link: Link, *, few: int = 2, many: int = 10, graph: bool = True,
        element: int = TensorProto.FLOAT,
    ) -> float:  # fmt: skip
        """The time of one link of a chain."""
        short, long = (self.run(chain(shape, n, link, element), graph=graph) for n in (few, many))
        return (long - short) / (many - few)


# --------------------------------------------------------------------------- probes

Constants = dict[str, Any]
Probe = Callable[[Clock, Constants], Iterator[tuple[str, float]]]
"""Gives constants by their names, `grouped.8.tf32` for one of several, from those that are known so far."""


def starts(clock: Clock, known: Constants) -> Iterator[tuple[str, float]]:
    """A node that does next to nothing, in a graph and without."""

    def tiny(made: Graph, x: str) -> str:
        return made.op("Sin", x)

    for name, graph in (("launch", True), ("issue", False)):
        yield name, clock.link([4, 4], tiny, few=10, many=210, graph=graph)


def bytes_through_memory(clock: Clock, known: Constants) -> Iterator[tuple[str, float]]:
    """Tensors of 256 MB through the memory, and of 16 MB that stay in the cache."""

    def negated(made: Graph, x: str) -> str:
        return made.op("Neg", x)

    def turned(made: Graph, x: str) -> str:
        return made.op("Transpose", made.op("Transpose", x, perm=[0, 2, 1]), perm=[0, 2, 1])

    for name, count, link, times in (
        ("memory", 64, negated, 1),
        ("transposed", 64, turned, 2),
        ("cache", 4, negated, 1),
    ):
        taken = clock.link([count, 1024, 1024], link, few=1, many=5) / times - known["launch"]
        yield name, _per_microsecond(2 * 4 * count * 1024**2, taken)


def products(clock: Clock, known: Constants) -> Iterator[tuple[str, float]]:
    """A batch of large products fills the card."""
    count, side = PRODUCTS

    def multiplied(made: Graph, x: str) -> str:
        return made.op("MatMul", x, made.given(count, side, side))

    work = Work(PRODUCT, count, side, side, side)
    for precision, element in FLOATS.items():
        taken = clock.link([count, side, side], multiplied, few=1, many=3, element=element)
        yield f"{PRODUCT}.{precision}", _rate(work, taken, known)


def convolutions(clock: Clock, known: Constants) -> Iterator[tuple[str, float]]:
    """Convolutions 3x3 of one group, and of as many groups as CHANNELS allows, with as many channels out as
    in. A rate of small groups holds for the bytes, too: their operations can't be told from these."""

    def timed(images: int, channels: int, groups: int, element: int) -> float:
        shape = (images, groups * channels, IMAGE, IMAGE)

        def convolved(made: Graph, x: str) -> str:
            filters = made.given(shape[1], channels, 3, 3)
            return made.op("Conv", x, filters, group=groups, pads=[1, 1, 1, 1])

        return clock.link(shape, convolved, few=1, many=4, element=element)

    for precision in ("tf32", "half"):
        element = FLOATS[precision]
        work = Work(CONVOLUTION, 1, IMAGES * IMAGE**2, CHANNELS, 9 * CHANNELS)
        yield f"{CONVOLUTION}.{precision}", _rate(work, timed(IMAGES, CHANNELS, 1, element), known)
        for channels in GROUPS:
            groups = GROUPED_CHANNELS // channels
            work = Work(GROUPED, groups, IMAGE**2, channels, 9 * channels)
            taken = timed(1, channels, groups, element)
            filled = channels >= card.TENSOR_CORE_CHANNELS
            yield f"{GROUPED}.{channels}.{precision}", _rate(work, taken, known, filled=filled)


def between_host_and_device(clock: Clock, known: Constants) -> Iterator[tuple[str, float]]:
    """Inputs that come from the host; a node that runs there; and one of many elements."""
    op = next(op for op in ON_HOST if not runs_on_cuda(op, OPSET, [TensorProto.FLOAT]))

    def there_and_back(made: Graph, x: str) -> str:
        return made.op("Neg", made.op(op, x))

    yield "link", _per_microsecond(64 * 2**20, clock.fed(65) - clock.fed(1))
    starts = 3 * max(known["issue"], known["launch"])
    yield "wait", clock.link([4, 4], there_and_back, few=2, many=12, graph=False) - starts
    size = 4 * 1024**2
    taken = clock.link([1024, 1024], there_and_back, few=1, many=4, graph=False)
    yield "host", _per_microsecond(2 * size, taken - starts - known["wait"] - 2 * size / known["link"])


def _rate(work: Work, taken: float, known: Constants, *, filled: bool = True) -> float:
    """Operations per microsecond of the whole card."""
    rate = _per_microsecond(2.0 * work.count * work.m * work.n * work.k, taken - known["launch"])
    return rate / (known["card"].fill(work) if filled else 1.0)


def _per_microsecond(amount: float, taken: float) -> float:
    """NaN where the time can't be told from 0."""
    return amount / taken if taken > 0.0 else math.nan


PROBES: tuple[Probe, ...] = (
    starts, bytes_through_memory, products, convolutions, between_host_and_device,
)  # fmt: skip


# --------------------------------------------------------------------------- all of them


def measured(value: Mapping[str, Any], seconds: float = SECONDS) -> dict[str, Any]:
    """The constants of a file such as targets/cuda.json, measured anew as far as `seconds` allow."""
    clock = Clock(seconds)
    constants: dict[str, Any] = json.loads(json.dumps(value["constants"]))
    installed = card.parsed("cuda", value)
    known: Constants = {name: float(getattr(installed, name)) for name in ("launch", "issue", "wait")}
    known |= {**installed.bytes_over, "card": installed}
    for probe in PROBES:
        for name, number in _until_the_end(probe, clock, known):
            if not (math.isfinite(number) and number > 0.0):
                print(f"{name:24} can't be told from a launch: it stays what it was", flush=True)
                continue
            known[name] = number
            _put(constants, name, float(f"{number:.4g}"))
            print(f"{name:24} {number:14.4g}   {clock.left:5.1f} s left", flush=True)
    return constants


def _until_the_end(probe: Probe, clock: Clock, known: Constants) -> Iterator[tuple[str, float]]:
    try:
        yield from probe(clock, known)
    except TimeoutError:
        print(f"{probe.__name__}: no time was left; what it had not measured stays what it was", flush=True)
    except (RuntimeError, RunFailed) as error:
        print(f"{probe.__name__}: {' '.join(str(error).split())[:200]}", flush=True)


def _put(constants: dict[str, Any], name: str, number: float) -> None:
    """`launch`, `product.half` or `grouped.8.half`. A new number of channels has the other rates of the next
    smaller one."""
    first, *places = name.split(".")
    constant = constants[first]
    if not places:
        constant |= {"value": number, "source": "measured"}
        return
    constant["measured"] = sorted({*constant.get("measured", ()), ".".join(places)})
    table = constant["value"]
    if len(places) == 2:
        known = [int(least) for least in table if int(least) <= int(places[0])]
        table = table.setdefault(places[0], dict(table[str(max(known))]))
    table[places[-1]] = number
