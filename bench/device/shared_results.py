"""Keeps what is worth keeping of `run.py --steps shared`, without samples: a line for each case with times,
then one for each file whose values were compared.

    python bench/device/shared_results.py OUT bench/results/cuda/shared.jsonl
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DROPPED = ("verdict", "snippet", "profile", "waiting")
"""These fields follow from the rows, or are of calls that want some of the models."""
ABSOLUTE = re.compile(r"(?<!\S)(/[^\s/]+)+/")
"""The folders of a path."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, help="the folder that the kit wrote")
    parser.add_argument("kept", type=Path, help="the file to write")
    given = parser.parse_args()
    lines = [*times(given.out / "results.jsonl"), *values(given.out / "shared.jsonl")]
    given.kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return 0


def times(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the cases with medians and quartiles."""
    for line in path.read_text().splitlines():
        case = json.loads(line)
        rows = [{**row, "samples": []} for row in case["rows"]]
        yield {**{name: value for name, value in case.items() if name not in DROPPED}, "rows": rows}


def values(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the files: how many calls were compared and refused, and the largest error in exact float32."""
    files: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        check = json.loads(line)
        files.setdefault(check["file"], []).append(check)
    for name, checks in files.items():
        yield {
            "file": name,
            "calls": sum(check.get("calls", 0) for check in checks),
            "refused": sum(check.get("refused", 0) for check in checks),
            "worst": max((c.get("worst", 0.0) for c in checks if not c.get("tf32")), default=0.0),
            "graph": any(c.get("way") == "CUDA graph" and not c.get("said") for c in checks),
            "wrong": [ABSOLUTE.sub("", text) for check in checks for text in check["wrong"]],
        }


if __name__ == "__main__":
    sys.exit(main())
