"""Inputs from an .npz file: `a/x` for model a, by the name that a's file or the first one's uses; `x` for all
models or stacked on a leading axis, by the first one's name."""

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
    """The feeds of every model, by the first source's input names.

    Raises FileFault when the file can't be read, UsageFault when it lacks an input.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        problem = f"{path or chr(39) * 2} can't be read as an .npz file: {str(error).rstrip('.')}."
        raise FileFault(problem, "Write it with numpy.savez.") from error
    feeds: list[dict[str, Value]] = [{} for _ in family.names]
    for spec in specs:
        for model, feed in enumerate(feeds):
            feed[spec.name] = _find(path, held, spec, family, model, spec.name in shared)
    return tuple(feeds)


def _find(
    path: str, held: Mapping[str, Array], spec: InputSpec, family: Correspondence, model: int, shared: bool
) -> Array:
    name, twins = family.names[model], family.edge(model).inputs
    own = twins[spec.name]
    keys = [own] if spec.name in twins.values() else [own, spec.name]
    for key in keys:
        if f"{name}/{key}" in held and not shared:
            return held[f"{name}/{key}"]
    if spec.name not in held:
        raise UsageFault(
            f"{path} has neither {f'{name}/{own}'!r} nor {spec.name!r}.",
            "Keys are MODEL/INPUT for one model, or INPUT for all.",
        )
    array = held[spec.name]
    stacked = spec.dims is not None and array.ndim == len(spec.dims) + 1 and array.shape[0] == family.models
    return array[model] if stacked and not shared else array
