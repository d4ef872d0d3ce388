"""Makes the merged files of a case, several at once where a machine has the cores."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import netfuse_onnx
from netfuse_onnx.measure.entries import MergedFile

ROOM = 1.03
"""A merged file takes at most so many times the size of its sources."""


@dataclass(frozen=True)
class Plan:
    """A merged file to make: its target and its I/O mode."""

    target: str
    io: str

    @property
    def label(self) -> str:
        return f"merged, {self.target}" + (", stacked" if self.io == "stacked" else "")


def merged(
    plans: Sequence[Plan],
    paths: Sequence[str],
    names: Sequence[str],
    folder: Path,
    dims: Mapping[str, int],
    processes: int,
) -> tuple[list[MergedFile], list[str]]:
    """Make the files for which there is room, the first ones first. Plans that give the same file are one.
    Returns the files, and what can't be made with the reason."""
    needed = sum(Path(path).stat().st_size for path in (*paths, *_data(paths)))
    room = int(shutil.disk_usage(folder).free / (ROOM * max(needed, 1)))
    notes = [f"{plan.label}: there is no room for the file" for plan in plans[room:]]
    jobs = [(plan, list(paths), list(names), str(folder), dict(dims)) for plan in plans[:room]]
    if processes > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            made = [*pool.map(_merge, jobs)]
    else:
        made = [_merge(job) for job in jobs]
    found: dict[str, MergedFile] = {}
    for (plan, *_), (lowered, file, problem) in zip(jobs, made, strict=True):
        if file is None:
            notes.append(f"{plan.label}: {problem}")
        elif lowered in found:
            notes.append(f"{plan.label} is the same as {found[lowered].label}")
            Path(file.path).unlink()
            for data in Path(folder).glob(f"{Path(file.path).stem}-*.data"):
                data.unlink()
        else:
            found[lowered] = file
    return list(found.values()), notes


def _merge(
    job: tuple[Plan, list[str], list[str], str, dict[str, int]],
) -> tuple[str, MergedFile | None, str]:
    """Make one file. Returns what its plan came out as, and the file or the reason why there is none."""
    plan, paths, names, folder, dims = job
    out = str(Path(folder) / f"{plan.target}-{plan.io}.onnx")
    try:
        report = netfuse_onnx.merge(
            paths, out, names=names, io=plan.io, target=plan.target, verify=False, dims=dims
        )
    except netfuse_onnx.NetfuseError as error:
        return "", None, error.message
    return repr((plan.io, report.lowered)), MergedFile(plan.label, out, plan.io, (), report.size), ""


def _data(paths: Sequence[str]) -> Iterator[Path]:
    for path in paths:
        with suppress(OSError):
            data = Path(path).with_suffix(".data")
            if data.exists():
                yield data
