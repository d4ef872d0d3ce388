"""verify: three proofs that a merged model file is its sources.

(a) bytes: every merged weight, its recipe undone, equals the sources' weights bit for bit.
(b) values: in ONNX Runtime it gives what the sources give (values.py).
(c) graph: it is the graph that merging the sources gives (graph.py, again.py).

The module is not called verify.py because `netfuse_onnx.verify` is the verb.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from netfuse_onnx.errors import NotProven, ValuesDiffer
from netfuse_onnx.proofs import ALIKE, RANDOM, BytesProof, GraphProof, Spread, Telling, ValuesProof
from netfuse_onnx.prove.attributes import prove_attributes
from netfuse_onnx.prove.trial import Options, Progress
from netfuse_onnx.prove.values import prove_values, silent
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.storage import weights, wire
from netfuse_onnx.storage.recipe import Recipe
from netfuse_onnx.storage.tensors import BITS
from netfuse_onnx.types import Correspondence, Weight
from netfuse_onnx.write import writer

REMEDY = "Give real inputs with --inputs."
QUIET = 10
"""Channels that tell nothing are named from one in so many on: a few dead ones are usual."""


def prove(
    path: str,
    recipes: Mapping[str, Recipe],
    family: Correspondence,
    options: Options,
    progress: Progress | None = None,
    *,
    graph: GraphProof,
) -> VerifyReport:
    """The proofs of the merged model file at `path`; that of its `graph` is made already. A failed proof is
    a report that is not ok.

    Raises NotProven when no inputs are found that the sources take, and nothing else is wrong; FileFault
    when a file can't be read.
    """
    tell = progress or silent
    held = prove_bytes(path, recipes, family, tell)
    try:
        values = prove_values(path, family, options, tell, trusted=graph.ok and not graph.note)
    except NotProven as error:
        if held.ok and graph.ok:
            raise
        values = ValuesProof(options.runtime.provider, (), problems=(error.message,))
    blind = tuple(blind_spots(values))
    notes = (graph.note,) if graph.note else ()
    warnings = (*notes, *blind, *_warnings(values, options))
    return VerifyReport(path, family.names, held, values, warnings, graph, blind)


def prove_bytes(
    path: str, recipes: Mapping[str, Recipe], family: Correspondence, tell: Progress
) -> BytesProof:
    """Proof (a)."""
    held = writer.read_merged(path)
    problems, size = [], 0
    for done, (name, recipe) in enumerate(recipes.items()):
        tell("comparing the weights", done, len(recipes))
        if name not in held:
            problems.append(f"The merged model has no weight {name!r}.")
            continue
        if (held[name].dtype, held[name].shape) != (recipe.dtype, recipe.shape):
            problems.append(
                f"Weight {name!r} of the merged model has another type or shape than its sources."
            )
            continue
        size += weights.nbytes(held[name])
        try:
            found = weights.first_difference(recipe, held[name].data)
        except ValuesDiffer as error:
            problems.append(error.message)
            continue
        if found is not None:
            problems.append(_difference(name, recipe, family, *found))
    known = prove_attributes(wire.scan(path).model, family, frozenset(recipes))
    computed = known.elsewhere + _computed(recipes, family)
    problems += known.problems
    return BytesProof(len(recipes), size, tuple(problems), known.count, known.bytes, computed)


def _computed(recipes: Mapping[str, Recipe], family: Correspondence) -> int:
    """The number of weights that differ between the models no merged weight holds for all of them."""
    held: dict[str, set[Weight]] = {}
    for recipe in recipes.values():
        held.setdefault(recipe.value, set()).update(recipe.parts)
    read = {name for node in family.graph.nodes for name in node.reads}.union(family.graph.outputs)
    own = {name: parts for name, parts in family.weights.items() if len(parts) > 1 and name in read}
    return sum(not held.get(name, set()).issuperset(parts) for name, parts in own.items())


def _difference(name: str, recipe: Recipe, family: Correspondence, part: int, offset: int) -> str:
    """`part` is a position in the recipe, which is a model where the recipe holds all of them."""
    whole = family.weights.get(recipe.value, ())
    owners = [i for i, weight in enumerate(whole) if weight == recipe.parts[part]]
    model = family.names[owners[0]] if owners and len(whole) == family.models else "all models"
    what = "byte" if recipe.dtype in BITS else "string"
    return f"Weight {name!r} of the merged model is not {recipe.value!r} of {model}: {what} {offset} differs."


def _warnings(values: ValuesProof, options: Options) -> Sequence[str]:
    found = []
    unoptimised = sorted({row.output for row in values.outputs if row.plain and row.ok})
    if unoptimised:
        found.append(
            f"{', '.join(unoptimised)}: ONNX Runtime's optimisations change what a source gives here; the "
            "merged model was compared with what it gives without them."
        )
    tied = sum(row.ties for row in values.outputs)
    if tied:
        found.append(f"{tied} indices differ between elements whose scores are equal within what is allowed.")
    found += [f"Skipped: {reason}." for reason in values.skipped]
    if options.runtime.note:
        found.append(f"Proved on the CPU: {options.runtime.note}.")
    return found


def blind_spots(values: ValuesProof) -> Iterator[str]:
    """A sentence for everything that the comparison could not have shown, by output and pair of models."""
    spread = values.spread
    if spread is not None and not spread.telling:
        one, two = spread.models
        yield (
            f"On the same input the models {one} and {two} differ by only {spread.ratio:.2g} times "
            f"what is allowed, so the values could not have shown the two exchanged. {REMEDY}"
            if spread.ratio
            else f"On the same input the models {one} and {two} give exactly the same: are they one model? "
            "The values could not have shown the two exchanged."
        )
    chance = sorted({row.output for row in values.telling if row.reason == RANDOM})
    if chance:
        yield f"{', '.join(chance)}: random, so only type and shape were compared."
    for row in values.telling:
        said = "" if _said(row, spread) else _blind(row)
        if said:
            yield f"Output {row.output} {said}, so an exchange would not show there. {REMEDY}"


def _blind(row: Telling) -> str:
    """The blind spot of an output, in words that follow its name; '' where there is none to tell of."""
    if row.reason == ALIKE:
        apart = f"on the same input they differ by only {row.ratio:.2g} times what is allowed"
        return f"can't tell {_pairs(row.alike)} apart: {apart}"
    if row.reason and row.reason != RANDOM:
        return f"says nothing about {_pairs(row.alike)}: it is {row.reason} on all inputs that were tried"
    if not row.reason and row.quiet * QUIET > row.channels:
        return (
            f"has {row.quiet} of {row.channels} channels on axis {row.axis} that do not tell all models apart"
        )
    return ""


def _said(row: Telling, spread: Spread | None) -> bool:
    """True where the sentence about whole models has said it already."""
    return spread is not None and not spread.telling and row.alike == (spread.models,)


def _pairs(pairs: Sequence[tuple[str, str]], most: int = 4) -> str:
    shown = ", ".join(f"{one} and {two}" for one, two in pairs[:most])
    return shown if len(pairs) <= most else f"{shown} and {len(pairs) - most} more pairs"
