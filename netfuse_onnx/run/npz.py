"""Inputs from an .npz file: `a/x` for model a, `x` for all models or stacked on a leading axis."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.run.inputs import InputSpec
from netfuse_onnx.run.runtime import Array, Value


def given(
    path: str, specs: Sequence[InputSpec], names: Sequence[str], shared: frozenset[str]
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
    feeds: list[dict[str, Value]] = [{} for _ in names]
    for spec in specs:
        for model, name in enumerate(names):
            feeds[model][spec.name] = _find(path, held, spec, model, name, len(names), spec.name in shared)
    return tuple(feeds)


def _find(
    path: str, held: Mapping[str, Array], spec: InputSpec, model: int, name: str, models: int, shared: bool
) -> Array:
    own = f"{name}/{spec.name}"
    if own in held and not shared:
        return held[own]
    if spec.name not in held:
        raise UsageFault(
            f"{path} has neither {own!r} nor {spec.name!r}.",
            "Keys are MODEL/INPUT for one model, or INPUT for all.",
        )
    array = held[spec.name]
    stacked = spec.dims is not None and array.ndim == len(spec.dims) + 1 and array.shape[0] == models
    return array[model] if stacked and not shared else array
