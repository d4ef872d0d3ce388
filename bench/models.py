"""The files that are measured: two models are exported, all others are made from the first.

Exporting 32 networks takes longer than measuring them. So what differs between the first two files is taken
for weights, and changed in copies of the first; what they have in common stays common.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sample_models.families import Family

STEP, SCALE = 97, 0.01
"""Model m has the numbers of the first, moved on by STEP * m and larger by SCALE * m: as good as drawn anew,
and no slower than the disk."""


def files(family: Family, folder: Path, count: int, *, exporter: str, dtype: str = "fp32") -> list[Path]:
    """`count` models of a family, written where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{family.name}-{m}.onnx" for m in range(max(2, count))]
    if not all(path.exists() for path in paths[:2]):
        _export(family, folder, exporter)
    if not all(path.exists() for path in paths):
        multiply(paths)
    if dtype == "fp16":
        paths = [_halved(path, folder / "fp16" / path.name) for path in paths[:count]]
    return paths[:count]


def _export(family: Family, folder: Path, exporter: str) -> None:
    from sample_models.export import export_family

    with contextlib.redirect_stdout(io.StringIO()):  # torch talks
        list(export_family(family, folder, count=2, exporter=exporter))


def multiply(paths: Sequence[Path]) -> None:
    """Write all but the first two models, which are there."""
    first, second = onnx.load(paths[0]), onnx.load(paths[1])
    other = {tensor.name: tensor for tensor in second.graph.initializer}
    weights = [
        (i, array)
        for i, tensor in enumerate(first.graph.initializer)
        if tensor.name in other and tensor != other[tensor.name]
        for array in [numpy_helper.to_array(tensor)]
        if array.dtype.kind == "f"
    ]
    del second, other
    for number, path in enumerate(paths):
        if number > 1 and not path.exists():
            for i, array in weights:
                moved = np.roll(array.reshape(-1), STEP * number) * (1.0 + SCALE * number)
                first.graph.initializer[i].raw_data = moved.astype(array.dtype).tobytes()
            _save(first, path)


def _halved(path: Path, target: Path) -> Path:
    """The same model in float16, by ONNX Runtime's converter."""
    if not target.exists():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        target.parent.mkdir(exist_ok=True)
        _save(convert_float_to_float16(onnx.load(path), disable_shape_infer=True), target)
    return target


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Under its name only when it is complete."""
    half = path.with_suffix(".part")
    onnx.save_model(model, half)
    half.rename(path)
