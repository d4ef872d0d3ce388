"""Families of tabular models against other ways to run them: linear models, small networks, trees.

    python bench/tabular.py                                # all families, 8 and 37 models, batches 1, 10, 100
    python bench/tabular.py --only logistic mlp --models 8 --batches 1 --io stacked shared
    python bench/tabular.py --files DIR                    # merges DIR/*.onnx

The models of `FAMILIES` are trained by scikit-learn, and exported by skl2onnx, xgboost and lightgbm by
onnxmltools; neither is needed for anything else here, and families that can't be exported are left out.

A row is a family, a number of models, a batch and a kind of I/O: `separate`, `stacked`, or `shared`, where
all models read one input, with stacked outputs. It has the nodes of the models side by side and of the merged
file, and how many times faster that is than the models side by side in one graph and one after the other, by
the shortest time of each in turns. Each call has other rows than the one before, since a processor learns the
branches that trees take. Outputs are compared by the proofs of the merge.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from netfuse_onnx.measure.sidebyside import sidebyside

COLUMNS, ROWS = 12, 400
TURNS = 16
IO = ("separate", "stacked", "shared")
FOREST = {"n_estimators": 10, "max_depth": 4}


# --------------------------------------------------------------------------- families


def _sklearn(
    module: str, name: str, classes: int, scaled: bool = False, **how: Any
) -> Callable[[int], bytes]:
    def export(seed: int) -> bytes:
        import importlib

        from skl2onnx import to_onnx
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        estimator = getattr(importlib.import_module(f"sklearn.{module}"), name)(**how)
        x, y = drawn(seed, classes)
        model = make_pipeline(StandardScaler(), estimator) if scaled else estimator
        options = {"zipmap": False} if classes else None
        made: bytes = to_onnx(model.fit(x, y), x[:1], options=options).SerializeToString()
        return made

    return export


def _boosted(package: str, classes: int) -> Callable[[int], bytes]:
    def export(seed: int) -> bytes:
        import importlib

        import onnxmltools
        from onnxmltools.convert.common.data_types import FloatTensorType

        names = {"xgboost": "XGB", "lightgbm": "LGBM"}
        name = f"{names[package]}{'Classifier' if classes else 'Regressor'}"
        quiet = {"verbose": -1} if package == "lightgbm" else {}
        model = getattr(importlib.import_module(package), name)(**FOREST, **quiet).fit(*drawn(seed, classes))
        convert = getattr(onnxmltools, f"convert_{package}")
        options = {"zipmap": False} if package == "lightgbm" and classes else {}
        made: bytes = convert(
            model, initial_types=[("X", FloatTensorType([None, COLUMNS]))], **options
        ).SerializeToString()
        return made

    return export


def drawn(seed: int, classes: int) -> tuple[Any, Any]:
    """Rows and labels, or numbers, that differ between the models."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    if not classes:
        return x, x @ rng.standard_normal(COLUMNS) + np.sin(3 * x[:, 0])
    return x, (x @ rng.standard_normal((COLUMNS, classes))).argmax(1)


FAMILIES: Mapping[str, Callable[[int], bytes]] = {
    "linear": _sklearn("linear_model", "LinearRegression", 0),
    "logistic": _sklearn("linear_model", "LogisticRegression", 2),
    "logistic of 3": _sklearn("linear_model", "LogisticRegression", 3),
    "scaled logistic of 3": _sklearn("linear_model", "LogisticRegression", 3, scaled=True),
    "mlp": _sklearn("neural_network", "MLPClassifier", 3, hidden_layer_sizes=(16,), max_iter=20),
    "scaled mlp": _sklearn(
        "neural_network", "MLPClassifier", 3, True, hidden_layer_sizes=(32, 16), max_iter=20
    ),
    "forest": _sklearn("ensemble", "RandomForestRegressor", 0, **FOREST),
    "large forest": _sklearn("ensemble", "RandomForestRegressor", 0, n_estimators=50, max_depth=6),
    "boosting": _sklearn("ensemble", "GradientBoostingRegressor", 0, **FOREST),
    "boosting of 2": _sklearn("ensemble", "GradientBoostingClassifier", 2, **FOREST),
    "boosting of 3": _sklearn("ensemble", "GradientBoostingClassifier", 3, **FOREST),
    "forest of 3": _sklearn("ensemble", "RandomForestClassifier", 3, **FOREST),
    "xgboost of 3": _boosted("xgboost", 3),
    "lightgbm of 2": _boosted("lightgbm", 2),
}


