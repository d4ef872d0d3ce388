"""Bodies of If, Loop, Scan: GraphProtos that read outer values by name.

Every copy of a body gets names of its own, because ONNX wants each name once across nested graphs. The
outer values keep their source names until export, when the names of the merged values are final.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from netfuse_onnx.ops import walk

if TYPE_CHECKING:
    from netfuse_onnx.emit.emitter import Emitter


def bind(attrs: Mapping[str, Any], emit: Emitter) -> dict[str, Any]:
    """Attributes whose bodies define no name that another body or the merged graph defines."""
    bound = dict(attrs)
    for key, body in walk.bodies_of(attrs).items():
        fresh = {name: emit.fresh(f"{emit.scope}/{name}") for name in walk.defined(body)}
        bound[key] = walk.copied(body)
        walk.rename(bound[key], lambda name, fresh=fresh: fresh.get(name, name))  # type: ignore[misc]
    return bound
