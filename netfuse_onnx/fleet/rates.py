"""The rates of a family's models: a number, a list, a table, a CSV file, or a distribution of a total."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from typing import Any

from netfuse_onnx.errors import FileFault
from netfuse_onnx.fleet.values import Table

FORMS = (
    "Give requests per second: one number for all, a list, a table by names, a CSV file of model,rate, "
    "or {total = 100, zipf = 1.0}."
)


def rates_of(table: Table, models: Sequence[str]) -> tuple[float, ...]:
    """Return the requests per second of each model. Raises FileFault."""
    found = table.raw("rates")
    if isinstance(found, str):
        return _of_csv(table, found, models)
    if isinstance(found, list):
        if len(found) != len(models):
            raise table.fault("rates", f"has {len(found)} numbers for {len(models)} models", FORMS)
        return tuple(table.checked(f"rates[{i}]", one) for i, one in enumerate(found))
    if isinstance(found, dict):
        if "total" in found:
            return _spread(Table(table.file, f"{table.where}.rates", found), len(models))
        return _by_name(table, "rates", found, models)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise table.fault("rates", f"is {found!r}", FORMS)
    return (table.checked("rates", found),) * len(models)


def _spread(table: Table, models: int) -> tuple[float, ...]:
    """Return parts of a total: equal ones, or with `zipf = s` in proportion to 1 / k^s for the k-th model."""
    table.allow("total", "zipf")
    power = table.number("zipf", 0.0)
    weights = [(k + 1) ** -power for k in range(models)]
    total = table.number("total")
    return tuple(total * weight / sum(weights) for weight in weights)


def _by_name(table: Table, key: str, found: dict[str, Any], models: Sequence[str]) -> tuple[float, ...]:
    known = set(models)
    for one in found:
        if one not in known:
            raise table.fault(f"{key}.{one}", "is no model of this family", f"The models: {_some(models)}.")
    for model in models:
        if model not in found:
            raise table.fault(key, f"lacks model {model!r}", "Give a rate for each model; 0 is one.")
    return tuple(table.checked(f"{key}.{model}", found[model]) for model in models)


def _of_csv(table: Table, name: str, models: Sequence[str]) -> tuple[float, ...]:
    """Return the rates in a file with a model and its rate in each line; a first line of names may be
    there."""
    from netfuse_onnx.fleet.reading import text_of

    path = os.path.join(os.path.dirname(table.file), name)
    rates: dict[str, float] = {}
    for i, row in enumerate(csv.reader(io.StringIO(text_of(path)))):
        if not row or (i == 0 and [one.strip() for one in row] == ["model", "rate"]):
            continue
        where = f"{path}, line {i + 1}"
        if len(row) != 2:
            raise FileFault(f"{where} has {len(row)} values.", "Each line has a model and its rate: a,12.5.")
        model = row[0].strip()
        if model in rates:
            raise FileFault(f"{where} has model {model!r} again.", "Give each model once.")
        try:
            rates[model] = float(row[1])
        except ValueError as error:
            raise FileFault(f"{where} has the rate {row[1]!r}.", "It is a number.") from error
    return _by_name(Table(path, "", {}), "", rates, models)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
