"""Reads FLEET.toml: families, machines, targets. Other files that it names are beside it.

All errors are one sentence with the file and the key. docs/fleet.md has the keys.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from netfuse_onnx.errors import FileFault
from netfuse_onnx.fleet.rates import rates_of
from netfuse_onnx.fleet.times import Times
from netfuse_onnx.fleet.types import Family, Fleet, Kind
from netfuse_onnx.fleet.values import Table
from netfuse_onnx.runtime import bundle
from netfuse_onnx.runtime.cost_table import AloneTime, CostTable, MergedTime

MOST_BYTES = 1 << 28
"""The largest file that is read, in bytes."""
MOST_MODELS = 100_000
MOST_WORKERS, MOST_SPARE = 1024, 63
"""The most workers of a machine, and the most spare machines: a group has 64 replicas at most."""
DEFAULTS = {"overhead": 0.0005, "process": 90_000_000, "spare": 0}
"""Processor seconds of a request around its call, and bytes of a process: what the server of `netfuse-onnx
serve` may take at most on the machine where it was measured. Spare machines."""
TOP = ("p99", "spare", "overhead", "process", "objective", "machine", "family")
MACHINE = ("kind", "memory", "workers", "count", "price", "speed")
FAMILY = (
    "name", "models", "rates", "weights", "base", "costs", "bundle", "p99", "spare", "overhead", "process",
    "own_sessions", "max_models", "rows_apart", "path",
)  # fmt: skip


def read(path: str) -> Fleet:
    """Return the fleet that a file describes. Raises FileFault."""
    try:
        given = tomllib.loads(text_of(path))
    except tomllib.TOMLDecodeError as error:
        raise FileFault(f"{path} is no TOML: {error}.", "See docs/fleet.md for an example.") from error
    top = Table(path, "", given)
    top.allow(*TOP)
    kinds = tuple(_kind(one) for one in top.tables("machine"))
    _distinct(top, "machine", "kind", [kind.name for kind in kinds])
    families = tuple(_family(one, top) for one in top.tables("family"))
    _distinct(top, "family", "name", [family.name for family in families])
    objective = top.text("objective", "price" if _has_prices(top) else "machines")
    if objective not in ("price", "machines"):
        raise top.fault("objective", f"is {objective!r}", 'It is "price" or "machines".')
    return Fleet(families, kinds, objective == "price", path)


def text_of(path: str) -> str:
    """Return the text of a file. Raises FileFault."""
    try:
        with open(path, "rb") as file:
            found = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise FileFault(f"{path} does not exist.", "Check the path.") from error
    except (OSError, ValueError) as error:
        raise FileFault(f"{path} can't be read: {error}.", "Check the path.") from error
    if len(found) > MOST_BYTES:
        raise FileFault(f"{path} has more than {MOST_BYTES} bytes.", "Check the path.")
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFault(f"{path} is no text in UTF-8: {error}.", "Check the path.") from error


def beside(file: str, path: str) -> str:
    """Return a path that a file names, which is relative to that file's folder."""
    return os.path.join(os.path.dirname(file), path)


def _distinct(top: Table, key: str, name: str, found: Sequence[str]) -> None:
    for i, one in enumerate(found):
        if one in found[:i]:
            raise top.fault(f"{key}[{i}].{name}", f"is {one!r}, as that of {key}[{found.index(one)}] is")


def _has_prices(top: Table) -> bool:
    return any(one.has("price") for one in top.tables("machine"))


def _kind(table: Table) -> Kind:
    table.allow(*MACHINE)
    return Kind(
        table.text("kind"),
        table.bytes("memory", least=1),
        table.whole("workers", least=1, most=MOST_WORKERS),
        table.whole("count", least=1) if table.has("count") else None,
        table.number("price", 1.0, above=True),
        table.number("speed", 1.0, above=True),
    )


def _family(table: Table, top: Table) -> Family:
    table.allow(*FAMILY)
    name = table.text("name")
    source = table if table.has("p99") or not top.has("p99") else top
    opened = _opened(table)
    times = Times(_table(table), _rows_apart(table, opened))
    models = _models(table, opened, name)
    rates = rates_of(table, models)
    family = Family(
        name, models, rates, (), times, source.number("p99", above=True), 0,
        (table if table.has("spare") else top).whole("spare", int(DEFAULTS["spare"]), most=MOST_SPARE),
        (table if table.has("overhead") else top).number("overhead", DEFAULTS["overhead"]),
        (table if table.has("process") else top).bytes("process", int(DEFAULTS["process"])),
        table.whole("own_sessions") if table.has("own_sessions") else None,
        table.whole("max_models", 4 * times.measured, least=1),
        table.text("path", "{model}.onnx"),
    )  # fmt: skip
    return _with_memory(family, table, opened)


def _opened(table: Table) -> bundle.Bundle | None:
    if not table.has("bundle"):
        return None
    return bundle.read(beside(table.file, table.text("bundle")))


def _rows_apart(table: Table, opened: bundle.Bundle | None) -> bool:
    found = table.given.get("rows_apart", opened.rows_apart if opened else True)
    if not isinstance(found, bool):
        raise table.fault("rows_apart", f"is {found!r}", "It is true or false.")
    return found


