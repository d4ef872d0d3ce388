"""Lists the ways that take part in a comparison, with the settings that each may try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from netfuse_onnx.measure import contenders
from netfuse_onnx.measure.contenders import Concurrent, CudaGraphs, InSequence, OneGraph, SideBySide
from netfuse_onnx.measure.processes import Processes
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.sidebyside import sidebyside
from netfuse_onnx.measure.workload import Workload


@dataclass(frozen=True, slots=True)
class MergedFile:
    """A merged model: its label, its I/O mode and shared inputs. `size` is the bytes of its files."""

    label: str
    path: str
    io: str = "separate"
    share: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A way to run the models, and the settings to choose from. `size` is the bytes of the files that it
    loads; `prepare` writes files that it needs."""

    kind: str
    label: str
    make: Callable[[Settings], contenders.Contender]
    choices: tuple[Settings, ...]
    size: int
    merged: bool = False
    prepare: Callable[[], object] = lambda: None
    writes: int = 0
    """The bytes that `prepare` writes."""


def entries(work: Workload, merged: Sequence[MergedFile], folder: str) -> list[Entry]:
    """Return every way that the provider has. Files that a way needs go into `folder`."""
    cuda, size = work.runtime.provider == "cuda", sum(work.sizes)
    one = (Settings(),)
    beside = partial(SideBySide, work, path=str(Path(folder) / "sidebyside.onnx"))
    write = partial(sidebyside, work.paths, folder)
    ways = [
        Entry(InSequence.kind, "in sequence", partial(InSequence, work), sessions(work), size),
        Entry(Concurrent.kind, "concurrent", partial(Concurrent, work), one, size),
        Entry(Processes.kind, "processes", partial(Processes, work), one, size),
        Entry(SideBySide.kind, "side by side", beside, graphs(work), size, prepare=write, writes=size),
    ]
    if cuda:
        graph = (Settings(graph=True),)
        ways.insert(1, Entry(CudaGraphs.kind, CudaGraphs.kind, partial(CudaGraphs, work), graph, size))
    for file in merged:
        make = partial(OneGraph, work, path=file.path, io=file.io, share=file.share)
        ways.append(Entry(OneGraph.kind, file.label, make, graphs(work), file.size, merged=True))
    return ways


def sessions(work: Workload) -> tuple[Settings, ...]:
    """Return the settings for one session after the other. On the CPU the spinning threads of sessions that
    wait may take cores from the one that runs, so settings without spinning are among them."""
    if work.runtime.provider == "cuda" or work.cores == 1:
        return (Settings(),)
    cores = work.cores
    return (Settings(), Settings(cores, spin=False), Settings(cores, rest=True), Settings(cores))


def graphs(work: Workload) -> tuple[Settings, ...]:
    """Return the settings for one graph: threads that share an operator, or that run branches."""
    if work.runtime.provider == "cuda":
        return (Settings(), Settings(graph=True))
    if work.cores == 1:
        return (Settings(),)
    return (*sessions(work), Settings(branches=work.cores))
