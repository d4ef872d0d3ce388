"""Combines what all models of an ensemble answered, or says why an output has no such combination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from netfuse_onnx.combining import FLOATS, combined
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.runtime.types import Outputs

Reduce = Literal["mean", "sum", "vote"]
Reduces = Reduce | Mapping[str, Reduce]
"""A word for all outputs, or one for each output that is wanted, by the first model's name of it."""
WORDS = get_args(Reduce)
SUMMABLE = ("int32", "int64")
"""The whole numbers that are summed; narrower ones would overflow."""


def check(reduce: Reduces) -> None:
    """Raise UsageFault for a word that is none of ours."""
    for word in reduce.values() if isinstance(reduce, Mapping) else (reduce,):
        if word not in WORDS:
            raise UsageFault(f"reduce is {', '.join(map(repr, WORDS))} or None, not {word!r}.")


def reduced(reduce: Reduces, every: Sequence[Outputs]) -> dict[str, Any]:
    """Return each wanted output combined of all models, by the first model's names. `every` has the outputs
    of each model, in one order. Raises UsageFault for an output that has no such combination."""
    if len({len(outputs) for outputs in every}) > 1:
        raise UsageFault("The models do not all have the same outputs.", "Combine them yourself.")
    names = list(every[0])
    words: Mapping[str, Reduce] = reduce if isinstance(reduce, Mapping) else dict.fromkeys(names, reduce)
    for name in words:
        if name not in names:
            raise UsageFault(f"The models have no output {name!r}.", f"They have {', '.join(names)}.")
    columns = dict(zip(names, zip(*(outputs.values() for outputs in every), strict=True), strict=True))
    return {name: _one(name, word, columns[name]) for name, word in words.items()}


def _one(name: str, word: Reduce, values: Sequence[Any]) -> Any:
    if reason := _unfit(values) or _unfit_for(word, values[0]):
        raise UsageFault(
            f"Output {name!r} has no {word}: {reason}.",
            "Name the outputs that are wanted: reduce={'scores': 'mean'}; or combine them yourself.",
        )
    return combined(word, values)


def _unfit(values: Sequence[Any]) -> str:
    """Return the reason why values can't be combined at all, or ''."""
    if not all(isinstance(value, np.ndarray) for value in values):
        return "it is not a tensor"
    if len({value.shape for value in values}) > 1:
        return "its shape differs between the models"
    if len({value.dtype for value in values}) > 1:
        return "its element type differs between the models"
    return ""


def _unfit_for(word: Reduce, value: Any) -> str:
    """Return the reason why values of a type have no such combination, or ''. The compiler asks the same of
    --combine (rewrite/combine.py); a vote here takes strings as well."""
    kind = value.dtype.kind
    if word == "vote":
        if kind in FLOATS and value.shape[-1:] in ((), (0,), (1,)):
            return "it has no score for each class along its last axis"
        return "its element type holds no labels" if kind == "c" else ""
    if kind in FLOATS or (word == "sum" and value.dtype.name in SUMMABLE):
        return ""
    if kind in "iu":
        return "it holds whole numbers" + ("" if word == "mean" else ", of a type that would overflow")
    return "its element type can't be added up"
