"""Measures the constants of the cost model on the machine at hand, and writes netfuse_onnx/targets/NAME.json.

    python bench/calibrate.py                        # the CPU
    python bench/calibrate.py --provider cuda
    python bench/calibrate.py --out mine.json        # for merge --target mine.json

netfuse_onnx/tune/calibrate.py measures those of a CPU, bench/cards.py those of a GPU, within 90 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import cards
from netfuse_onnx.run import hardware
from netfuse_onnx.tune.calibrate import Timer, measured, provenance

TARGETS = Path(__file__).parent.parent / "netfuse_onnx" / "targets"
PROVIDERS = ("cpu", "cuda")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", default="cpu", choices=PROVIDERS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7, help="of a case in a sweep; default: 7")
    parser.add_argument("--sweeps", type=int, default=4, help="over all cases; default: 4")
    parser.add_argument("--out", type=Path, help="default: the installed target of that provider")
    parser.add_argument("--seconds", type=float, default=cards.SECONDS, help="for CUDA; default: %(default)g")
    given = parser.parse_args()
    out = given.out or TARGETS / f"{given.provider}.json"
    if given.provider == "cuda":
        write(out, cuda(given.threads, given.seconds))
        return
    constants = measured(Timer(given.threads, given.rounds), given.sweeps)
    write(out, {"provenance": provenance(given.provider, given.threads), **constants})


def cuda(threads: int, seconds: float) -> dict[str, object]:
    """The installed constants of CUDA, measured anew."""
    installed = json.loads((TARGETS / "cuda.json").read_text())
    about = provenance("cuda", threads) | {"device": hardware.gpu_name()}
    about["sources"] = installed["provenance"]["sources"]
    return {**installed, "provenance": about, "constants": cards.measured(installed, seconds)}


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
