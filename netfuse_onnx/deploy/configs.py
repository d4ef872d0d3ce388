"""The configurations of a repository, in the messages of Triton's own schema (model_config.proto).

Each is written as text and read back, and must be the same then.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from netfuse_onnx.deploy.family import Endpoint, Family, Port
from netfuse_onnx.errors import InternalError, UsageFault
from netfuse_onnx.runtime.signature import FREE

TYPES = {"BYTES": "STRING"}
"""The names of types that differ between the protocol and the configuration."""
MOST_ROWS = 64
"""Rows that a request may have: the default of MergedSession."""
ROWS_OF_A_MODEL = 8
"""Rows of each model that an execution may have, at least."""


def schema() -> Any:
    """Return the module with the messages. Raises UsageFault where tritonclient is not installed."""
    try:
        return importlib.import_module("tritonclient.grpc.model_config_pb2")
    except ImportError as error:
        raise UsageFault(
            "tritonclient is not installed, which has the schema of Triton's configurations.",
            "pip install 'netfuse-onnx[serve]'",
        ) from error


def written(config: Any) -> str:
    """Return a configuration as text, which gives the same configuration when it is read."""
    from google.protobuf import text_format

    text = str(text_format.MessageToString(config))
    if text_format.Parse(text, type(config)()) != config:
        raise InternalError(f"The configuration of {config.name} is not what it was when it is read back.")
    return text


def family(
    found: Family, backend: str, *, delay: int, queue: int, cuda: bool, options: Mapping[str, str]
) -> Any:
    """Return the configuration of the model that all endpoints share. `delay` is the most microseconds that
    Triton waits for more requests, and `queue` the most requests that wait, 0 for any number."""
    m = schema()
    ours = backend == "python"
    config = m.ModelConfig(name=found.name, backend=backend)
    config.input.extend(_input(found, port, ragged=ours) for port in found.inputs)
    config.input.append(index(found, optional=ours))
    names = [port.name for port in found.outputs]
    config.output.extend(_output(found, port, name) for port, name in zip(found.outputs, names, strict=True))
    if ours:
        for one, own in zip(found.endpoints, found.own_outputs(), strict=True):
            config.output.extend(_output(found, *pair) for pair in zip(one.outputs, own, strict=True))
    if found.batches:
        config.max_batch_size = max(MOST_ROWS, ROWS_OF_A_MODEL * len(found.endpoints) * max(1, found.chunk))
        config.dynamic_batching.max_queue_delay_microseconds = delay
        if queue:  # with any policy of the queue, Triton 2.51 stops fetching ahead, and may stall for 0.5 s
            config.dynamic_batching.default_queue_policy.max_queue_size = queue
    group = m.ModelInstanceGroup
    config.instance_group.add(count=1, kind=group.KIND_GPU if cuda else group.KIND_CPU)
    for key, value in options.items():
        config.parameters[key].string_value = value
    return config


def index(found: Family, *, optional: bool, name: str = "") -> Any:
    """Return the input that has the place of each row's model in the order of the merge."""
    one = schema().ModelInput(name=name or found.index, data_type=schema().TYPE_INT64, optional=optional)
    one.dims.append(1)
    if found.batches:
        one.reshape.SetInParent()
    return one


def endpoint(found: Family, one: Endpoint, steps: Sequence[Any]) -> Any:
    """Return the configuration of an endpoint: an ensemble with the names and shapes of one source."""
    m = schema()
    config = m.ModelConfig(name=one.name, platform="ensemble")
    if found.batched:
        config.max_batch_size = MOST_ROWS
    for ports, kind, side in (
        (one.inputs, m.ModelInput, config.input),
        (one.outputs, m.ModelOutput, config.output),
    ):
        for port in ports:
            shape = outer(found, port.shape)
            side.append(kind(name=port.name, data_type=kind_of(port), dims=shape[found.batched :]))
    config.ensemble_scheduling.step.extend(steps)
    return config


def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Any:
    """Return a step of an ensemble, of the latest version of a model. Mappings go from the model's names to
    the ensemble's."""
    return schema().ModelEnsembling.Step(
        model_name=model, model_version=-1, input_map=dict(inputs), output_map=dict(outputs)
    )


def kind_of(port: Port) -> int:
    """Return the number of a port's type."""
    return int(schema().DataType.Value(f"TYPE_{TYPES.get(port.datatype, port.datatype)}"))


def outer(found: Family, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape as clients give it: Triton has neither scalars nor rows of scalars, which get an axis of
    size 1."""
    return (*shape, 1) if len(shape) <= found.batches else shape


def _input(found: Family, port: Port, *, ragged: bool) -> Any:
    one = schema().ModelInput(name=port.name, data_type=kind_of(port))
    _sized(found, one, port)
    one.allow_ragged_batch = bool(ragged and found.batches and FREE in one.dims)
    return one


def _output(found: Family, port: Port, name: str) -> Any:
    one = schema().ModelOutput(name=name, data_type=kind_of(port))
    _sized(found, one, port)
    return one


def _sized(found: Family, one: Any, port: Port) -> None:
    """Write the sizes of a port, without the rows that Triton counts. An axis that was added to rows is taken
    away again before the model sees it; with that of a scalar, Triton can't do that."""
    shape = outer(found, port.shape)
    one.dims.extend(shape[found.batches :])
    if found.batches and shape != port.shape:
        one.reshape.SetInParent()
