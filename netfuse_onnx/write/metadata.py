"""The metadata of a merged model: one JSON value under the key `netfuse_onnx` of metadata_props.

From it `inspect` shows how every node was merged, and `verify` undoes every merged weight and makes the merge
again. It is deterministic: it holds no times and no paths.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netfuse_onnx import __version__, spelling_rows
from netfuse_onnx.dims import Sizes
from netfuse_onnx.errors import FileFault, InternalError, UsageFault
from netfuse_onnx.factored import Factored, LowRank
from netfuse_onnx.labels import Labels
from netfuse_onnx.load import validate
from netfuse_onnx.lowered import Lowered, Merged
from netfuse_onnx.merge_rows import Apart, ApartRow
from netfuse_onnx.storage import wire
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.transforms import AS_IS
from netfuse_onnx.types import Correspondence, Edge
from netfuse_onnx.write import origins, schema
from netfuse_onnx.write.digests import JOINED
from netfuse_onnx.write.written import Written

KEY = "netfuse_onnx"
FORMAT = 1
"""Raised when a reader of the old format would misread the new one."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The JSON value, read back. `weights` maps merged initializers to the fields of their recipes."""

    version: str
    models: tuple[str, ...]
    sha256: tuple[str, ...]
    io: str
    share: tuple[str, ...]
    target: str
    partial: bool
    lowered: Lowered
    weights: Mapping[str, Mapping[str, Any]]
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that the graph depends on, by name; files of old versions have none."""
    constants: str = ""
    """SHA-256 of the target's constants, where the target is a file."""
    provider: str = ""
    """The provider of these constants; '' where the target is no file, or an old version wrote this one."""
    dims: Sizes = field(default_factory=dict)
    """Sizes of symbolic dimensions for which the plan was made: one for each, or several."""
    recorded: bool = False
    """True where the rows of the nodes are the plan, because measuring chose it (plan/recorded.py)."""
    measured: tuple[Mapping[str, int], ...] = ()
    """The sizes of symbolic dimensions at which measuring chose the plan, assumed ones included."""
    names: tuple[Edge, ...] | None = None
    """Each model's own names of inputs and outputs, from which the merged names are made. None where all
    models have those of the first one, or an old version wrote the file."""
    combined: Mapping[str, str] = field(default_factory=dict)
    """The outputs that are a combination of all models, and how: mean, sum or vote."""
    unmoved: bool = False
    """True where weights are stored in the order of the sources, for the views of a bundle."""
    portable: bool = False
    """True where the graph keeps to what other runtimes run."""
    spelling: Mapping[str, Any] | None = None
    """The ways in which the files were written, and what was brought together (spelling_rows.py); None where
    they were written in one way, or an old version wrote the file."""
    written: Written | None = None
    """Facts of the graph as it was written; files of old versions have none."""
    data: str = "auto"
    """The files that get the weights, as the merge was asked: auto, external or single."""

    @property
    def labels(self) -> Labels:
        """The names of the inputs and outputs; none of models whose own names the file does not have."""
        return Labels(self.models, self.names or (), self.io, frozenset(self.share), frozenset(self.combined))

    apart: Apart | None = None
    """The part that --partial merged of models that differ."""
    low_rank: Mapping[str, Any] | None = None
    """The weights that are W_0 + L R, with what is needed to take their factors out of the file again."""

    @property
    def made_for(self) -> str:
        """The provider that the file was merged for, '' where its target names none."""
        return self.target if self.target in ("cpu", "cuda") else self.provider


def build(
    family: Correspondence,
    merged: Merged,
    digests: Sequence[str],
    *,
    io: str,
    share: Sequence[str],
    target: str,
    partial: bool,
    tools: Mapping[str, str] | None = None,
    constants: str = "",
    provider: str = "",
    dims: Sizes | None = None,
    recorded: bool = False,
    measured: Sequence[Mapping[str, int]] = (),
    apart: Apart | None = None,
    data: str = "auto",
) -> dict[str, str]:
    """Returns all metadata_props of a merged model, the sources' own too. `digests`: SHA-256 by source."""
    every = family.every_weight
    value = {
        "format": FORMAT,
        "version": __version__,
        "models": list(family.names),
        "sha256": list(digests),
        "io": io,
        "share": sorted(share),
        "target": target,
        "partial": partial,
        **({"tools": dict(tools)} if tools else {}),
        **({"constants": constants, "provider": provider} if constants else {}),
        **({"dims": {n: d if isinstance(d, int) else list(d) for n, d in dims.items()}} if dims else {}),
        **({"recorded": True} if recorded else {}),
        **({"measured": [dict(sizes) for sizes in measured]} if any(measured) else {}),
        **_names(family),
        **({"low_rank": _factored(family.low_rank)} if family.low_rank else {}),
        **({"combined": dict(family.combined)} if family.combined else {}),
        **({"unmoved": True} if family.unmoved else {}),
        **({"spelling": spelling.written()} if (spelling := spelling_rows.of(family)) else {}),
        **({"data": data} if data != "auto" else {}),
        **({"portable": True} if family.portable else {}),
        "written": Written.of(merged.model).value(),
        **({"apart": dataclasses.asdict(apart)} if apart else {}),
        "weights": {n: _recipe(every, recipe) for n, recipe in merged.every_recipe.items()},
        **merged.report.written(),
        "cost": merged.cost,
    }
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return {KEY: text, origins.KEY: origins.text(family, merged.every_recipe)} | _inherited(family)


