"""Lists the ways that take part in a comparison, with the settings that each may try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from netfuse_onnx.measure import contenders
from netfuse_onnx.measure.contenders import Concurrent, InSequence, NotWaiting, OneGraph, SideBySide
from netfuse_onnx.measure.processes import Processes
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.sidebyside import sidebyside
from netfuse_onnx.measure.workload import Workload

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "FusedConv"})


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
    also: tuple[type[InSequence], ...] = ()
    """Other ways to use the sessions that this one has loaded."""
    late: bool = False
    """True where, one after the other, it has its turn after all that are not late."""


def entries(work: Workload, merged: Sequence[MergedFile], folder: str) -> list[Entry]:
    """Return every way that the provider has. Files that a way needs go into `folder`."""
    if work.runtime.provider == "cuda":
        return _on_cuda(work, merged, folder)
    size, one = sum(work.sizes), (Settings(),)
    beside = partial(SideBySide, work, path=str(Path(folder) / "sidebyside.onnx"))
    write = partial(sidebyside, work.paths, folder)
    ways = [
        Entry(InSequence.kind, "in sequence", partial(InSequence, work), sessions(work), size),
        Entry(Concurrent.kind, "concurrent", partial(Concurrent, work), one, size),
        Entry(Processes.kind, "processes", partial(Processes, work), one, size),
        Entry(SideBySide.kind, "side by side", beside, graphs(work), size, prepare=write, writes=size),
    ]
    return [*ways, *(_merged(work, file, graphs(work)) for file in merged)]


def _on_cuda(work: Workload, merged: Sequence[MergedFile], folder: str) -> list[Entry]:
    """Return the ways on CUDA: all have the same settings to choose from. The sequence comes first, because
    it tells the right outputs, without a CUDA graph. The others begin with one: that is the fastest, and what
    a short time must not leave out."""
    size, first = sum(work.sizes), on_cuda(work)
    some = (first[1], first[0], *first[2:])
    beside = partial(SideBySide, work, path=str(Path(folder) / "sidebyside.onnx"))
    write = partial(sidebyside, work.paths, folder)
    return [
        Entry(InSequence.kind, "in sequence", partial(InSequence, work), first, size, also=(NotWaiting,)),
        *(_merged(work, file, some) for file in merged),
        Entry(Concurrent.kind, "concurrent", partial(Concurrent, work), some, size),
        Entry(SideBySide.kind, "side by side", beside, some, size, prepare=write, writes=size, late=True),
        Entry(Processes.kind, "processes", partial(Processes, work), some, size, late=True),
    ]


def _merged(work: Workload, file: MergedFile, choices: tuple[Settings, ...]) -> Entry:
    make = partial(OneGraph, work, path=file.path, io=file.io, share=file.share)
    return Entry(OneGraph.kind, file.label, make, choices, file.size, merged=True)


def on_cuda(work: Workload) -> tuple[Settings, ...]:
    """Return the settings on CUDA, in the order in which they are measured. Only convolutions have layouts to
    choose from, and only float32 has TF32."""
    convolves = any(node.op in CONVOLUTIONS for node in work.trial.family.graph.nodes)
    some = [Settings(), Settings(graph=True)]
    some += [Settings(exact=True)] if work.exact else []
    some += [Settings(graph=True, nhwc=True), Settings(nhwc=True)] if convolves else []
    return tuple(some)


def sessions(work: Workload) -> tuple[Settings, ...]:
    """Return the settings for one session after the other. On the CPU the spinning threads of sessions that
    wait may take cores from the one that runs, so settings without spinning are among them."""
    if work.cores == 1:
        return (Settings(),)
    cores = work.cores
    return (Settings(), Settings(cores, spin=False), Settings(cores, rest=True), Settings(cores))


def named(work: Workload, text: str) -> Settings | None:
    """Return the settings that a row shows as this text."""
    every = (*graphs(work), *(on_cuda(work) if work.runtime.provider == "cuda" else ()))
    return next((settings for settings in every if str(settings) == text), None)


def graphs(work: Workload) -> tuple[Settings, ...]:
    """Return the settings for one graph: threads that share an operator, or that run branches."""
    if work.cores == 1:
        return (Settings(),)
    return (*sessions(work), Settings(branches=work.cores))
