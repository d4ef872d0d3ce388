"""Writes the smallest model that shows a kernel, a product and a convolution: `example.py OUT.onnx`."""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def main() -> None:
    numbers = np.random.default_rng(0)
    weights = {"k": (8, 3, 3, 3), "w": (8, 4)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "k"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("ReduceMean", ["b", "axes"], ["c"], keepdims=0),
            helper.make_node("MatMul", ["c", "w"], ["y"]),
        ],
        "example",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(numbers.standard_normal(s).astype("f"), n) for n, s in weights.items()]
        + [numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), sys.argv[1]
    )


if __name__ == "__main__":
    main()
