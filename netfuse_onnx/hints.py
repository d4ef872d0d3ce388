"""Hints: sentences on options that are expected to make a merged file faster, from the facts of its report.

Each says the fact that it rests on. A report without such facts has no hints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from netfuse_onnx import edges
from netfuse_onnx.dims import Sizes, points
from netfuse_onnx.lowered import Merged
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.outlook import Outlook, outlook
from netfuse_onnx.plan.sized import assumed
from netfuse_onnx.report import MergeReport
from netfuse_onnx.rewrite.low_rank import differing
from netfuse_onnx.storage.elements import Files
from netfuse_onnx.storage.numbers import rows
from netfuse_onnx.types import Correspondence, ValueType, Weight

PLACES = {"cpu": "a CPU", "cuda": "CUDA"}

CLEARLY = 1.1
"""A target is expected to change something where it makes the nodes' time shorter by this factor."""

BYTES = 0.25
"""Inputs and outputs cost much where joining and splitting copies this share of the bytes of the weights."""

SMALL = 4_000_000
"""Models with fewer bytes of weights are small: a launch takes about as long as the work in it."""

SAMPLE, LOOKED_AT = 64, 4
"""Rows and columns of the part of a weight that is looked at, and the weights of which some are."""

FALLEN = 1e-2
"""The middle singular value of a sample, relative to the largest, below which its rank is low. Random numbers
have about 0.5, a product of low rank has the rounding of the weights."""

SHOWN = 4
"""Symbolic dimensions whose sizes a hint gives."""

STATE = re.compile(
    r"past|present|cache|state|hidden|memory|kv|(?:^|[_./:])[hc](?:_?(?:0|n|t|in|out|prev|next|i|o))?$",
    re.IGNORECASE,
)
"""Names that recurrent networks and decoders give to what a call gets from the call before it."""

NO_STATE = re.compile(r"last_hidden|encoder_hidden", re.IGNORECASE)
"""Names of a whole sequence of vectors, which is no state although it is called one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a merge as they were given. `provider` is that of the proof, '' without one; `sizes` are
    the sizes of symbolic dimensions, the first of each counts."""

    target: str
    provider: str
    sizes: Sizes

    @property
    def dims(self) -> dict[str, int]:
        return points(self.sizes)[0]


def of_merge(report: MergeReport, family: Correspondence, merged: Merged, asked: Asked) -> tuple[str, ...]:
    """Return the hints on a merge."""
    return (
        *_of_target(report, family, merged, asked),
        *_of_io(report, family, merged),
        *_of_low_rank(family),
    )


def of_check(family: Correspondence, merged: Merged) -> tuple[str, ...]:
    """Return the hints that a merge of the family will get whatever its target is."""
    return tuple(_of_state(family)) if family.models > 1 and _stackable(family, merged) else ()


# --------------------------------------------------------------------------- the target


def _of_target(report: MergeReport, family: Correspondence, merged: Merged, asked: Asked) -> Iterator[str]:
    if asked.target == "auto":
        yield (
            f"--target auto took {report.target}, the provider at hand. Where the file is served on another, "
            "name that one."
        )
    elif report.target == "generic" and report.tuning is None and merged.plan is not None:
        if not asked.provider:
            yield (
                "Planned without a target: all that can be batched is. --target cpu or cuda plans for the "
                "costs of where the file is served, --tune measures them there."
            )
            return
        costs = cost(asked.provider, family, asked.dims)
        found = outlook(family, merged.plan, costs)
        sizes = _sizes(family, report.symbols, asked)
        yield f"{_expected(found, asked.provider, sizes)} --tune measures it where it runs."


def _expected(found: Outlook, target: str, sizes: str) -> str:
    """Say what a target is expected to change."""
    if found.best * CLEARLY <= found.batched:
        return (
            f"Planned without a target. On {PLACES[target]}, estimated by the costs of --target {target}, "
            f"{found.apart} of the {found.nodes} nodes that run once for all models are faster once per "
            f"model: it is expected to bring the time of all from {found.batched:,.0f} us to "
            f"{found.best:,.0f} us a call or less{sizes}."
        )
    return (
        f"Planned without a target. Estimated by the costs of --target {target}, batching is right on "
        f"{PLACES[target]} for nearly all of the {found.nodes} nodes that run once for all models{sizes}: it "
        "is expected to change little."
    )


def _sizes(family: Correspondence, symbols: Sequence[str], asked: Asked) -> str:
    sizes = assumed(family.graph, asked.dims)
    shown = [f"{name}={sizes[name]}" for name in symbols if name in sizes]
    return f" ({', '.join(shown[:SHOWN])})" if shown else ""


