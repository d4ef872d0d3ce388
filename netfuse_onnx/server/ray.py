"""Names that an app of Ray Serve uses: `netfuse-onnx export ray` writes one."""

from netfuse_onnx.server.bundle_paths import located, models, served
from netfuse_onnx.server.ray_family import Family
from netfuse_onnx.server.ray_router import Router

__all__ = ["Family", "Router", "located", "models", "served"]
