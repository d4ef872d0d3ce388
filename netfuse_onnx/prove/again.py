"""A merge made again from what the merged file says of itself: the graph that proof (c) compares it with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from netfuse_onnx import __version__
from netfuse_onnx.errors import FileFault, NotStackable, UsageFault
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.lowered import Merged
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan import targets
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.proofs import GraphProof
from netfuse_onnx.prove.graph import prove_graph
from netfuse_onnx.run import ort_compat
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.types import Correspondence, Ran
from netfuse_onnx.write.metadata import Metadata

ITSELF = "netfuse-onnx"


def tools(family: Correspondence) -> dict[str, str]:
    """Versions of the packages that a merged graph depends on, for its metadata."""
    import onnx
    import onnx_graphsurgeon as gs

    found = {"onnx": onnx.__version__, "onnx-graphsurgeon": gs.__version__}
    if family.ran is Ran.TOLD:
        found["onnxruntime"] = ort_compat.onnxruntime().__version__
    elif family.ran is Ran.FAILED:  # it is not installed, or lacks a library of operators
        found["onnxruntime"] = "without an answer"
    return found


def constants(target: str) -> str:
    """SHA-256 of a target's constants where they come from a file, else ''."""
    return targets.target(target).digest if target.endswith(".json") else ""


def prove_again(
    path: str, known: Metadata, family: Correspondence, recipes: Mapping[str, Recipe]
) -> GraphProof:
    """Proof (c) of a merged file: plan and lower its sources as its metadata say, and compare.

    A graph that can't be made again, or that differs where other versions of the tools made the file, is no
    failure but a note.
    """
    try:
        if known.target.endswith(".json") and not _near(known.target, path):
            return GraphProof(note=_unmade(f"{known.target} lies outside of this folder and the file's own"))
        if known.constants and constants(known.target) != known.constants:
            return GraphProof(note=_unmade(f"the constants in {known.target} have changed since the merge"))
        merged = _again(known, family)
    except (FileFault, UsageFault, NotStackable) as error:
        return GraphProof(note=_unmade(error.message.rstrip(".")))
    found = prove_graph(path, merged, recipes)
    made, now = {ITSELF: known.version, **known.tools}, {ITSELF: __version__, **tools(family)}
    return found if found.ok or made == now else replace(GraphProof(), note=_other(made, now))


def _near(target: str, path: str) -> bool:
    """True for a file of constants below the working folder or that of the merged file, whose metadata name
    it: nobody's merged file makes verify read elsewhere."""
    roots = map(os.path.realpath, (os.curdir, os.path.dirname(os.path.abspath(path))))
    real = os.path.realpath(target)
    return any(os.path.commonpath((root, real)) == root for root in roots)


def _again(known: Metadata, family: Correspondence) -> Merged:
    share = frozenset(known.share)
    by = cost(known.target, family, known.dims)
    return lower(family, planning.plan(family, io=known.io, share=share, cost=by), io=known.io, share=share)


def _unmade(reason: str) -> str:
    return f"The graph could not be compared: {reason}."


def _other(made: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The note on versions: those that the file was written with, and those at hand."""
    return _unmade(f"the file was written by {_listed(made)}, this is {_listed(now)}")


def _listed(versions: Mapping[str, str]) -> str:
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != ITSELF)
    return f"{ITSELF} {versions[ITSELF]} with {others or 'an unknown onnx'}"