def read(path: str) -> Metadata:
    """Returns the metadata of a merged model file. FileFault when it is no model, or has none."""
    model = wire.scan(path).model
    validate.check(model, path)
    props = {entry.key: entry.value for entry in model.metadata_props}
    if KEY not in props:
        raise FileFault(
            f"{path} was not written by netfuse-onnx: it carries no {KEY!r} metadata.",
            "Give the output of netfuse-onnx merge. Where another tool has dropped its metadata, use that "
            "tool on each model, then merge.",
        )
    try:
        value = schema.parsed(props[KEY])
        written = schema.HEAD(value)
        if written["format"] != FORMAT:
            newer = f"{path} was written by netfuse-onnx {written['version']}, in another format."
            raise FileFault(newer, "Use that version to read it.")
        value = schema.whole(value)
    except ValueError as error:
        raise FileFault(
            f"The netfuse-onnx metadata of {path} is damaged: {error}.", "Merge again."
        ) from error
    if "names" in value:
        value["names"] = _edges(value["names"], value.pop("outputs", None))
    if "written" in value:
        value["written"] = Written(**value["written"])
    if "apart" in value:
        rows = tuple(ApartRow(**{**row, "models": tuple(row["models"])}) for row in value["apart"]["rows"])
        value["apart"] = Apart(**{**value["apart"], "rows": rows})
    keys = {field.name for field in dataclasses.fields(Metadata)}
    return Metadata(lowered=Lowered.read(value), **{key: value[key] for key in value.keys() & keys})


def _names(family: Correspondence) -> dict[str, Any]:
    """Returns the own names of each model's inputs and outputs, in the order of the first model's; '' for an
    output that a model lacks. Where some do, `outputs` are the names in which they correspond."""
    edges = [family.edge(model) for model in range(family.models)]
    if not family.tails and all(edge == edges[0] for edge in edges):
        return {}
    keys = family.outputs
    names = [[[*edge.inputs.values()], [edge.outputs.get(key, "") for key in keys]] for edge in edges]
    return {"names": names, **({"outputs": list(keys)} if family.tails else {})}


def _edges(names: Sequence[Sequence[Sequence[str]]], outputs: Sequence[str] | None) -> tuple[Edge, ...]:
    """Returns the edges that `_names` wrote."""
    first = [names[0][0], names[0][1] if outputs is None else outputs]
    pairs = [[dict(zip(*sides, strict=True)) for sides in zip(first, row, strict=True)] for row in names]
    return tuple(Edge(inputs, {key: name for key, name in given.items() if name}) for inputs, given in pairs)


