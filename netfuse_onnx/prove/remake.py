"""Repeats a merge from the metadata of the merged file: proof (c) compares the file with the result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from netfuse_onnx import __version__
from netfuse_onnx.dims import Sizes
from netfuse_onnx.errors import FileFault, NotStackable, UsageFault
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.lowered import Merged, NodeRow
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan import targets
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.recorded import NotOnOffer
from netfuse_onnx.proofs import GraphProof
from netfuse_onnx.prove.graph import prove_graph
from netfuse_onnx.rewrite.combine import with_combinations
from netfuse_onnx.routing import planned_sizes
from netfuse_onnx.run.runtime import onnxruntime
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Choice, Correspondence, Ran
from netfuse_onnx.write.metadata import Metadata

ITSELF = "netfuse-onnx"


def tools(family: Correspondence) -> dict[str, str]:
    """Return the versions of the packages that a merged graph depends on, for its metadata."""
    import onnx
    import onnx_graphsurgeon as gs

    versions = {"onnx": onnx.__version__, "onnx-graphsurgeon": gs.__version__}
    if (simplified := family.sources[0].simplified) is not None:
        versions["onnxslim"] = simplified.version
    if family.ran is Ran.TOLD:
        versions["onnxruntime"] = onnxruntime().__version__
    elif family.ran is Ran.FAILED:  # it is not installed, or lacks a library of operators
        versions["onnxruntime"] = "without an answer"
    return versions


def constants(target: str) -> str:
    """Return the SHA-256 of a target's constants where they come from a file, else ''."""
    return targets.target(target).digest if target.endswith(".json") else ""


def merge(
    family: Correspondence,
    *,
    io: str = "separate",
    share: frozenset[str] = frozenset(),
    target: str = "generic",
    dims: Sizes | None = None,
    rows: Sequence[NodeRow] | None = None,
) -> Merged:
    """Plan and lower a family. The merged graph has no bytes of weights. With `rows` the plan is the one that
    they record: raises NotOnOffer where the rules do not offer it."""
    family = with_combinations(family, share)
    price = cost(target, family, planned_sizes(family, io, dims or {}))
    if rows is None:
        plan = planning.plan(family, io=io, share=share, cost=price)
    else:
        price.measures = True  # by measuring, any lowering may have been chosen
        found = planning.candidates(family, io=io, share=share, cost=price)
        plan = planning.chosen(family, found, share=share, cost=price, rows=choices(rows))
    return lower(family, plan, io=io, share=share)


def choices(rows: Sequence[NodeRow]) -> list[Choice]:
    """Return the plan that the rows of a merged graph record."""
    return [Choice(row.became, row.rule, row.takes, row.gives) for row in rows]


def prove_remade(
    path: str, about: Metadata, family: Correspondence, recipes: Mapping[str, Recipe]
) -> GraphProof:
    """Make proof (c) of a merged file: plan and lower its sources as its metadata say, and compare.

    A merge that can't be repeated, or a graph that differs where other versions of the tools made the file,
    is no failure: the proof then has a note in place of a result.
    """
    try:
        if about.target.endswith(".json") and not _may_read(about.target, path):
            return GraphProof(note=_unmade(f"{about.target} lies outside of this folder and the file's own"))
        if about.constants and constants(about.target) != about.constants:
            return GraphProof(note=_unmade(f"the constants in {about.target} have changed since the merge"))
        proof = _remade(path, about, family, recipes)
    except (FileFault, UsageFault, NotStackable) as error:
        return GraphProof(note=_unmade(error.message.rstrip(".")))
    made, now = {ITSELF: about.version, **about.tools}, {ITSELF: __version__, **tools(family)}
    if proof.ok or made == now:
        return proof
    return GraphProof(note=_unmade(f"the file was written by {_listed(made)}, this is {_listed(now)}"))


def _remade(path: str, about: Metadata, family: Correspondence, recipes: Mapping[str, Recipe]) -> GraphProof:
    """Merge again and compare. A recorded plan that the rules do not offer is a problem."""
    rows = about.lowered.nodes if about.recorded else None
    share = frozenset(about.share)
    try:
        merged = merge(family, io=about.io, share=share, target=about.target, dims=about.dims, rows=rows)
    except NotOnOffer as error:
        return GraphProof(problems=(f"the rows of the recorded plan are not one of these models: {error}",))
    return prove_graph(path, merged, recipes)


def _may_read(target: str, path: str) -> bool:
    """True for a file of constants below the working folder or the folder of the merged file. The metadata
    name it, and a merged file from elsewhere must not make verify read other files."""
    roots = map(os.path.realpath, (os.curdir, os.path.dirname(os.path.abspath(path))))
    real = os.path.realpath(target)
    return any(os.path.commonpath((root, real)) == root for root in roots)


def _unmade(reason: str) -> str:
    return f"The graph could not be compared: {reason}."


def _listed(versions: Mapping[str, str]) -> str:
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != ITSELF)
    return f"{ITSELF} {versions[ITSELF]} with {others or 'an unknown onnx'}"
