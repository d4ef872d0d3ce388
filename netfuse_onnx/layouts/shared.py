"""SHARED: no model axis, one value for all models."""

from __future__ import annotations

from collections.abc import Sequence

from netfuse_onnx.layouts.base import Layout


class Shared(Layout):
    """d0..dk. Other layouts have hops from here. None leads back: data that differs between models cannot be
    made one."""

    __slots__ = ()
    name, order, has_axis = "SHARED", 0, False

    def padding(self, missing: int, at: int) -> Sequence[int]:
        """An axis for the models, where an axis of the value itself would stand there."""
        return [at - missing] if at > missing else ()


SHARED: Layout = Shared()