# --------------------------------------------------------------------------- weights


def _of_low_rank(family: Correspondence) -> Iterator[str]:
    """Look at a few of the weights that differ: parts of a product of low rank are of low rank, too."""
    if family.low_rank is not None or any(source.adapted for source in family.sources):
        return
    differ = ((name, seen.form) for name, seen in differing(family) if not isinstance(seen, str))
    large = [name for name, form in differ if min(form.matrix) >= SAMPLE]
    for name in large[:LOOKED_AT]:
        parts = family.weights[name]
        if _low_rank(parts[0], next(part for part in parts if part != parts[0])):
            yield (
                f"The models' weights seem to differ by products of low rank, as LoRA makes them: {name!r} "
                "does. --low-rank stores one weight and small factors for each model, most exactly with "
                "--base, the model from which they were trained."
            )
            return


def _low_rank(one: Weight, other: Weight) -> bool:
    """Return True where a sample of the difference of two weights has a low rank but for rounding."""
    columns = math.prod(one.shape[1:])
    with Files() as files, np.errstate(all="ignore"):
        tops = (next(rows(each, columns, files, 8 * columns * SAMPLE)) for each in (one, other))
        sample = np.subtract(*(top[:, :: columns // SAMPLE][:, :SAMPLE] for top in tops))
    if not np.isfinite(sample).all() or not sample.any():
        return False
    values = np.linalg.svd(sample, compute_uv=False)
    return bool(values[SAMPLE // 2] < FALLEN * values[0])


# --------------------------------------------------------------------------- inputs and outputs


def _of_io(report: MergeReport, family: Correspondence, merged: Merged) -> Iterator[str]:
    if not edges.is_separate(report.io) or family.models < 2 or not _stackable(family, merged):
        return
    state = list(_of_state(family))
    yield from state
    if state:
        return
    lowered, copied = report.lowered, report.copied or 0
    boundary, nodes = lowered.boundary_nodes, lowered.merged_nodes + lowered.boundary_nodes
    if copied >= BYTES * report.distinct_bytes > 0:
        yield (
            "Joining inputs and splitting outputs copies much beside the bytes of the weights. --io stacked "
            "copies nothing: one tensor with a leading axis of models, in the order of the merge."
        )
    elif 2 * boundary >= nodes and report.distinct_bytes < SMALL * family.models:
        yield (
            f"{boundary} of the {nodes} nodes join inputs and split outputs, and the models are small. "
            "--io stacked has none of these: one tensor with a leading axis of models, in the order of the "
            "merge."
        )


def _of_state(family: Correspondence) -> Iterator[str]:
    pairs = state(family)
    if pairs:
        shown = ", ".join(f"{taken} (given as {given})" for taken, given in list(pairs.items())[:2])
        more = f" and {len(pairs) - 2} more" if len(pairs) > 2 else ""
        yield (
            f"State is fed back: {shown}{more}. --io stacked keeps it as one tensor for all models; separate "
            "inputs and outputs copy it twice in every call."
        )


def state(family: Correspondence) -> dict[str, str]:
    """Return the inputs that hold state, each with the output that gives its next value: both have the name
    of a state, and one type. Pairs are in the order of the outputs."""
    graph = family.graph
    left = [name for name in graph.outputs if _says_state(name)]
    pairs: dict[str, str] = {}
    for name in graph.inputs:
        found = [out for out in left if _alike(graph.types[name], graph.types[out])]
        if _says_state(name) and found:
            pairs[name] = found[0]
            left.remove(found[0])
    return pairs


def _says_state(name: str) -> bool:
    return bool(STATE.search(name)) and not NO_STATE.search(name)


def _alike(one: ValueType, other: ValueType) -> bool:
    """True for tensors of one element type whose ranks agree, and the sizes that both files give."""
    if one.proto is not None or other.proto is not None or one.dtype != other.dtype:
        return False
    if one.dims is None or other.dims is None:
        return True
    known = [(a, b) for a, b in zip(one.dims, other.dims, strict=False) if isinstance(a, int)]
    return len(one.dims) == len(other.dims) and all(a == b for a, b in known if isinstance(b, int))


def _stackable(family: Correspondence, merged: Merged) -> bool:
    """True where --io stacked is surely possible: every input and output is a tensor of one shape."""
    names: Sequence[str] = (*family.graph.inputs, *family.graph.outputs)
    tensors = not family.tails and all(family.graph.types[name].proto is None for name in names)
    return tensors and not (merged.plan and merged.plan.ragged)
