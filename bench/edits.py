"""Random single edits of one of two models that were written differently: each must be refused by name, or
merge into a file that gives what the edited model gives.

    python bench/edits.py --count 2000

The pairs are those of tests/test_normal_forms_pairs.py, random graphs beside their one spelling, and with
--exported small networks of both exporters of PyTorch. An edit that merged and gave other values makes the
exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import edits
from formed_graphs import graph
from test_normal_form_edits import other_spelling
from test_normal_forms_pairs import PAIRS, model

from netfuse_onnx.errors import NetfuseError
from sample_models.exported import NETWORKS
from sample_models.written import Way, write

Pair = tuple[Path, Path]
WAYS = (Way("dynamo", 18), Way("torchscript", 17))


def spelled_pairs(folder: Path) -> Iterator[Pair]:
    """Yield each pair of the tests."""
    for k, (dims, *bodies) in enumerate(PAIRS.values()):
        paths = [folder / f"spelled{k}{letter}.onnx" for letter in "ab"]
        for seed, (path, body) in enumerate(zip(paths, bodies, strict=True)):
            onnx.save(model(dims, body, seed), path)
        yield paths[0], paths[1]


def random_pairs(count: int, folder: Path) -> Iterator[Pair]:
    """Yield random graphs with what they are in the one spelling."""
    for seed in range(count):
        given, _ = graph(seed)
        with contextlib.suppress(NetfuseError):
            paths = [folder / f"random{seed}{letter}.onnx" for letter in "ab"]
            onnx.save(other_spelling(given, folder, np.random.default_rng(seed)), paths[1])
            onnx.save(given, paths[0])
            yield paths[0], paths[1]


def exported_pairs(names: list[str], folder: Path) -> Iterator[Pair]:
    """Yield small networks as both exporters write them."""
    for name in names:
        network = NETWORKS[name]
        paths = [folder / f"{name}{letter}.onnx" for letter in "ab"]
        for seed, (path, way) in enumerate(zip(paths, WAYS, strict=True)):
            with contextlib.redirect_stdout(io.StringIO()):
                write(network.build(True), network.family, network.inputs(True), way, path, seed)
        yield paths[0], paths[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="edits that a runtime accepts")
    parser.add_argument("--random", type=int, default=60, help="random graphs")
    parser.add_argument("--exported", nargs="*", default=[], choices=list(NETWORKS), help="networks")
    parser.add_argument("--seconds", type=float, default=600, help="the longest time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, tally, invalid = random.Random(options.seed), edits.Tally(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = [*spelled_pairs(folder), *random_pairs(options.random, folder)]
        large = list(exported_pairs(options.exported, folder))
        end = time.monotonic() + options.seconds
        while tally.count < options.count and time.monotonic() < end:
            pair = draw.choice(large if large and draw.random() < 0.1 else small)
            a, b = pair if draw.random() < 0.5 else pair[::-1]
            invalid += not edits.trial(a, b, draw.choice(list(edits.EDITS)), draw, folder, tally)
    print(f"{tally.refused.total()} refused, {len(tally.unnamed)} of them without the file's name")
    print(f"{tally.merged.total()} merged, {len(tally.wrong)} of them with other values; {invalid} not valid")
    print("refused:", dict(tally.refused), "merged:", dict(tally.merged))
    print(*tally.unnamed[:20], *tally.wrong, sep="\n")
    return int(bool(tally.wrong))


if __name__ == "__main__":
    raise SystemExit(main())
