"""The proof of weights that the models hold as W_0 + L R, and what a merged file says of them.

The bytes of W_0 and of the factors are those of the merged file: either the proof of the bytes compares them
with what the merge computed, or they are taken out of the file, as the recipes in its metadata say. Then
W_0 + L R is computed in float64 and compared with the weight of every model, element by element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netfuse_onnx.errors import FileFault, InternalError, ValuesDiffer
from netfuse_onnx.factored import Factored, LowRank
from netfuse_onnx.proofs import Reconstructed, Reconstruction
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.rewrite.low_rank import Reading, applied, differing, names_of
from netfuse_onnx.storage.elements import Files
from netfuse_onnx.storage.numbers import allowed, array, rows
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.transforms import AS_IS
from netfuse_onnx.storage.undo import taken_out
from netfuse_onnx.types import Correspondence, Extent, Weight
from netfuse_onnx.write import writer
from netfuse_onnx.write.metadata import Metadata


def prove_factors(
    recipes: Mapping[str, Recipe], family: Correspondence, tell: Progress
) -> Reconstruction | None:
    """Compare W_0 + L R with the weight of every model; None for a family without factors."""
    low_rank = family.low_rank
    if low_rank is None or not low_rank.factored:
        return None
    problems, found = list[str](), list[Reconstructed]()
    stored = {(recipe.value, part) for recipe in recipes.values() for part in recipe.parts}
    for done, each in enumerate(low_rank.factored):
        tell("comparing the factors of weights", done, len(low_rank.factored))
        names = (each.weight, *low_rank.names[each.weight])
        for name, parts in zip(names, ((each.base,), each.a, each.b), strict=True):
            if not all((name, part) in stored for part in parts):
                problems.append(f"The merged model does not hold {name!r} of all models.")
        errors = [_error(each, model, low_rank.tolerance) for model in range(family.models)]
        worst = int(np.argmax([error for error, _, _ in errors]))
        error, row, column = errors[worst]
        if not error <= 1.0:
            problems.append(
                f"Weight {each.weight!r} of {family.names[worst]} is not W_0 + L R: its element "
                f"[{row}, {column}] is off by {error:.3g} times what is allowed."
            )
        found.append(Reconstructed(each.weight, each.rank, error, family.names[worst]))
    return Reconstruction(tuple(found), low_rank.tolerance, tuple(problems))


def _error(each: Factored, model: int, tolerance: float) -> tuple[float, int, int]:
    """Return the largest error of one model in units of what is allowed, and the row and column where it
    is."""
    left, right = each.form.matrices(array(each.a[model]), array(each.b[model]))
    worst, top = (0.0, 0, 0), 0
    with Files() as files, np.errstate(all="ignore"):
        both = (rows(weight, each.form.matrix[1], files) for weight in (each.wholes[model], each.base))
        for values, origin in zip(*both, strict=True):
            bound = allowed(values, each.wholes[model].dtype, tolerance)
            ratio = np.abs(origin + left[top : top + len(values)] @ right - values) / bound[:, None]
            ratio = np.where(np.isfinite(ratio), ratio, np.inf)
            row, column = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
            worst = max(worst, (float(ratio[row, column]), top + int(row), int(column)))
            top += len(values)
    return worst


# --------------------------------------------------------------------------- from a merged file


def restored(path: str, about: Metadata, family: Correspondence) -> Correspondence:
    """Return the family with the factors that a merged file holds, for sources that were matched again. W_0
    is that of its model, or where a base apart had it, what the file has.

    Raises FileFault where the metadata do not fit the sources or the file.
    """
    if about.low_rank is None:
        return family
    try:
        return applied(family, _restored(writer.read_merged(path), about, about.low_rank, family))
    except (KeyError, IndexError, TypeError, ValueError, InternalError, ValuesDiffer) as error:
        told = error.message.rstrip(".") if isinstance(error, InternalError | ValuesDiffer) else repr(error)
        raise FileFault(
            f"{path} says nothing usable about its low-rank differences: {told}.",
            "Are these the models that were merged? If so, merge again.",
        ) from error


def _restored(
    merged: Mapping[str, Weight], about: Metadata, said: Mapping[str, Any], family: Correspondence
) -> LowRank:
    lines = said["weights"]
    readings, names = dict(differing(family)), names_of(family, list(lines))
    factored = []
    for name, line in lines.items():
        reading = readings[name]
        if not isinstance(reading, Reading) or not 0 < line["rank"] <= min(reading.form.matrix):
            raise ValueError(f"{name!r} can't be a difference of rank {line['rank']}")
        seen = reading.form
        wholes, model = family.weights[name], line.get("model")
        kept = _Kept(merged, about, wholes[0].dtype)
        sides = zip(names[name], seen.shapes(line["rank"]), (line.get("a"), line.get("b")), strict=True)
        a, b = (kept.parts(value, shape, alike or range(family.models)) for value, shape, alike in sides)
        base = kept.parts(name, wholes[0].shape, [0])[0] if model is None else wholes[model]
        error = line.get("error", 0.0)
        found = Factored(name, seen, line["rank"], base, a, b, wholes, model, error, reading.nodes)
        factored.append(found)
    return LowRank(tuple(factored), said["tolerance"], said["sha256"], said["whole"])


class _Kept:
    """The source weights that a merged file holds, of one type."""

    def __init__(self, merged: Mapping[str, Weight], about: Metadata, dtype: int) -> None:
        self.merged, self.about, self.dtype = merged, about, dtype

    def parts(self, value: str, shape: tuple[int, ...], alike: Sequence[int]) -> tuple[Weight, ...]:
        """Return the weight of each model. `alike` names, for each model, the first one with an equal weight;
        these are one. Raises ValueError where one is missing."""
        if not all(first <= model and alike[first] == first for model, first in enumerate(alike)):
            raise ValueError(f"{value!r} has no order of equal weights")
        found: dict[int, Weight] = {}
        one, dummy = len(set(alike)) == 1, Weight(self.dtype, shape, b"")
        for name, line in self.about.weights.items():
            if line["value"] != value:
                continue
            data = self.merged[name].data
            positions = line.get("parts", range(1 if one else len(alike)))
            parts, outer = (dummy,) * len(positions), line.get("outer", 1)
            whole = self.merged[name].shape
            recipe = Recipe(value, parts, self.dtype, whole, outer, line.get("transform", AS_IS))
            if not isinstance(data, Extent | bytes):
                raise ValueError(f"{name!r} holds strings")
            for part, position in enumerate(positions):
                if alike[position] not in found:
                    found[alike[position]] = taken_out(recipe, data, part)
        return tuple(found[first] for first in alike)
