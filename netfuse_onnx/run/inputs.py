"""Makes inputs for the proof of the values: seeded arrays that each graph input accepts.

Only the graph tells what a model accepts. So integers are drawn within the bounds that their
consumers imply (the rows of the table that a Gather reads), and masks are ones followed by zeros. The sizes
of symbolic dims, and the STYLES, are tried in the order of offers.py. `--inputs` and `--dim` replace both.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from netfuse_onnx.errors import UsageFault
from netfuse_onnx.ops.kinds import of_proto
from netfuse_onnx.run import symbols
from netfuse_onnx.run.domains import Accepts, Domains
from netfuse_onnx.run.runtime import Array, Value
from netfuse_onnx.types import Correspondence, Dim, ValueType

FLOATS = {"f", "V", "c"}  # numpy kinds; bfloat16 and float8 of ml_dtypes are of kind V
STYLES = (("normal", "fit"), ("normal", "small"), ("normal", "ones"), ("unit", "fit"), ("unit", "ones"))
"""The ways to draw floats and integers, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One graph input of the family. A dim is static where any source has it static."""

    name: str
    dtype: int
    dims: tuple[Dim, ...] | None
    accepts: Accepts
    sequence: bool = False

    @property
    def numpy(self) -> np.dtype[Any]:
        import onnx

        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.dtype))


@dataclass(frozen=True, slots=True)
class Case:
    """A choice of sizes, and a way to draw values. `title` has the sizes as text. Floats are multiplied by
    `scale`; another `salt` gives other values of the same kind."""

    title: str
    sizes: Mapping[str, int]
    floats: str = "normal"
    integers: str = "fit"
    given: tuple[Mapping[str, Value], ...] = field(default=(), repr=False)
    scale: float = 1.0
    salt: int = 0

    @property
    def label(self) -> str:
        """The title, with scale and salt where they are not the usual ones."""
        scale = f", scale {self.scale:g}" if self.scale != 1.0 else ""
        return f"{self.title}{scale}{f', salt {self.salt}' if self.salt else ''}"


def describe(family: Correspondence) -> tuple[InputSpec, ...]:
    """Describe the inputs of a family, by the names of the first source."""
    first, domains = family.sources[0].graph, Domains(family)
    edges = [family.edge(model) for model in range(family.models)]
    specs = []
    for name in first.inputs:
        rows = zip(family.sources, edges, strict=True)
        tensors = [_tensor(source.graph.types[edge.inputs[name]]) for source, edge in rows]
        dims = symbols.meet(name, [tensor.dims for tensor, _ in tensors])
        tensor, sequence = tensors[0]
        specs.append(InputSpec(name, tensor.dtype, dims, domains.of(name), sequence))
    return tuple(specs)


def separate_symbols(specs: Sequence[InputSpec], bound: Collection[str] = ()) -> tuple[InputSpec, ...]:
    """Give each axis a symbol of its own, except where its symbol is `bound`. Axes that a file calls by one
    name (`?`, say) need not have one size: ONNX Runtime does not compare them."""
    every = Counter(dim for spec in specs for dim in spec.dims or () if isinstance(dim, str))
    shared = {name for name, count in every.items() if count > 1 and name not in bound}
    return tuple(replace(spec, dims=symbols.named(spec.name, spec.dims, shared)) for spec in specs)


def names(specs: Sequence[InputSpec]) -> tuple[str, ...]:
    """Return the symbols that --dim can bind: those of the file, then those of axes that share a symbol."""
    return tuple(dict.fromkeys(symbols.free(spec.dims for spec in (*specs, *separate_symbols(specs)))))


def require_symbols(specs: Sequence[InputSpec], wanted: Collection[str]) -> None:
    """Raise UsageFault for names that are no symbols of these inputs."""
    for name in wanted:
        if name not in names(specs):
            known = ", ".join(symbols.free(spec.dims for spec in specs)) or "none"
            raise UsageFault(f"There is no symbolic dimension {name!r}.", f"The models have: {known}.")


def shapes(specs: Sequence[InputSpec], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs for these sizes, without inputs of unknown rank."""
    return {spec.name: symbols.sizes(spec.dims, sizes) for spec in specs if spec.dims is not None}


def draw(
    specs: Sequence[InputSpec], case: Case, model: int, shared: frozenset[str], seed: int
) -> dict[str, Value]:
    """Draw the feeds of one model, by the first source's names. Shared inputs are equal for all models."""
    if case.given:
        return dict(case.given[model])
    feeds: dict[str, Value] = {}
    for i, spec in enumerate(specs):
        key = [seed, i, 0 if spec.name in shared else model, zlib.crc32(case.title.encode())]
        rng = np.random.default_rng([*key, case.salt] if case.salt else key)
        shape = symbols.sizes(spec.dims or (), case.sizes)
        drawn = [_array(spec, shape, case, rng) for _ in range(2 if spec.sequence else 1)]
        feeds[spec.name] = drawn if spec.sequence else drawn[0]
    return feeds


def _array(spec: InputSpec, shape: tuple[int, ...], case: Case, rng: np.random.Generator) -> Array:
    dtype, accepts = spec.numpy, spec.accepts
    if dtype.kind == "O":
        words = np.array(["alpha", "beta", "gamma", ""], dtype=object)
        return np.asarray(words[rng.integers(0, 4, shape)], dtype=object).reshape(shape)
    if accepts.mask and dtype.kind != "b":
        return _mask(shape, rng).astype(dtype)
    if dtype.kind == "b":
        return _mask(shape, rng) if accepts.mask else np.asarray(rng.random(shape) < 0.5)
    if dtype.kind in FLOATS and accepts.high is None and not accepts.values:
        values = rng.standard_normal(shape) if case.floats == "normal" else rng.random(shape)
        with np.errstate(over="ignore"):  # float16 ends at 65504
            return np.asarray(values * case.scale).astype(dtype)
    return _integers(accepts, shape, case, rng, dtype).astype(dtype)


def _integers(
    accepts: Accepts, shape: tuple[int, ...], case: Case, rng: np.random.Generator, dtype: np.dtype[Any]
) -> Array:
    if case.integers == "ones":
        return np.ones(shape, np.int64)
    if case.integers == "small":
        return np.asarray(rng.integers(0, 2, shape))
    if accepts.values:
        return np.asarray(rng.choice(np.array(accepts.values), shape))
    if accepts.high is not None:
        return np.asarray(rng.integers(min(accepts.low, accepts.high - 1), accepts.high, shape))
    if dtype.itemsize == 1 and dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.asarray(rng.integers(info.min, info.max + 1, shape))
    return np.asarray(rng.integers(accepts.low, 4, shape))


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw ones followed by zeros along the last axis, with at least one 1 in every row."""
    if not shape or shape[-1] == 0:
        return np.ones(shape, bool)
    lengths = rng.integers(1, shape[-1] + 1, shape[:-1])
    return np.asarray(np.arange(shape[-1]) < lengths[..., None])


def _tensor(declared: ValueType) -> tuple[ValueType, bool]:
    """Return the type of the tensor in an optional or a sequence, and True for a sequence. Maps have none."""
    proto, sequence = declared.proto, False
    while proto is not None and proto.WhichOneof("value") in ("optional_type", "sequence_type"):
        wrapper = getattr(proto, proto.WhichOneof("value") or "")
        sequence = sequence or proto.HasField("sequence_type")
        proto = wrapper.elem_type
    if proto is None:
        return declared, sequence
    inner = of_proto(proto)
    return (inner if inner.proto is None else ValueType()), sequence
