"""The sentences of what is wrong with a request: which model, which input, what came, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from netfuse_onnx.runtime.errors import BadInput, TooLarge, UnknownModel
from netfuse_onnx.runtime.ports import Dims, Port

LISTED = 8
"""Names that a sentence lists."""


def unknown_model(model: Any, models: Sequence[str]) -> UnknownModel:
    """Return the error of a model that the file does not have, with the names that are nearest."""
    near = difflib.get_close_matches(str(model), models, LISTED) or models[:LISTED]
    more = f" and {len(models) - len(near)} others" if len(models) > len(near) else ""
    expected = ", ".join(near)
    return UnknownModel(
        f"There is no model {str(model)[:80]!r}.", f"There are {expected}{more}.", model=str(model),
        expected=expected,
    )  # fmt: skip


def names(model: str, wanted: Sequence[str], feeds: Mapping[str, Any]) -> BadInput:
    """Return the error of inputs that are missing, or that the model does not have."""
    expected = ", ".join(wanted)
    missing = [name for name in wanted if name not in feeds]
    if missing:
        said, name = f"Input {missing[0]!r} of model {model!r} is missing.", missing[0]
    else:
        name = str(next(name for name in feeds if name not in wanted))
        said = f"Model {model!r} has no input {name[:80]!r}."
    return BadInput(said, f"It takes {expected}.", model=model, input=name, expected=expected)


def no_mapping(model: str, wanted: Sequence[str], feeds: Any) -> BadInput:
    """Return the error of feeds that are no mapping of names to values."""
    expected = ", ".join(wanted)
    return BadInput(
        f"The feeds of model {model!r} are {type(feeds).__name__}, not a dict of inputs by name.",
        f"It takes {expected}.", model=model, expected=expected,
    )  # fmt: skip


def type_of(model: str, name: str, expected: str, given: str) -> BadInput:
    """Return the error of an input of another type."""
    return BadInput(
        f"Input {name!r} of model {model!r} takes {expected}, and was given {given}.",
        f"Convert it to {expected} first.", model=model, input=name, expected=expected,
    )  # fmt: skip


def shape(model: str, port: Port, place: int, given: tuple[int, ...], sizes: dict[str, Any]) -> None:
    """Check the shape of one input, and take the sizes of its symbols into `sizes`. Raises BadInput for
    another rank or fixed size, for a symbol with two sizes, and for no rows."""
    dims, name = port.dims[place], port.own[place]
    if dims is None:
        if port.rows and not given:
            raise _shape(model, name, ("rows",), given, "it has no rows")
        sizes[port.unknown] = given[port.rows :]
        return
    if len(given) != len(dims):
        raise _shape(model, name, dims, given, "its rank is another one")
    if port.rows and not given[0]:
        raise _shape(model, name, dims, given, "it has no rows")
    for size, dim in zip(given, dims, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise _shape(model, name, dims, given, f"a size is {size}, not {dim}")
        elif sizes.setdefault(dim, size) != size:
            raise _shape(model, name, dims, given, f"{dim!r} is {size} here, and {sizes[dim]} elsewhere")


def _shape(model: str, name: str, dims: Iterable[Any], given: Sequence[int], why: str) -> BadInput:
    expected = written(tuple(dims))
    return BadInput(
        f"Input {name!r} of model {model!r} takes {expected}, and was given {list(given)}: {why}.",
        model=model, input=name, expected=expected,
    )  # fmt: skip


def written(dims: Dims) -> str:
    """Return a shape as people write it: [batch, 8]."""
    return f"[{', '.join(map(str, dims))}]" if dims is not None else "any shape"


def rows(model: str, name: str, given: int, expected: int) -> BadInput:
    """Return the error of inputs with different numbers of rows."""
    return BadInput(
        f"Input {name!r} of model {model!r} has {given} rows, and the inputs before it have {expected}.",
        "Give all inputs of a request the same number of rows.", model=model, input=name,
        expected=f"{expected} rows",
    )  # fmt: skip


def repeated(model: str, name: str) -> BadInput:
    """Return the error of rows that differ where a call takes one row for all."""
    return BadInput(
        f"The rows of input {name!r} of model {model!r} differ, and a call takes one row of it for all.",
        "Send rows that differ as requests of their own.", model=model, input=name, expected="equal rows",
    )  # fmt: skip


def limits(model: str, rows: int, size: int, max_rows: int, max_bytes: int) -> None:
    """Raise TooLarge for more rows or bytes than a request may have."""
    for what, given, most in (("rows", rows, max_rows), ("bytes", size, max_bytes)):
        if given > most:
            raise TooLarge(
                f"The request for model {model!r} has {given} {what}; one request may have {most}.",
                "Split it.", model=model, expected=f"at most {most} {what}",
            )  # fmt: skip