def strangers(metadata: Metadata, paths: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Returns a warning for every source that is not, byte for byte, the one that was merged in its place.

    Raises UsageFault when the right sources come in another order.
    """
    merged = metadata.sha256
    if tuple(digests) != merged and sorted(digests) == sorted(merged):
        ordered = [paths[digests.index(digest)] for digest in merged]
        raise UsageFault("The models are given in another order than merged.", f"Give {shlex.join(ordered)}")
    rows = zip(paths, digests, merged, metadata.models, strict=True)
    return [
        stranger(path, name, digest, expected) for path, digest, expected, name in rows if digest != expected
    ]


def stranger(path: str, name: str, digest: str, expected: str) -> str:
    """Returns the sentence for a file that is not the one that was merged as the model `name`."""
    return (
        f"{path} is not the file that was merged as {name}: its SHA-256 differs{_of_part(digest, expected)}."
    )


def _of_part(digest: str, expected: str) -> str:
    """Returns the part of an adapted model that is another one: the base, the adapter or both."""
    pairs = list(zip(digest.split(JOINED), expected.split(JOINED), strict=False))
    if len(pairs) < 2:
        return ""
    parts = [part for part, (is_, was) in zip(("the base", "the adapter"), pairs, strict=False) if is_ != was]
    return f" (that of {' and '.join(parts)})"


def fitting(metadata: Metadata, family: Correspondence, path: str) -> None:
    """Raise FileFault where the metadata name an input or output that the sources do not have."""
    for name in metadata.share:
        if name not in family.graph.inputs:
            raise FileFault(
                f"The netfuse-onnx metadata of {path} name a shared input {name!r}, which no model has.",
                "Are these the models that were merged? If so, merge again.",
            )
    for name in metadata.combined:
        if name not in family.graph.outputs:
            raise FileFault(
                f"The netfuse-onnx metadata of {path} name a combined output {name!r}, which no model has.",
                "Are these the models that were merged? If so, merge again.",
            )


def recipes(metadata: Metadata, family: Correspondence, path: str) -> dict[str, Recipe]:
    """Returns the recipes of the merged weights, for sources that were matched again.

    Raises FileFault where the metadata do not fit the sources or the merged file.
    """
    tensors = {t.name: t for t in wire.scan(path).model.graph.initializer}
    recipes, every = {}, family.every_weight
    for name, line in metadata.weights.items():
        try:
            parts = every[line["value"]]
            chosen = tuple(parts[i] for i in line.get("parts", range(len(parts))))
            outer, transform = line.get("outer", 1), line.get("transform", AS_IS)
            shape = tuple(tensors[name].dims)
            recipes[name] = Recipe(line["value"], chosen, chosen[0].dtype, shape, outer, transform)
            recipes[name].check()
        except (KeyError, IndexError, TypeError, ValueError, InternalError) as error:
            said = error.message.rstrip(".") if isinstance(error, InternalError) else repr(error)
            raise FileFault(
                f"{path} says nothing usable about its weight {name!r}: {said}.",
                "Are these the models that were merged? If so, merge again.",
            ) from error
    return recipes


def _recipe(every: Mapping[str, Sequence[Any]], recipe: Recipe) -> dict[str, Any]:
    """Returns the line of one merged weight. `parts`, positions among the models' weights, is left out where
    they are all of them."""
    line: dict[str, Any] = {"value": recipe.value}
    if recipe.outer != 1:
        line["outer"] = recipe.outer
    if recipe.transform != AS_IS:
        line["transform"] = recipe.transform.text
    whole = every[recipe.value]
    if tuple(recipe.parts) != tuple(whole):
        line["parts"] = _positions(recipe, whole)
    return line


def _factored(low_rank: LowRank) -> dict[str, Any]:
    """Returns what `verify` and `inspect` must know of low-rank differences."""
    return {
        "tolerance": low_rank.tolerance,
        "sha256": low_rank.sha256,
        "whole": dict(low_rank.whole),
        "weights": {each.weight: _factors(each) for each in low_rank.factored},
    }


def _factors(each: Factored) -> dict[str, Any]:
    """Returns the line of one weight. Models with equal factors store them once: `a` and `b` name the first
    one of them for each model, and are left out where all differ."""
    line: dict[str, Any] = {"rank": each.rank, "error": round(each.error, 4), "nodes": list(each.nodes)}
    line |= {"bytes": each.bytes, "whole_bytes": each.whole_bytes}
    if each.model is not None:
        line["model"] = each.model
    for key, parts in (("a", each.a), ("b", each.b)):
        first = [parts.index(part) for part in parts]
        if first != list(range(len(parts))):
            line[key] = first
    return line


def _positions(recipe: Recipe, whole: Sequence[Any]) -> list[int]:
    by_identity = {id(weight): i for i, weight in enumerate(whole)}
    return [by_identity[id(p)] if id(p) in by_identity else whole.index(p) for p in recipe.parts]


def _inherited(family: Correspondence) -> dict[str, str]:
    """Returns the sources' metadata: entries that are equal in all models as they are, others as
    `model/KEY`."""
    kept = {
        key: value
        for key, value in family.sources[0].metadata.items()
        if key != KEY and all(source.metadata.get(key) == value for source in family.sources)
    }
    for name, source in zip(family.names, family.sources, strict=True):
        kept |= {f"{name}/{key}": value for key, value in source.metadata.items() if key not in kept}
    return dict(sorted(kept.items()))
