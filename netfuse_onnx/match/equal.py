"""Weights of a family that are equal in all of its models, or in some of them.

Most weights of a family differ in the first page, so one page of each is read. Only weights with equal pages
are read further, each beside the first that it may be equal to.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from netfuse_onnx.storage import weights
from netfuse_onnx.types import Weight

LEAST = 1024
"""Bytes of a weight from which on equality in some of the models is looked for: less is not worth a node."""


def collapsed(family: tuple[Weight, ...]) -> tuple[Weight, ...]:
    """Return one entry where all models hold the same bits. Else an entry for each, in which models that hold
    the same bits refer to those of the first of them."""
    distinct: dict[Hashable, list[Weight]] = {}
    merged = tuple([_merged(weight, distinct) for weight in family])
    if all(weight == merged[0] for weight in merged):
        return family[:1]
    return merged if weights.nbytes(family[0]) >= LEAST else family


def _merged(weight: Weight, distinct: dict[Hashable, list[Weight]]) -> Weight:
    """Return the weight, with the bytes of an equal one among `distinct` where there is one."""
    alike = distinct.setdefault(weights.first_page(weight), [])
    for other in alike:
        if weights.same(other, weight):
            return replace(weight, data=other.data, own_data=weight.data)
    alike.append(weight)
    return weight
