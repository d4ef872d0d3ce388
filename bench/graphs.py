"""Exports one model of each network and writes its graph without the weights, for drawn.py.

    python bench/graphs.py --out build/bench/graphs [--only bert xlnet]

It needs torch and transformers, and takes some minutes; graphs that are there are not made again. NAME-
fp16.onnx is the same in float16. NAME-tiny.onnx is a small network of the same kind, for a trial in
seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import drawn
from bench.zoo import ZOO
from sample_models.families import FAMILIES, Family

HALVED = ("bert", "resnet50")
"""Those that are there in float16, too, by ONNX Runtime's converter."""
NETWORKS = ("tabular", "vit", "mobilenet-96", "resnet50", "bert", "xlnet", "resnext50", "decoder")
"""Names of bench/zoo.py."""
TINY = {"mobilenet-96": "mobilenet_v2", "tabular": "mlp", "decoder": "llama_step"}
"""Small networks of sample_models that stand for the full-size ones in a trial."""
CONSTANT = 1e-3
"""A spread below this share of the largest number is taken for a constant."""


def main() -> None:
    given = _arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.only:
        for tiny in (False, True) if not given.tiny else (True,):
            out = given.out / f"{name}{'-tiny' if tiny else ''}.onnx"
            if not out.exists():
                start = time.monotonic()
                count = make(_family(name, tiny), tiny, out, given.work)
                kilobytes, took = out.stat().st_size / 1e3, time.monotonic() - start
                print(f"{out.name}: {count} weights, {kilobytes:.0f} kB, {took:.0f} s", flush=True)
            if name in HALVED and not halved(out).exists():
                halve(out)


def make(family: Family, tiny: bool, out: Path, work: Path | None = None) -> int:
    """Write the graph of a family. Returns the number of its weights."""
    from sample_models.export import export_family

    with tempfile.TemporaryDirectory(dir=work) as folder:
        paths = export_family(family, Path(folder), count=1, tiny=tiny, exporter="dynamo")
        model = onnx.load(next(iter(paths)))
    count = strip(model)
    _save(model, out)
    return count


def _family(name: str, tiny: bool) -> Family:
    if not tiny:
        return ZOO[name].family
    small = TINY.get(name, name)
    if small in FAMILIES:
        return FAMILIES[small]
    from sample_models.zoo import ZOO as SMALL

    return SMALL[small].family


def halved(path: Path) -> Path:
    """The path of the same graph in float16."""
    return path.with_name(f"{path.stem}-fp16.onnx")


def halve(path: Path) -> None:
    """Write the graph in float16. The converter wants weights, so some are drawn for it."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(path)
    recipes = {tensor.name: tensor.doc_string for tensor in model.graph.initializer if tensor.doc_string}
    for tensor in model.graph.initializer:
        if tensor.name in recipes:
            tensor.CopyFrom(numpy_helper.from_array(drawn.draw(tensor, 0), tensor.name))
    half = convert_float_to_float16(model, disable_shape_infer=True)
    for tensor in half.graph.initializer:
        tensor.doc_string = recipes.get(tensor.name, "")
    strip(half)
    _save(half, halved(path))


def strip(model: onnx.ModelProto) -> int:
    """Take the data of the weights out. Returns how many there were."""
    count = 0
    for tensor in model.graph.initializer:
        if is_weight(tensor):
            how = tensor.doc_string or recipe(numpy_helper.to_array(tensor).astype(np.float64))
            empty = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            empty.doc_string = how
            tensor.CopyFrom(empty)
            count += 1
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return count


def is_weight(tensor: onnx.TensorProto) -> bool:
    """True for a float matrix, and for a float vector that torch's exporter named by its path in the module
    ("layers.0.weight"). Constants are called "val_5" and are no matrices."""
    known = tensor.data_type in drawn.DTYPES
    return known and (len(tensor.dims) > 1 or (len(tensor.dims) == 1 and "." in tensor.name))


def recipe(array: np.ndarray[Any, Any]) -> str:
    """Say how to draw an array like this one. Positive ones (scales, variances) stay positive."""
    low, high = float(array.min()), float(array.max())
    if low > 0 and array.ndim == 1:
        return f"uniform {low:.6g} {max(high, low * 1.1):.6g}"
    spread = float(array.std())
    if spread < CONSTANT * max(abs(low), abs(high), 1e-6):
        spread = 0.02
    return f"normal {float(array.mean()):.6g} {spread:.6g}"


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Under its name only when it is complete."""
    part = path.with_suffix(".part")
    onnx.save_model(model, part)
    part.rename(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/bench/graphs"))
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME")
    parser.add_argument("--tiny", action="store_true", help="only the small ones")
    parser.add_argument("--work", type=Path, help="for the exported files; default: the system's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
