"""Describes the server and its models in the words of the protocol and its extensions, as JSON has them."""

from __future__ import annotations

from typing import Any

import netfuse_onnx
from netfuse_onnx.runtime.signature import Tensor
from netfuse_onnx.server.core import EXTENSIONS, NAME, Core
from netfuse_onnx.server.counted import Statistics
from netfuse_onnx.server.endpoints import VERSION, Endpoint
from netfuse_onnx.server.http_codec import described

TYPES = {"BYTES": "TYPE_STRING"}


def server() -> dict[str, Any]:
    """Return the metadata of the server."""
    return {"name": NAME, "version": netfuse_onnx.__version__, "extensions": list(EXTENSIONS)}


def model(endpoint: Endpoint) -> dict[str, Any]:
    """Return the metadata of a model."""
    return {
        "name": endpoint.name,
        "versions": [VERSION],
        "platform": endpoint.platform,
        "inputs": [described(one) for one in endpoint.takes.values()],
        "outputs": [described(one) for one in endpoint.gives.values()],
    }


def config(endpoint: Endpoint) -> dict[str, Any]:
    """Return the configuration of a model, as Triton has it. Shapes have their batch axis, so that
    `max_batch_size` is 0."""
    return {
        "name": endpoint.name,
        "platform": endpoint.platform,
        "backend": "netfuse",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [_configured(one) for one in endpoint.takes.values()],
        "output": [_configured(one) for one in endpoint.gives.values()],
    }


def _configured(tensor: Tensor) -> dict[str, Any]:
    told = described(tensor)
    kind = TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    return {"name": tensor.name, "data_type": kind, "dims": told["shape"]}


def index(core: Core, only_ready: bool = False) -> list[dict[str, str]]:
    """Return all names with their states. While the server drains, none is ready."""
    if not core.is_ready:
        if only_ready:
            return []
        told = {"version": VERSION, "state": "UNAVAILABLE", "reason": "the server ends"}
    else:
        told = {"version": VERSION, "state": "READY", "reason": ""}
    return [{"name": name, **told} for name in core.catalog.endpoints]


def statistics(core: Core, name: str = "", version: str = "") -> dict[str, Any]:
    """Return the statistics of one model, or of all. Times are those of whole requests, in nanoseconds: the
    queue and the calls, which serve several models, are among the metrics."""
    names = [core.catalog.find(name, version).name] if name else list(core.catalog.endpoints)
    counted = core.counted.by_name
    return {"model_stats": [_counted(one, counted.get(one, Statistics())) for one in names]}


def _counted(name: str, told: Statistics) -> dict[str, Any]:
    none = {"count": 0, "ns": 0}
    success = {"count": told.succeeded, "ns": told.success_ns}
    return {
        "name": name,
        "version": VERSION,
        "last_inference": told.last_ms,
        "inference_count": told.inferences,
        "execution_count": told.succeeded,
        "inference_stats": {
            "success": success,
            "fail": {"count": told.failed, "ns": told.fail_ns},
            "queue": none,
            "compute_input": none,
            "compute_infer": success,
            "compute_output": none,
            "cache_hit": none,
            "cache_miss": none,
        },
        "batch_stats": [],
    }
