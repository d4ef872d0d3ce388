"""Messages of gRPC with one thing wrong, or odd, in the way of `wrong.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import wire_families as families
from protocol.clients import Asked, contents_message, datatype
from protocol.wrong import FEEDS, HUGE, X, bytes_cases, encoded
from tritonclient.grpc import service_pb2


def message(feeds: Mapping[str, np.ndarray] = FEEDS, model: str = "m1") -> Any:
    """Return a request that is answered, with raw contents."""
    made = service_pb2.ModelInferRequest(model_name=model, id="1")
    for name, value in feeds.items():
        made.inputs.add(name=name, datatype=datatype(value), shape=value.shape)
        made.raw_input_contents.append(encoded(value))
    return made


def _changed(
    change: Callable[[Any], object], feeds: Mapping[str, np.ndarray] = FEEDS, model: str = "m1"
) -> Any:
    made = message(feeds, model)
    change(made)
    return made


def _shape(*sizes: int) -> Any:
    def change(made: Any) -> None:
        del made.inputs[1].shape[:]
        made.inputs[1].shape.extend(sizes)

    return _changed(change)


def _set(place: int, attribute: str, value: Any) -> Any:
    return _changed(lambda made: setattr(made.inputs[place], attribute, value))


def grpc_cases() -> dict[str, Any]:
    """Messages, by what is wrong in them."""
    output = service_pb2.ModelInferRequest.InferRequestedOutputTensor
    number = service_pb2.InferParameter(int64_param=2)
    shared = {"shared_memory_region": service_pb2.InferParameter(string_param="none")}
    return {
        "nothing is wrong": message(),
        "unknown model": message(model="nobody"),
        "no model": message(model=""),
        "unknown version": _changed(lambda made: setattr(made, "model_version", "9")),
        "version that is no number": _changed(lambda made: setattr(made, "model_version", "new")),
        "no inputs": service_pb2.ModelInferRequest(model_name="m1"),
        "missing input": message({"ids": FEEDS["ids"]}),
        "unknown input": message({**FEEDS, "z": FEEDS["x"]}),
        "input of another name": _set(1, "name", "z"),
        "duplicate input": _changed(_doubled),
        "wrong type": _set(1, "datatype", "FP64"),
        "unknown type": _set(1, "datatype", "FLOAT"),
        "datatype is missing": _set(1, "datatype", ""),
        "wrong rank": _shape(8),
        "wrong size": message({"ids": FEEDS["ids"], "x": FEEDS["x"][:, :7]}),
        "rows that differ": message({"ids": FEEDS["ids"], "x": np.repeat(FEEDS["x"], 2, 0)}),
        "no rows": message({"ids": FEEDS["ids"][:0], "x": FEEDS["x"][:0]}),
        "less data than the shape": _raw(1, bytes(28)),
        "more data than the shape": _raw(1, bytes(36)),
        "shape is missing": _shape(),
        "negative size": _shape(-1, 8),
        "two negative sizes": _shape(-1, -8),
        "huge size": _shape(HUGE, 8),
        "product of sizes overflows to the right one": _shape(2**61 + 1, 8),
        "index out of range": message({**FEEDS, "ids": np.array([[1, 2, 99]])}),
        "fewer raw contents than inputs": _changed(lambda made: made.raw_input_contents.pop()),
        "more raw contents than inputs": _changed(lambda made: made.raw_input_contents.append(b"1234")),
        "raw and typed contents": _changed(lambda made: made.inputs[1].contents.fp32_contents.extend(X[0])),
        "typed contents: too few": _typed(lambda made: made.inputs[1].contents.fp32_contents.pop()),
        "typed contents: too many": _typed(lambda made: made.inputs[1].contents.fp32_contents.append(1)),
        "typed contents: of another type": _typed(_other_contents),
        "typed contents: none": _typed(lambda made: made.inputs[1].ClearField("contents")),
        "unknown output": _changed(lambda made: made.outputs.append(output(name="z"))),
        "duplicate output": _changed(lambda made: made.outputs.extend([output(name="y"), output(name="y")])),
        "classification": _changed(
            lambda made: made.outputs.append(output(name="y", parameters={"classification": number}))
        ),
        "output in shared memory": _changed(
            lambda made: made.outputs.append(output(name="y", parameters=shared))
        ),
        "input in shared memory": _changed(_in_shared_memory),
        "unknown parameter": _changed(lambda made: made.parameters["colour"].MergeFrom(number)),
        "sequence_id": _changed(lambda made: made.parameters["sequence_id"].MergeFrom(number)),
        "priority": _changed(lambda made: made.parameters["priority"].MergeFrom(number)),
        **dict(_grpc_bytes()),
    }  # fmt: skip


def _doubled(made: Any) -> None:
    made.inputs.append(made.inputs[1])
    made.raw_input_contents.append(made.raw_input_contents[1])


def _raw(place: int, data: bytes) -> Any:
    return _changed(lambda made: made.raw_input_contents.__setitem__(place, data))


def _typed(change: Callable[[Any], object]) -> Any:
    made = contents_message(Asked("m1", FEEDS))
    change(made)
    return made


def _other_contents(made: Any) -> None:
    made.inputs[1].contents.ClearField("fp32_contents")
    made.inputs[1].contents.int_contents.extend(range(8))


def _in_shared_memory(made: Any) -> None:
    made.raw_input_contents.pop()
    made.inputs[1].parameters["shared_memory_region"].string_param = "none"
    made.inputs[1].parameters["shared_memory_byte_size"].int64_param = 32


def _grpc_bytes() -> Iterator[tuple[str, Any]]:
    """The cases of BYTES with the bytes that HTTP sends."""
    feeds = families.typed_feeds(3)
    place = [*feeds].index("x_BYTES")
    first = sum(len(encoded(value)) for name, value in feeds.items() if name != "x_BYTES")
    for name, post in bytes_cases().items():
        head = int(post.headers["Inference-Header-Content-Length"])
        raw = post.body[head + first :]

        def change(made: Any, raw: bytes = raw) -> None:
            made.raw_input_contents[place] = raw

        yield name, _changed(change, feeds, "t1")
