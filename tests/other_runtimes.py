"""Runtimes beside ONNX Runtime that merged files are tested on, from the indexes of pip and npm.

Each is a function from a path to a function from inputs to outputs, by name. What is wrong with a file or
its inputs is an error of whatever class the runtime raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]


def openvino(path: str) -> Run:
    """OpenVINO's CPU plugin, in float32 (on some processors it would compute in bfloat16)."""
    import openvino as ov

    core, names = ov.Core(), output_names(path)
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        found = compiled(dict(feeds))
        return {name: np.array(found[name]) for name in names}

    return run


def opencv(path: str) -> Run:
    """OpenCV's dnn module."""
    import cv2

    cv2.utils.logging.setLogLevel(0)
    net = cv2.dnn.readNetFromONNX(path)
    names = output_names(path)

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        for name, value in feeds.items():
            net.setInput(value, name)
        return dict(zip(names, net.forward(names), strict=True))

    return run


def tract(path: str) -> Run:
    """tract, in Rust. It compares the types that a file states, by the names of symbols, when it reads the file."""
    import tract as library

    read = library.onnx().load(path)
    names = [read.input_name(k) for k in range(read.input_count())]
    outputs = output_names(path)
    runnable = read.into_model().into_runnable()

    def run(feeds: Arrays) -> dict[str, np.ndarray]:
        found = runnable.run([np.ascontiguousarray(feeds[name]) for name in names])
        return {name: value.to_numpy() for name, value in zip(outputs, found, strict=True)}

    return run


def output_names(path: str) -> list[str]:
    return [info.name for info in onnx.load(path, load_external_data=False).graph.output]


RUNTIMES: dict[str, Callable[[str], Run]] = {"openvino": openvino, "opencv": opencv, "tract": tract}
"""Those that the tests run on where they are installed."""
MODULES = {"openvino": "openvino", "opencv": "cv2", "tract": "tract"}
"""The module that each comes as."""