def _models(table: Table, opened: bundle.Bundle | None, family: str) -> tuple[str, ...]:
    """Return the names of the models: as given, of the bundle, or family-1, family-2 and so on."""
    if not table.has("models"):
        if opened:
            return opened.models
        found: Any = table.given.get("rates")
        if isinstance(found, dict) and not {"zipf", "uniform", "total"} & found.keys():
            return tuple(found)
        raise table.fault("models", "is missing", "Give a number, or a list of names.")
    found = table.raw("models")
    if isinstance(found, int):
        count = table.whole("models", least=1)
        if count > MOST_MODELS:
            raise table.fault("models", f"is {count}", f"At most {MOST_MODELS} are planned.")
        return tuple(f"{family}-{i + 1}" for i in range(count))
    if not isinstance(found, list) or not found or not all(isinstance(one, str) and one for one in found):
        raise table.fault("models", "is no list of names", "Give a number, or a list of names.")
    if len(set(found)) < len(found):
        twice = next(one for i, one in enumerate(found) if one in found[:i])
        raise table.fault("models", f"has {twice!r} twice", "Give each model once.")
    return tuple(found)


def _with_memory(family: Family, table: Table, opened: bundle.Bundle | None) -> Family:
    """Return the family with the bytes of its weights: as given, or those of the bundle's files."""
    base, weights = 0, [0] * len(family.models)
    if opened and not table.has("weights"):
        by_name = {view.model: view.shared + view.again for view in opened.views}
        missing = [model for model in family.models if model not in by_name]
        if missing:
            raise table.fault("models", f"has {missing[0]!r}, which the bundle has not", "Give weights.")
        data = sum(file.bytes for file in opened.files.values()) - sum(v.again for v in opened.views)
        several = sum(view.shared for view in opened.views) - data
        base = max(0, int(several / (len(opened.views) - 1))) if len(opened.views) > 1 else 0
        base = min(base, *by_name.values()) if base > MEASURABLE * data else 0
        weights = [by_name[model] - base for model in family.models]
    else:
        weights = _sizes(table, family.models)
    return replace(family, base=table.bytes("base", base), weights=tuple(weights))


MEASURABLE = 0.02
"""Weights that views share with each other count as a common base from this part of the data on."""


def _sizes(table: Table, models: Sequence[str]) -> list[int]:
    """Return the bytes of each model's weights: one amount for all, a list, or a table by names."""
    found = table.raw("weights")
    if isinstance(found, list):
        if len(found) != len(models):
            raise table.fault("weights", f"has {len(found)} amounts for {len(models)} models")
        return [table.amount(f"weights[{i}]", one) for i, one in enumerate(found)]
    if isinstance(found, dict):
        for model in models:
            if model not in found:
                raise table.fault("weights", f"lacks model {model!r}", "Give an amount for each model.")
        for one in found:
            if one not in models:
                raise table.fault(f"weights.{one}", "is no model of this family")
        return [table.amount(f"weights.{model}", found[model]) for model in models]
    return [table.amount("weights", found)] * len(models)


# --------------------------------------------------------------------------- cost tables


def _table(table: Table) -> CostTable:
    """Return the cost table: inline, of a file, or measured on the bundle."""
    if not table.has("costs"):
        return _measured(beside(table.file, table.text("bundle")), table)
    given = table.raw("costs")
    where = table.where + ".costs"
    if isinstance(given, str):
        path = beside(table.file, given)
        try:
            given = json.loads(text_of(path))
        except (ValueError, RecursionError) as error:
            raise FileFault(
                f"{path} is no JSON: {error}.", "Write it with `netfuse-onnx serve --costs`."
            ) from error
        where, table = "", Table(path, "", given)
    return _costs(Table(table.file, where, given))


def _costs(table: Table) -> CostTable:
    """Return the cost table of an inline table or a JSON value, all numbers checked."""
    table.allow("netfuse_costs", "models", "workers", "threads", "alone", "merged", "pays_from")
    merged = [
        MergedTime(
            one.whole("models", least=1), one.whole("rows", least=1), one.number("seconds", above=True)
        )
        for one in table.tables("merged")
    ]
    alone = []
    if table.given.get("alone"):
        alone = [
            AloneTime(one.whole("rows", least=1), one.number("seconds", above=True))
            for one in table.tables("alone")
        ]
        if not any(one.rows == 1 for one in alone):
            raise table.fault("alone", "has no call of one row", "Add {rows = 1, seconds = ...}.")
    models = table.whole("models", max(one.models for one in merged), least=1)
    return CostTable(models, 1, 1, tuple(alone), tuple(merged), None)


def _measured(path: str, table: Table) -> CostTable:
    """Return the cost table of a bundle, measured on this machine."""
    from netfuse_onnx.runtime.session import MergedSession

    if not Path(path).is_dir():
        raise table.fault("bundle", f"is {path}, which is no folder", "Merge with --views, or give costs.")
    with MergedSession(path) as session:
        return session.cost_table()
