"""Measures bundles: how much of the sources' weights the views find in the merged file, and what that costs.

    python bench/views.py bert-0.onnx bert-1.onnx --count 8
    python bench/views.py mlp-0.onnx mlp-1.onnx --count 32 --target generic cpu --io stacked
    python bench/views.py base.onnx --adapter a/ --adapter b/ --adapter c/

Of two files, --count makes more, with other numbers in the weights that differ. Each line has the part of the
weights that is shared, the bytes beyond the merged file relative to it, whether all views gave what their
sources gave (bit for bit, or within the tolerance for adapters), and seconds: of a merge without and with
views, both without proofs; to load the merged file without and with them, and to load a view and its source
(the shortest of several, one thread). `call` is the time of a merged call with views over one without.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent.parent))

import netfuse_onnx
from bench import models
from netfuse_onnx.runtime import bundle

RATIO, OVERHEAD = 0.85, 0.02
"""The least part of the weights that is to be shared, and the most bytes beyond the merged file."""
KINDS = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="views-") as folder:
        paths = sources(args, Path(folder))
        rows = [row(paths, target, args, Path(folder)) for target in args.target]
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(each["ok"] for each in rows) else 1


def sources(args: argparse.Namespace, folder: Path) -> Sequence[str]:
    """The models to merge: those that are given, adapters of the one that is given, or copies of two."""
    if args.adapter:
        return netfuse_onnx.adapters(args.files[0], args.adapter)
    if args.count <= len(args.files):
        return list(args.files)
    paths = [folder / f"model-{k}.onnx" for k in range(args.count)]
    for path, given in zip(paths, args.files[:2], strict=False):
        path.symlink_to(os.path.abspath(given))
    models.multiply(paths)
    return list(map(str, paths))


def row(paths: Sequence[str], target: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Merge without views and with them, and measure both. Prints a line."""
    names = [f"m{k}" for k in range(len(paths))]
    asked: dict[str, Any] = {"names": names, "io": args.io, "target": target, "low_rank": args.low_rank}
    plain, out = str(folder / "plain.onnx"), str(folder / f"bundle-{target}")
    without = seconds(lambda: netfuse_onnx.merge(paths, plain, data="external", verify=False, **asked))
    report = None

    def merge() -> None:
        nonlocal report
        report = netfuse_onnx.merge(paths, out, views=True, verify=False, **asked)

    with_views = seconds(merge)
    assert report is not None and report.views is not None
    views, found = report.views, bundle.read(out)
    proof = netfuse_onnx.bundle(out, paths) if not args.no_proof else None
    ratio, overhead = views.share, views.stored / views.merged
    loads = {
        "merged": shortest([lambda: session(plain), lambda: session(found.merged_path)], args.rounds),
        "alone": shortest([lambda: session(paths[0]), lambda: session(found.view_paths[0])], args.rounds)
        if not args.adapter
        else [0.0, 0.0],
    }
    measured = calls(plain, found.merged_path, args)
    equal = "not run" if proof is None else "yes" if proof.ok else "NO"
    print(
        f"{Path(args.files[0]).stem} x{len(paths)} {args.io} {target}: {ratio:.1%} shared, "
        f"{overhead:.2%} more than the merged file ({views.merged / 1e6:.1f} MB), outputs equal: {equal}; "
        f"merge {without:.1f} -> {with_views:.1f} s; load merged {loads['merged'][0]:.2f} -> "
        f"{loads['merged'][1]:.2f} s, source {loads['alone'][0]:.3f} -> view {loads['alone'][1]:.3f} s; "
        f"call {measured[1] / measured[0] if measured[0] else float('nan'):.3f}; rows apart: "
        f"{'yes' if views.rows_apart else views.mixes}",
        flush=True,
    )
    for weight in views.weights[:5]:
        print(f"    again: {weight.weight} {weight.bytes} bytes x {weight.copies}: {weight.why}")
    ok = ratio >= RATIO and overhead <= OVERHEAD and (proof is None or proof.ok)
    return {
        "models": len(paths), "target": target, "io": args.io, "shared": ratio, "overhead": overhead,
        "merged": views.merged, "stored": views.stored, "equal": equal, "merge": [without, with_views],
        "load": loads, "call": measured, "ok": ok,
    }  # fmt: skip


def calls(plain: str, merged: str, args: argparse.Namespace) -> list[float]:
    """The shortest times of a call of both merged files, in turns; zeros where no inputs were found."""
    both = [session(path) for path in (plain, merged)]
    given = feeds(both[0], args.size)
    try:
        return shortest([lambda one=one: one.run(None, given) for one in both], 10 * args.rounds)  # type: ignore[misc]
    except Exception as error:
        print(f"    no calls were measured: {str(error)[:100]}")
        return [0.0, 0.0]


def feeds(runner: ort.InferenceSession, size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Ones for every input, with a batch of 1 and `size` for all other open axes."""
    made = {}
    for port in runner.get_inputs():
        shape = [
            dim if isinstance(dim, int) else 1 if "batch" in str(dim) or k == 0 else size
            for k, dim in enumerate(port.shape)
        ]
        made[port.name] = np.ones(shape, KINDS[port.type])
    return made


def session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def shortest(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The shortest time of each, in turns."""
    return [
        min(each) for each in zip(*([seconds(work) for work in works] for _ in range(rounds)), strict=True)
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--io", default="separate")
    parser.add_argument("--target", nargs="+", default=["generic"])
    parser.add_argument("--low-rank", type=float)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-proof", action="store_true")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
