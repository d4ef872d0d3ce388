"""Measure what quantising after a merge costs, beside quantising each model first, for docs/quantise.md.

    python bench/quantise.py            prints the table
    python bench/quantise.py --write    writes it, too

Quantised by onnxruntime.quantization: dynamic for the small BERT, static for the small CNN. All figures are
ratios: changes and errors relative to the largest element of an output, times to those of the merged floats.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import quantize_dynamic, quantize_static

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from sample_models.export import export_family
from sample_models.families import FAMILIES

PAGE = Path(__file__).parent.parent / "docs" / "quantise.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
MODELS, ROUNDS, OUTLIER = 3, 30, 20.0
SIZES = {"batch": 2, "sequence": 16}
Arrays = Mapping[str, np.ndarray]
Quantise = Callable[[str, str], None]


class Calibration:
    """Inputs for static quantisation."""

    def __init__(self, path: str) -> None:
        self._calls = iter([drawn(path, seed) for seed in range(8)])

    def get_next(self) -> Arrays | None:
        return next(self._calls, None)


def dynamic(path: str, out: str) -> None:
    quantize_dynamic(path, out)


def static(path: str, out: str, *, per_channel: bool = False) -> None:
    quantize_static(path, out, Calibration(path), per_channel=per_channel)


def session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def drawn(path: str, seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    feeds = {}
    for index, port in enumerate(session(path).get_inputs()):
        rng = np.random.default_rng([seed, index])
        shape = [SIZES.get(dim, dim) for dim in port.shape]
        integers = port.type == "tensor(int64)"
        feeds[port.name] = (
            rng.integers(0, 2, shape) if integers else (scale * rng.standard_normal(shape)).astype(np.float32)
        )
        if "mask" in port.name:
            feeds[port.name][:] = 1
    return feeds


def results(path: str, feeds: Arrays) -> dict[str, np.ndarray]:
    """The last output of each model: logits, or what is pooled."""
    run = session(path)
    names = [port.name for port in run.get_outputs()]
    found = dict(zip(names, run.run(None, feeds), strict=True))
    return {name.split("/")[0]: value for name, value in found.items()}


def gap(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.abs(one - two).max() / np.abs(two).max())


# ------------------------------------------------------------------------ the ways


def with_outlier(path: str, out: str) -> str:
    """The model with one row of a weight times OUTLIER, which makes one channel large."""
    model = onnx.load(path)
    norms = [tensor for tensor in model.graph.initializer if tensor.name.endswith("LayerNorm.weight")]
    for tensor in (*norms, *model.graph.initializer):
        values = np.array(numpy_helper.to_array(tensor))
        if norms or (values.ndim in (2, 4) and values.dtype == np.float32):
            values.reshape(len(values), -1)[0] *= OUTLIER
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            break
    onnx.save(model, out)
    return out


def ways(paths: Sequence[str], quantise: Quantise, folder: Path, target: str = "generic") -> list[str]:
    """The merged floats, those quantised afterwards, and the merge of quantised sources."""
    merged, after, before = (str(folder / f"{name}.onnx") for name in ("merged", "after", "before"))
    names = [Path(path).stem.replace("-", "") for path in paths]
    netfuse_onnx.merge(paths, merged, names=names, verify=False, target=target)
    quantise(merged, after)
    each = [str(folder / f"q-{Path(path).name}") for path in paths]
    for path, out in zip(paths, each, strict=True):
        quantise(path, out)
    netfuse_onnx.merge(each, before, names=names, verify=False, target=target)
    return [merged, after, before]


def moved(path: str) -> float:
    """The largest change of another model's output when the inputs of the first one change."""
    feeds = drawn(path, 1)
    first = next(iter(feeds)).split("/")[0]
    others = {
        name: value for name, value in drawn(path, 2, scale=3.0).items() if name.startswith(f"{first}/")
    }
    before, after = results(path, feeds), results(path, feeds | others)
    return max(gap(after[name], before[name]) for name in before if name != first)


def errors(path: str, floats: str) -> float:
    """The largest error of a model but the first, beside the merged floats."""
    feeds = drawn(floats, 1)
    got, want = results(path, feeds), results(floats, feeds)
    return max(gap(got[name], want[name]) for name in list(want)[1:])


def times(paths: Sequence[str]) -> list[float]:
    """The times of calls, medians of rounds in which the files take turns, relative to the first."""
    runs = [session(path) for path in paths]
    feeds = drawn(paths[0], 1)
    taken: list[list[float]] = [[] for _ in paths]
    for _ in range(ROUNDS):
        for run, row in zip(runs, taken, strict=True):
            begin = time.perf_counter()
            run.run(None, feeds)
            row.append(time.perf_counter() - begin)
    medians = [float(np.median(row)) for row in taken]
    return [median / medians[0] for median in medians]


def per_channel(merged: str, folder: Path) -> str:
    """Return the outcome for a merged file that is quantised with a scale for each channel."""
    out = str(folder / "per-channel.onnx")
    try:
        static(merged, out, per_channel=True)
        worst = errors(out, merged)
    except Exception as error:  # whatever the quantiser or ONNX Runtime raises
        return f"does not run ({type(error).__name__})"
    return f"{100 * worst:.2g} %"


def measured(name: str, quantise: Quantise, folder: Path) -> list[Any]:
    """The cells of one family."""
    paths = [
        str(p) for p in export_family(FAMILIES[name], folder, count=MODELS, tiny=True, exporter="torchscript")
    ]
    merged, after, before = ways(paths, quantise, folder)
    row: list[Any] = [moved(after), moved(before), errors(after, merged), errors(before, merged)]
    row += times([merged, after, before])[1:]
    row.append(per_channel(merged, folder))
    row += times(ways(paths, quantise, folder, "cpu"))[1:]
    odd = folder / "outlier"
    odd.mkdir()
    large = [with_outlier(paths[0], str(odd / Path(paths[0]).name)), *paths[1:]]
    merged, after, before = ways(large, quantise, odd)
    return [*row, errors(after, merged), errors(before, merged)]


def table() -> str:
    rows = {}
    for name, quantise in (("bert", dynamic), ("cnn", static)):
        with tempfile.TemporaryDirectory() as folder:
            rows[f"{name}, {quantise.__name__}"] = measured(name, quantise, Path(folder))
    said = (
        ("another model's output moves when one model's input changes", 0, 1),
        ("error of the other models", 2, 3),
        ("the same, where one channel of the first model is 20 times as large", 9, 10),
    )
    lines = [f"| | {' | '.join(f'{name}: after | {name}: first' for name in rows)} |"]
    lines.append("|---|" + "---:|---:|" * len(rows))
    for what, after, first in said:
        cells = [f"{100 * row[k]:.2g} %" for row in rows.values() for k in (after, first)]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    for what, after, first in (("", 4, 5), (", all with `--target cpu`", 7, 8)):
        speed = [f"{row[k]:.2f}" for row in rows.values() for k in (after, first)]
        lines.append(f"| time of a call, merged floats = 1{what} | {' | '.join(speed)} |")
    channels = [cell for row in rows.values() for cell in (str(row[6]), "")]
    lines.append(f"| error with a scale for each channel (static) | {' | '.join(channels)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/quantise.md")
    given = parser.parse_args()
    text = table()
    sys.stdout.write(text)
    if given.write:
        page = PAGE.read_text("utf-8")
        head, rest = page.split(BEGIN)
        PAGE.write_text(head + BEGIN + text + END + rest.split(END)[1], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
