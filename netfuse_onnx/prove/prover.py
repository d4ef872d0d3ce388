"""Proves that a merged model file computes what its sources compute.

(a) bytes: every merged weight, with its recipe undone, equals the sources' weights bit for bit.
    Of weights that are W_0 + L R, the proof is that of the sum (factors.py).
(b) values: in ONNX Runtime the file gives what the sources give (values.py).
(c) graph: the graph of the file is the one that merging the sources gives (graph.py, remake.py).

The module is not called verify.py because `netfuse_onnx.verify` is the verb.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from netfuse_onnx.errors import NotProven, ValuesDiffer
from netfuse_onnx.proofs import ALIKE, RANDOM, BytesProof, GraphProof, Telling, ValuesProof
from netfuse_onnx.prove.attributes import prove_attributes
from netfuse_onnx.prove.factors import prove_factors
from netfuse_onnx.prove.holders import holders, wrong_indices
from netfuse_onnx.prove.kept import KeptProver
from netfuse_onnx.prove.level import leaving_out_fusions
from netfuse_onnx.prove.origins import with_origins
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.prove.values import prove_values, silent
from netfuse_onnx.prove.views import ViewProver
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS
from netfuse_onnx.types import Correspondence, Weight
from netfuse_onnx.write import writer

REMEDY = "Give real inputs with --inputs."
ONE_IN = 10
"""Channels that do not separate all models are reported from one in ten on: a few are usual."""


def prove(
    path: str,
    recipes: Mapping[str, Recipe],
    family: Correspondence,
    options: Options,
    progress: Progress | None = None,
    *,
    graph: GraphProof,
    views: ViewProver | None = None,
    kept: KeptProver | None = None,
) -> VerifyReport:
    """Prove the merged model file at `path`, the views beside it, and that it `kept` models of an earlier
    merged file as they were. `graph` is proof (c), which is made before. A failed proof is a report that is
    not ok.

    Raises NotProven when the sources take no inputs that were tried, and nothing else is wrong; FileFault
    when a file can't be read.
    """
    tell = progress or silent
    options = leaving_out_fusions(options, path)
    graph = with_origins(graph, path, recipes, family)
    bytes_proof, rebuilt = prove_bytes(path, recipes, family, tell), prove_factors(recipes, family, tell)
    try:
        trusted = graph.ok and not graph.note
        values = prove_values(path, family, options, tell, trusted=trusted, views=views, kept=kept)
    except NotProven as error:
        if bytes_proof.ok and graph.ok and (rebuilt is None or rebuilt.ok):
            raise
        values = ValuesProof(options.runtime.provider, (), problems=(error.message,))
    blind = tuple(blind_spots(values))
    notes = (graph.note,) if graph.note else ()
    told = (*notes, *blind, *warnings(values, options))
    return VerifyReport(
        path, family.names, bytes_proof, values, told, graph, blind, reconstruction=rebuilt,
        views=views.answer() if views else None, kept=kept.answer() if kept else None,
    )  # fmt: skip


def prove_bytes(
    path: str, recipes: Mapping[str, Recipe], family: Correspondence, tell: Progress
) -> BytesProof:
    """Make proof (a): undo every recipe and compare with the sources, weights and learned attributes."""
    merged = writer.read_merged(path)
    problems, size, own = [], 0, _made_here(family) | _respelled(family)
    for done, (name, recipe) in enumerate(recipes.items()):
        tell("comparing the weights", done, len(recipes))
        if name not in merged:
            problems.append(f"The merged model has no weight {name!r}.")
            continue
        if (merged[name].dtype, merged[name].shape) != (recipe.dtype, recipe.shape):
            problems.append(
                f"Weight {name!r} of the merged model has another type or shape than its sources."
            )
            continue
        size += 0 if recipe.value in own else weights.nbytes(merged[name])
        try:
            compared = holders(recipe, family)
            sources = [(holder.part, holder.weight) for holder in compared]
            difference = weights.first_difference(recipe, merged[name].data, sources)
        except ValuesDiffer as error:
            problems.append(error.message)
            continue
        if difference is not None:
            place, offset = difference
            problems.append(_difference(name, recipe, compared[place].model or "all models", offset))
    model = wire.scan(path).model
    problems += wrong_indices(model, recipes, family)
    attributes = prove_attributes(model, family, frozenset(recipes))
    computed = (
        attributes.elsewhere
        + _computed(recipes, family)
        + len(_respelled(family) & {recipe.value for recipe in recipes.values()})
    )
    problems += attributes.problems
    count = sum(recipe.value not in own for recipe in recipes.values())
    return BytesProof(count, size, tuple(problems), attributes.count, attributes.bytes, computed)


def _made_here(family: Correspondence) -> set[str]:
    """Return the weights that no source has: factors, and W_0 of a base apart. They are compared all the
    same, but the proof of the sum is what they rest on (factors.py)."""
    found = family.low_rank
    made = {name for pair in found.names.values() for name in pair} if found else set()
    return made | {each.weight for each in (found.factored if found else ()) if each.model is None}


def _respelled(family: Correspondence) -> set[str]:
    """Return the weights that were computed to bring the sources to one spelling. They are compared with what
    is computed again from the files, and the values are what they rest on."""
    names = {*family.respelled.weights} if family.respelled else set()
    made = [source.simplified.made if source.simplified else frozenset() for source in family.sources]
    if any(made):
        rows = ((name, zip(parts, made, strict=False)) for name, parts in family.weights.items())
        names.update(name for name, row in rows if any(part.own in some for part, some in row))
    return names


def _computed(recipes: Mapping[str, Recipe], family: Correspondence) -> int:
    """Count the weights that differ between the models and that no merged weight holds for all of them."""
    merged: dict[str, set[Weight]] = {}
    for recipe in recipes.values():
        merged.setdefault(recipe.value, set()).update(recipe.parts)
    read = {name for node in family.graph.nodes for name in node.reads}.union(family.graph.outputs)
    own = {name: parts for name, parts in family.weights.items() if len(parts) > 1 and name in read}
    return sum(not merged.get(name, set()).issuperset(parts) for name, parts in own.items())


def _difference(name: str, recipe: Recipe, model: str, offset: int) -> str:
    """Say where a merged weight differs from that of a model. `offset` counts bytes, or strings."""
    what = "byte" if recipe.dtype in BITS else "string"
    return f"Weight {name!r} of the merged model is not {recipe.value!r} of {model}: {what} {offset} differs."


def warnings(values: ValuesProof, options: Options) -> Iterator[str]:
    """Yield a sentence for each thing about the comparison that users should know."""
    unoptimised = sorted({row.output for row in values.outputs if row.plain and row.ok})
    if unoptimised:
        yield (
            f"{', '.join(unoptimised)}: ONNX Runtime's optimisations change what a source gives here; the "
            "merged model was compared with what it gives without them."
        )
    tied = sum(row.ties for row in values.outputs)
    if tied:
        yield f"{tied} indices differ between elements whose scores are equal within the tolerance."
    yield from (f"Skipped: {reason}." for reason in values.skipped)
    if options.runtime.note:
        yield f"Proved on the CPU: {options.runtime.note}."


def blind_spots(values: ValuesProof) -> Iterator[str]:
    """Yield a sentence for each output in which the comparison could not have shown an exchange."""
    yield from (sentence for _, sentence in blind_rows(values))


def blind_rows(values: ValuesProof) -> Iterator[tuple[str, str]]:
    """Yield these sentences with their outputs; '' stands for all outputs together."""
    spread, said = values.spread, None
    if spread is not None and not spread.telling:
        said = (spread.models,)  # of whole models, so no output repeats it
        one, two = spread.models
        yield (
            "",
            (
                f"On the same input the models {one} and {two} differ by only {spread.ratio:.2g} times "
                f"what is allowed, so the values could not have shown the two exchanged. {REMEDY}"
                if spread.ratio
                else f"On the same input the models {one} and {two} give exactly the same: are they one "
                "model? The values could not have shown the two exchanged."
            ),
        )
    chance = sorted({row.output for row in values.telling if row.reason == RANDOM})
    if chance:
        yield "", f"{', '.join(chance)}: random, so only type and shape were compared."
    yield from ((row.output, text) for row in values.telling if (text := _combination(row)))
    for row in values.telling:
        if row.alike != said and (reason := _blind(row)):
            yield row.output, f"Output {row.output} {reason}, so an exchange would not show there. {REMEDY}"


def _combination(row: Telling) -> str:
    """Say which models might have been left out of a combined output, or counted twice; '' where none."""
    parts = [f"without {' or '.join(row.left_out[:4])}"] if row.left_out else []
    parts += [f"with one of {_pairs(row.alike)} counted twice and the other not"] if row.alike else []
    if not (row.combined and parts):
        return ""
    what = f"Output {row.output}, the {row.combined} of all models,"
    return f"{what} would look the same {' or '.join(parts)}. {REMEDY}"


def _blind(row: Telling) -> str:
    """Describe the blind spot of an output, in words that follow its name; '' where there is none."""
    if row.combined:
        return ""
    if row.reason == ALIKE:
        return (
            f"can't tell {_pairs(row.alike)} apart: on the same input they differ by only "
            f"{row.ratio:.2g} times what is allowed"
        )
    if row.reason and row.reason != RANDOM:
        return f"says nothing about {_pairs(row.alike)}: it is {row.reason} on all inputs that were tried"
    if not row.reason and row.quiet * ONE_IN > row.channels:
        return (
            f"has {row.quiet} of {row.channels} channels on axis {row.axis} that do not tell all models apart"
        )
    return ""


def _pairs(pairs: Sequence[tuple[str, str]], most: int = 4) -> str:
    shown = ", ".join(f"{one} and {two}" for one, two in pairs[:most])
    return shown if len(pairs) <= most else f"{shown} and {len(pairs) - most} more pairs"
