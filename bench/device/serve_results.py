"""Keeps what is worth keeping of `run.py --steps serve`: a line for each case, with its times and a summary
of the values that were compared. The first times of a case count, and the values of all runs.

    python bench/device/serve_results.py OUT [OUT ..] bench/results/cuda/serve.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, nargs="+", help="the folders that the kit wrote")
    parser.add_argument("kept", type=Path, help="the file to write")
    given = parser.parse_args()
    texts = [(out / "serve.jsonl").read_text() for out in given.out]
    parts = [json.loads(line) for text in texts for line in text.splitlines()]
    given.kept.write_text("".join(json.dumps(line) + "\n" for line in kept(parts)))
    return 0


def kept(parts: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a line for each case: the quartiles of each way in milliseconds, to a microsecond, and the number
    of comparisons of values, of those that failed, the largest error and the smallest difference of two
    models, as parts of the largest value."""
    for case in dict.fromkeys(part["case"] for part in parts):
        own = [part for part in parts if part["case"] == case]
        ms: dict[str, list[float]] = {}
        for part in own:
            if part["part"] == "times":
                for way, quartiles in part["ms"].items():
                    ms.setdefault(way, [round(value, 3) for value in quartiles])
        checks = [part for part in own if part["part"] == "values"]
        yield {
            "served": case,
            "ms": ms,
            "checks": len(checks),
            "failed": sum(not part["good"] for part in checks),
            "error": max((part["error"] for part in checks if "error" in part), default=None),
            "apart": min((part["apart"] for part in checks if "apart" in part), default=None),
        }


if __name__ == "__main__":
    sys.exit(main())
