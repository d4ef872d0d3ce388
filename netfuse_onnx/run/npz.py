"""Reads inputs from an .npz file.

Key `a/x` is for model a, where x is the name in a's file or in the first model's. Key `x`, a name of the
first model, is for all models, or has a leading axis of models.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.run.inputs import InputSpec
from netfuse_onnx.run.runtime import Array, Value
from netfuse_onnx.types import Correspondence


def given(
    path: str, specs: Sequence[InputSpec], family: Correspondence, shared: frozenset[str]
) -> tuple[Mapping[str, Value], ...]:
    """Read the feeds of every model, by the first source's input names.

    Raises FileFault when the file can't be read, UsageFault when it lacks an input.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        problem = f"{path or chr(39) * 2} can't be read as an .npz file: {str(error).rstrip('.')}."
        raise FileFault(problem, "Write it with numpy.savez.") from error
    feeds: list[dict[str, Value]] = [{} for _ in family.names]
    for spec in specs:
        for model, feed in enumerate(feeds):
            feed[spec.name] = _find(path, arrays, spec, family, model, spec.name in shared)
    return tuple(feeds)


def _find(
    path: str, arrays: Mapping[str, Array], spec: InputSpec, family: Correspondence, model: int, shared: bool
) -> Array:
    name, twins = family.names[model], family.edge(model).inputs
    own = twins[spec.name]
    keys = [own] if spec.name in twins.values() else [own, spec.name]
    for key in keys:
        if f"{name}/{key}" in arrays and not shared:
            return arrays[f"{name}/{key}"]
    if spec.name not in arrays:
        raise UsageFault(
            f"{path} has neither {f'{name}/{own}'!r} nor {spec.name!r}.",
            "Keys are MODEL/INPUT for one model, or INPUT for all.",
        )
    array = arrays[spec.name]
    stacked = spec.dims is not None and array.ndim == len(spec.dims) + 1 and array.shape[0] == family.models
    return array[model] if stacked and not shared else array
