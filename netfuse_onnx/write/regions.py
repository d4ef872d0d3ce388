"""The regions of a merged data file: the bytes of each source weight in it, and the models that own it.

A merged weight holds its parts one after the other where they are not interleaved and no transform moves
their elements: then each part is the weight of a model (or of all of them) byte for byte, at a place that
follows from the recipe. Such a region can be read by a graph of that model alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from netfuse_onnx.storage import weights
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS
from netfuse_onnx.storage.transforms import AS_IS
from netfuse_onnx.tailed import owner
from netfuse_onnx.types import Correspondence, Extent, Weight

ALL = "all"
"""The word in a manifest for a region that belongs to all models."""
EACH = "each"
"""The word in a manifest for regions of one size side by side, one for each model in their order."""
UNUSED = "the merged file does not hold it: it was folded into another weight, or nothing reads it"


@dataclass(frozen=True, slots=True)
class Region:
    """A source weight in the merged file. `offset` is that in the data file, in bytes, and None where its
    bytes were moved, for the reason `why`. `models` are the places of those that it belongs to, none for all
    of them."""

    weight: Weight
    length: int
    models: tuple[int, ...]
    offset: int | None
    why: str = ""

    def belongs_to(self, model: int) -> bool:
        """Return True where a model may read it."""
        return not self.models or model in self.models


def regions(
    family: Correspondence, recipes: Mapping[str, Recipe], places: Mapping[str, Extent]
) -> list[Region]:
    """Return the regions of all merged weights, in the order of the file. `places` are the extents of the
    merged weights in the data file, by name."""
    found: list[Region] = []
    for name, recipe in sorted(recipes.items(), key=lambda item: places[item[0]].offset):
        found += _of_recipe(family, recipe, places[name].offset)
    return found


def _of_recipe(family: Correspondence, recipe: Recipe, start: int) -> Iterator[Region]:
    """Yield the region of each part, with the reason why its bytes moved where they did."""
    whole, only = family.every_weight.get(recipe.value, ()), owner(family, recipe.value)
    owners: dict[Weight, list[int]] = {}
    for model, weight in enumerate(whole):
        owners.setdefault(weight, []).append(model)
    interleaved = recipe.outer > 1 and len(recipe.parts) > 1
    for part, count in zip(recipe.parts, recipe.counts, strict=True):
        if part in owners:
            models = tuple(owners[part]) if len(whole) > 1 else () if only is None else (only,)
            why = _moved(recipe, part, interleaved)
            yield Region(part, weights.nbytes(part), models, None if why else start, why)
        bits = count * BITS[recipe.dtype]
        if bits % 8:  # the next part begins inside a byte
            return
        start += bits // 8


def _moved(recipe: Recipe, part: Weight, interleaved: bool) -> str:
    """Return the reason why the bytes of a part are not those of the source; '' where they are."""
    if recipe.transform != AS_IS and recipe.transform.moves(part.shape):
        return f"stored {recipe.transform.words} in the merged file"
    return "interleaved with those of the other models in the merged file" if interleaved else ""


class Index:
    """Finds the region that holds the bytes of a weight."""

    def __init__(self, found: Sequence[Region]) -> None:
        self._by_start: dict[tuple[int, bytes], list[Region]] = {}
        for region in found:
            self._by_start.setdefault(start_of(region.weight), []).append(region)

    def region(self, weight: Weight, model: int) -> Region | None:
        """Return a region with the bytes of a model's weight: one whose bytes did not move where there is
        any, else one that says why they did. None where the merged file has no such weight."""
        moved = None
        for region in self._by_start.get(start_of(weight), ()):
            if region.belongs_to(model) and weights.same(as_bytes(weight), as_bytes(region.weight)):
                if region.offset is not None:
                    return region
                moved = moved or region
        return moved


def start_of(weight: Weight) -> tuple[int, bytes]:
    """Return the size of a weight and a digest of its first bytes, which differ between most weights."""
    page = weights.first_page(weight)
    start = page if isinstance(page, bytes) else b"".join(page)
    return weights.nbytes(weight), hashlib.blake2b(start, digest_size=16).digest()


def as_bytes(weight: Weight) -> Weight:
    """Return a weight of the same raw form, whatever its type and shape."""
    return Weight(TensorProto.UINT8, (weights.nbytes(weight),), weight.data)


def written(found: Sequence[Region], models: int) -> list[list[Any]]:
    """Return the regions as a manifest has them: rows [offset, bytes, owners], where owners are `all`, `each`
    or a list of places of models."""
    rows: list[list[Any]] = []
    placed = [region for region in found if region.offset is not None]
    at = 0
    while at < len(placed):
        region, group = placed[at], placed[at : at + models]
        if models > 1 and _is_row(group, models):
            rows.append([region.offset, region.length, EACH])
            at += models
        else:
            rows.append([region.offset, region.length, list(region.models) or ALL])
            at += 1
    return rows


def _is_row(group: Sequence[Region], models: int) -> bool:
    """Return True for regions of one size side by side, each of the next model alone."""
    first = group[0]
    return len(group) == models and all(
        region.models == (k,)
        and region.length == first.length
        and region.offset == (first.offset or 0) + k * first.length
        for k, region in enumerate(group)
    )