def files(name: str, folder: Path, count: int) -> list[str]:
    """`count` models of a family, written where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"m{seed:02d}.onnx" for seed in range(count)]
    for seed, path in enumerate(paths):
        if not path.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path.write_bytes(FAMILIES[name](seed))
    return [str(path) for path in paths]


# --------------------------------------------------------------------------- runs


def session(path: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(runner: ort.InferenceSession, x: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The rows [N, B, C], or one model's [B, C], as the inputs of a session: one each, or all in one."""
    inputs = runner.get_inputs()
    each = list(x) if len(inputs) > 1 else [x]
    return {given.name: np.ascontiguousarray(value) for given, value in zip(inputs, each, strict=True)}


def rows_of(models: int, batch: int, turn: int, shared: bool) -> np.ndarray[Any, Any]:
    """Rows [N, B, C] of one turn."""
    x = np.random.default_rng((batch, turn)).standard_normal((models, batch, COLUMNS)).astype(np.float32)
    return np.broadcast_to(x[:1], x.shape) if shared else x


def shortest(
    runs: Mapping[str, Callable[[Any], object]], turns: Iterator[Any], seconds: float
) -> dict[str, float]:
    """The shortest time of each run, in turns, each with the same rows."""
    best = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        fed = next(turns)
        for name, run in runs.items():
            begin = time.perf_counter()
            run(fed)
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def measured(paths: Sequence[str], how: argparse.Namespace, io: str, folder: str) -> list[dict[str, Any]]:
    """A row for each batch."""
    merged = str(Path(folder) / "merged.onnx")
    source = onnx.load(paths[0], load_external_data=False).graph
    share = [given.name for given in source.input] if io == "shared" else []
    netfuse_onnx.merge(
        paths, merged, io="separate" if io == "separate" else "stacked", share=share, target=how.target
    )
    beside = sidebyside(paths, folder)
    nodes = [len(onnx.load(path, load_external_data=False).graph.node) for path in (beside, merged)]
    one, apart, all_ = (
        session(merged, how.threads),
        session(beside, how.threads),
        [session(path, how.threads) for path in paths],
    )
    rows = []
    for batch in how.batches:
        each = [rows_of(len(paths), batch, turn, io == "shared") for turn in range(TURNS)]
        turns = itertools.cycle(
            (
                feeds(one, x[0] if io == "shared" else x),
                feeds(apart, x),
                [feeds(alone, x[m]) for m, alone in enumerate(all_)],
            )
            for x in each
        )
        runs: dict[str, Callable[[Any], object]] = {
            "merged": lambda fed: one.run(None, fed[0]),
            "side by side": lambda fed: apart.run(None, fed[1]),
            "sequence": lambda fed: [alone.run(None, x) for alone, x in zip(all_, fed[2], strict=True)],
        }
        times = shortest(runs, turns, how.seconds)
        rows.append({"batch": batch, "io": io, "nodes": nodes, **times})
    return rows


def table(name: str, count: int, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        times = [row[key] for key in ("merged", "side by side", "sequence")]
        ratios = [f"{value / times[0]:6.2f}" for value in times[1:]]
        nodes = "{:5} ->{:5}".format(*row["nodes"])
        said = f"{name:22}{count:4}{row['batch']:5} {row['io']:9}{nodes}"
        print(
            f"{said}  {times[0] * 1e6:9.1f} us  {ratios[0]} x side by side {ratios[1]} x sequence", flush=True
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--files", type=Path, help="a folder with models of one family")
    parser.add_argument("--models", nargs="+", type=int, default=[8, 37])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 10, 100])
    parser.add_argument("--io", nargs="+", choices=IO, default=list(IO))
    parser.add_argument("--target", default="generic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each row")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "results" / "tabular")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    how, results = arguments(), []
    for name in [str(how.files)] if how.files else how.only:
        for count in how.models:
            try:
                paths = (
                    sorted(map(str, how.files.glob("*.onnx")))[:count]
                    if how.files
                    else files(name, how.folder / name.replace(" ", "_"), count)
                )
            except ImportError as missing:
                print(f"{name}: left out, {missing}", file=sys.stderr)
                break
            for io in how.io:
                with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
                    rows = measured(paths, how, io, folder)
                table(name, count, rows)
                results += [{"family": name, "models": count, **row} for row in rows]
    if how.json:
        how.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
