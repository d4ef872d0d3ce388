"""Starts the gRPC server, with bounds on messages and clients."""

from __future__ import annotations

from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.server.core import Core
from netfuse_onnx.server.grpc_service import Service
from netfuse_onnx.server.options import Options
from netfuse_onnx.server.repository import Repository

HEADROOM = 64 << 10
"""Bytes of a message beside its tensors."""


def channel_options(options: Options) -> list[tuple[str, Any]]:
    """Return the settings of gRPC. Sizes are those of messages, times are in milliseconds."""
    return [
        ("grpc.max_receive_message_length", options.max_bytes + HEADROOM),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 64 << 10),
        ("grpc.max_concurrent_streams", most_calls(options)),
        # Calls that Python has not taken yet; beyond its default of 1,000 gRPC ends them as if cancelled.
        ("grpc.server.max_pending_requests", 2 * most_calls(options)),
        ("grpc.server.max_pending_requests_hard_limit", 4 * most_calls(options)),
        ("grpc.max_connection_idle_ms", int(max(options.idle, 1) * 8000)),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.server_handshake_timeout_ms", int(options.headers * 1000)),
        ("grpc.so_reuseport", 0),
    ]


def most_calls(options: Options) -> int:
    """Return how many calls the server takes at a time; more are refused."""
    return 4 * options.connections


async def started(core: Core, repository: Repository) -> tuple[Any, str]:
    """Return the gRPC server, which serves, and its address. Raises UsageFault for one that it can't take."""
    options = core.options
    server = grpc.aio.server(options=channel_options(options), maximum_concurrent_rpcs=most_calls(options))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(core, repository), server)
    try:
        port = server.add_insecure_port(options.grpc)
    except RuntimeError as error:
        raise UsageFault(
            f"The address {options.grpc} can't be listened on.",
            "Choose another port, or port 0 for any that is free.",
        ) from error
    await server.start()
    return server, f"{options.grpc.rpartition(':')[0]}:{port}"
