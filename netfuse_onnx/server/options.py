"""The options of a server, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass

HTTP, GRPC = "127.0.0.1:8000", "127.0.0.1:8001"
"""The addresses, which only programs on this machine reach."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a server. Times are in seconds.

    `http` and `grpc` are HOST:PORT, where port 0 is any free one; '' is no server of that kind. `name` is
    that of the family. `path` was opened at start, and `repository` is the folder from which others may be
    loaded; '' is none. A request may have `max_bytes`, of JSON `max_json`, and all requests that are held at
    a time `max_held`. `connections` may be open to the HTTP server. A client has `headers` to send the
    headers of a request, `body` to send the rest and as long to take the answer; its connection may be idle
    for `idle`. `drain` bounds the time for which accepted requests are waited for at the end.
    """

    name: str = "family"
    http: str = HTTP
    grpc: str = GRPC
    path: str = ""
    repository: str = ""
    max_bytes: int = 64 * MIB
    max_json: int = 4 * MIB
    max_held: int = 1024 * MIB
    connections: int = 1000
    headers: float = 10.0
    body: float = 60.0
    idle: float = 75.0
    drain: float = 30.0
