"""The frame of a probe: the time of a call, of each input, and of each reader, which are no part of what is
measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from netfuse_onnx.tune.clock import Clock, in_turns
from netfuse_onnx.tune.probes import Probe
from netfuse_onnx.tune.readers import POINT, POOL

CALL, INPUT = "a call", "an input"
NAMES = (CALL, INPUT, f"a {POINT}", f"a {POOL}")
MANY, ROUNDS = 64, 60
CHANNELS, SIDE = 16, 4


@dataclass(frozen=True)
class Frame:
    """The microseconds of each part of a frame, by NAMES."""

    times: Mapping[str, float]

    def around(self, probe: Probe) -> float:
        """The microseconds of the frame of a probe."""
        readers = sum(count * self.times[f"a {kind}"] for kind, count in probe.read.items())
        return self.times[CALL] + len(probe.inputs) * self.times[INPUT] + readers


def measured(clock: Clock) -> Frame:
    """The frame on the runtime of a clock, from graphs that differ in one part. Raises RunFailed."""
    plain, fed, read, pooled, chain = in_turns(
        [
            clock.ready(_points(1), _ones(1)),
            clock.ready(_points(1, inputs=MANY), _ones(MANY)),
            clock.ready(_points(MANY), _ones(1)),
            clock.ready(_convolutions(pools=True), _image()),
            clock.ready(_convolutions(pools=False), _image()),
        ],
        ROUNDS,
    )
    each = max(fed - plain, 0.0) / (MANY - 1)
    point = max(read - plain, 0.0) / (MANY - 1)
    pool = max(pooled - chain, 0.0) / MANY
    return Frame(dict(zip(NAMES, (max(plain - each - point, 0.0), each, point, pool), strict=True)))


def _points(readers: int, inputs: int = 1) -> bytes:
    """A graph of readers of its first input."""
    nodes = [helper.make_node("GatherND", ["x0", "at"], [f"y{k}"]) for k in range(readers)]
    at = numpy_helper.from_array(np.zeros(2, np.int64), "at")
    return _model(nodes, {f"x{k}": [4, 4] for k in range(inputs)}, [f"y{k}" for k in range(readers)], [at])


def _convolutions(*, pools: bool) -> bytes:
    """A chain of convolutions, with a reader of each, or of the last."""
    nodes, weights, outputs = [], [], []
    for k in range(MANY):
        weight = np.full((CHANNELS, CHANNELS, 1, 1), (1.0 + 1e-3 * k) / CHANNELS, np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{k}"))
        nodes.append(helper.make_node("Conv", [f"y{k - 1}" if k else "x0", f"w{k}"], [f"y{k}"]))
        if pools or k == MANY - 1:
            nodes.append(
                helper.make_node("MaxPool", [f"y{k}"], [f"p{k}"], kernel_shape=[1, 1], strides=[SIDE] * 2)
            )
            outputs.append(f"p{k}")
    return _model(nodes, {"x0": [1, CHANNELS, SIDE, SIDE]}, outputs, weights)


def _model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    weights: Sequence[TensorProto],
) -> bytes:
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "frame", given, result, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _ones(count: int) -> dict[str, np.ndarray]:
    return {f"x{k}": np.ones((4, 4), np.float32) for k in range(count)}


def _image() -> dict[str, np.ndarray]:
    return {"x0": np.ones((1, CHANNELS, SIDE, SIDE), np.float32)}
