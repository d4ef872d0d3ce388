"""Compares what a tuned plan is expected to take with what its merged graph takes.

    python bench/predictions.py FOLDER...                  # each with two or more models of one family
    python bench/predictions.py --count 8 --io separate --seconds 60 --dim batch=1 FOLDER...

The models of a folder are merged in turn until there are --count. The merged graphs by the plan for this
machine, for `--target cpu` and for `generic` run in one session each, in turns, and the shortest time counts;
a session has all cores, and its inputs and outputs are bound. Right means within a quarter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent.parent))

from netfuse_onnx import sources
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.match.matcher import match
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.planner import plan
from netfuse_onnx.plan.sized import assumed
from netfuse_onnx.rewrite.passes import rewritten
from netfuse_onnx.run import hardware
from netfuse_onnx.run.observe import observed
from netfuse_onnx.run.runtime import RunFailed, Runtime
from netfuse_onnx.storage import weights
from netfuse_onnx.tune.clock import Clock, Run, in_turns
from netfuse_onnx.tune.tuner import tuned
from netfuse_onnx.types import Correspondence, Plan

QUARTER = 0.25


def main() -> int:
    given = _arguments()
    dims = {name: int(size) for name, size in (item.split("=") for item in given.dim)}
    rows = []
    for folder in given.folders:
        try:
            rows.append(row(folder, given, dims))
        except RunFailed as error:
            print(f"{folder.name:24} {error}", flush=True)
            continue
        print(line(rows[-1]), flush=True)
    right = sum(abs(one["predicted"] / one["tuned"] - 1.0) <= QUARTER for one in rows)
    print(f"within a quarter: {right} of {len(rows)}")
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def row(folder: Path, given: argparse.Namespace, dims: Mapping[str, int]) -> dict[str, Any]:
    """Predicted and measured microseconds of one family."""
    family = family_of(sorted(folder.glob("*.onnx"))[: given.count], given.count)
    begun = time.monotonic()
    by_times = tuned(
        family, io=given.io, runtime=Runtime("cpu"), dims=dims, seconds=given.seconds, threads=given.threads
    )
    spent = time.monotonic() - begun
    plans = {
        "tuned": plan(family, io=given.io, cost=by_times),
        "cpu": plan(family, io=given.io, cost=cost("cpu", family, dims)),
        "generic": plan(family, io=given.io),
    }
    with tempfile.TemporaryDirectory(dir=given.work) as place:
        runs = {name: ready(family, chosen, given, dims, place) for name, chosen in plans.items()}
        quick = in_turns([*runs.values()], 3)
        rounds = max(5, min(1000, int(given.each * 1e6 / sum(quick))))
        times = dict(zip(runs, in_turns([*runs.values()], rounds), strict=True))
    expected = plans["tuned"].prediction
    return {
        "family": folder.name,
        "predicted": sum(expected.parts.values()) if expected else 0.0,
        "by target": plans["cpu"].cost,
        **times,
        "measured": by_times.summary.measured,
        "cached": by_times.summary.cached,
        "seconds": round(spent, 1),
    }


def line(one: Mapping[str, Any]) -> str:
    best = min(one[name] for name in ("tuned", "cpu", "generic"))
    ratio, own = one["predicted"] / one["tuned"], one["by target"] / one["cpu"]
    return (
        f"{one['family']:24} predicted {one['predicted']:10.0f} us, took {one['tuned']:10.0f} us, "
        f"ratio {ratio:5.2f} (the target's own {own:5.2f}); "
        f"cpu {one['cpu']:10.0f}, generic {one['generic']:10.0f}, "
        f"best over tuned {best / one['tuned']:5.2f}; "
        f"{one['measured']} measured, {one['cached']} cached, {one['seconds']} s"
    )


def family_of(paths: list[Path], count: int) -> Correspondence:
    """The models of some files in turn."""
    turns = [str(paths[k % len(paths)]) for k in range(count)]
    names = [f"m{k}" for k in range(count)]
    return rewritten(match(sources.read(turns), names, partial=False, complete=observed), "cpu")


def ready(
    family: Correspondence, chosen: Plan, given: argparse.Namespace, dims: Mapping[str, int], place: str
) -> Run:
    """A session of the merged graph, with random inputs."""
    merged = lower(family, chosen, io=given.io)
    model = merged.model
    for tensor in model.graph.initializer:
        if tensor.name in merged.recipes:
            tensor.ClearField("data_location")
            tensor.raw_data = b"".join(weights.stream(merged.recipes[tensor.name]))
    path = str(Path(place) / f"{len(list(Path(place).iterdir()))}.onnx")
    onnx.save_model(model, path, save_as_external_data=True, location=f"{Path(path).name}.data")
    return Clock(Runtime("cpu"), given.threads, left_out=()).ready(
        path, feeds(model, assumed(family.graph, dims))
    )


def feeds(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, np.ndarray[Any, Any]]:
    rng, made = np.random.default_rng(0), {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        named = [
            dim.dim_param.rpartition("/")[2] if dim.dim_param else dim.dim_value for dim in kind.shape.dim
        ]
        shape = [sizes.get(dim, 1) if isinstance(dim, str) else dim for dim in named]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        made[value.name] = np.zeros(shape, dtype) if dtype.kind in "iub" else rng.random(shape).astype(dtype)
    return made


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="models merged; default: 8")
    parser.add_argument("--io", choices=("separate", "stacked"), default="stacked")
    parser.add_argument("--seconds", type=float, default=60.0, help="of tuning; default: 60")
    parser.add_argument("--each", type=float, default=6.0, help="seconds of measuring the graphs; default: 6")
    parser.add_argument("--threads", type=int, default=hardware.cores())
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=SIZE")
    parser.add_argument("--work", type=Path, help="for the merged files; default: the system's")
    parser.add_argument("--out", type=Path, help="for the figures, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
