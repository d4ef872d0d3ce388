"""The options of the proof of the values, which merge, verify and bench share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from netfuse_onnx import arguments, edges
from netfuse_onnx.dims import Sizes
from netfuse_onnx.prove.sizes import MAX_MEMORY
from netfuse_onnx.prove.trial import Options
from netfuse_onnx.routing import without_rows
from netfuse_onnx.run import runtime


class Proof(TypedDict, total=False):
    """The options as a caller gives them."""

    provider: str
    """The provider: auto, cpu or cuda; auto is CUDA where it is usable."""
    dims: Sizes
    """Sizes of symbolic dimensions: one for each, or several, for which a plan is to be good."""
    rtol: float
    """The allowed relative error. By default it depends on the precision."""
    atol: float
    """The allowed absolute error, in units of the outputs. By default it depends on precision and scale."""
    seed: int
    inputs: str
    """An .npz file of real inputs."""
    libraries: Sequence[str]
    """Shared libraries of custom operators."""
    max_memory: int | str
    """The bytes that the proof may take, by an estimate before it runs: 2_000_000_000 or '2GB'."""


def refuse_unknown(proof: Proof) -> None:
    """Raise TypeError for an argument that no verb has. Nobody would notice that it does nothing."""
    if unknown := sorted(set(proof) - set(Proof.__annotations__)):
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")


def checked(io: str, share: Sequence[str], proof: Proof, libraries: tuple[str, ...]) -> Options:
    """Check the options. Raises UsageFault, also when ONNX Runtime or the provider is missing."""
    provider = arguments.choice("provider", proof.get("provider", "auto"))
    dims = proof.get("dims", {})
    first, *further = arguments.sizes(without_rows(dims) if edges.is_routed(io) else dims)
    return Options(
        runtime=runtime.choose(provider, libraries),
        io=io,
        share=frozenset(share),
        dims=first,
        further=tuple(further),
        seed=proof.get("seed", 0),
        rtol=proof.get("rtol"),
        atol=proof.get("atol"),
        file=proof.get("inputs", ""),
        max_memory=arguments.memory(proof.get("max_memory", MAX_MEMORY)),
    )
