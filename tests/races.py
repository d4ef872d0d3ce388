"""Races merges to one target: in pairs, killed at any moment, and beside readers.

    python tests/races.py                                    # `make races`: some minutes
    python tests/races.py --pairs 20 --merges 10 --kills 20 --every 7

Prints what was counted, and what went wrong; exit code 1 if anything did.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from racing import trials
from racing.orders import duels
from racing.trials import Tally


def orders(every: int) -> Tally:
    """Two commits in all orders of their system calls with up to two changes of turn, with and without a kill of the
    first; `every`: of the moments at which the second comes in, one in so many."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="orders-") as folder:
        for name, duel in duels(Path(folder)).items():
            for before in range(0, duel.length() + 1, every):
                for killed in (False, True):
                    free, between = True, 0
                    while free:
                        tally.counts[f"orders of two commits, {name}"] += 1
                        try:
                            free = duel.run(before, between, killed=killed)
                        except AssertionError as error:
                            tally.faults.append(f"{name}, {before}, {between}, killed {killed}: {error}")
                            break
                        between += 1
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, value in (("pairs", 200), ("merges", 100), ("kills", 200), ("every", 1), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    parts = (
        lambda: trials.pairs(given.pairs, given.seed),
        lambda: trials.readers(given.merges, given.seed),
        lambda: trials.kills(given.kills, given.seed),
        lambda: orders(given.every),
    )
    faults: list[str] = []
    for part in parts:
        began = time.monotonic()
        tally = part()
        lines = [f"{count:8,}  {what}" for what, count in sorted(tally.counts.items())]
        lines += [f"          WRONG: {fault}" for fault in tally.faults[:10]]
        lines.append(f"          {len(tally.faults)} wrong, {time.monotonic() - began:.0f} s")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        faults += tally.faults
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
