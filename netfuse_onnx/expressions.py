"""Evaluates dims that are computed from others: `past + sequence`, `floor(height/2)`, `2*s0 + 1`.

ONNX puts no limit on the names of dims, so `batch-size` is a name like any other. It is read as batch minus
size only where a file has dims `batch` and `size` by themselves. Operators and functions are those that
exporters write: TorchScript, torch.export, the symbolic inference of ONNX Runtime.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

LONGEST = 400
"""A longer text, in characters, is taken for a name."""
MOST = 1 << 31
"""The largest computed size."""
HIGHEST_POWER = 8
"""The largest exponent that is evaluated."""


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or not 0 <= exponent <= HIGHEST_POWER or abs(base) > MOST:
        raise ArithmeticError("no power of a size")
    return Fraction(base ** int(exponent))


BINARY: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
FUNCTIONS: Mapping[str, Callable[..., Fraction]] = {
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "ceiling": lambda a: Fraction(math.ceil(a)),
    "trunc": lambda a: Fraction(math.trunc(a)),
    "abs": abs,
    "max": max,
    "min": min,
    "mod": operator.mod,
    "pythonmod": operator.mod,
    "floordiv": lambda a, b: Fraction(a // b),
    "cleandiv": lambda a, b: Fraction(a // b),
    "ceildiv": lambda a, b: Fraction(-(-a // b)),
    "inttruediv": operator.truediv,
    "floortoint": lambda a: Fraction(math.floor(a)),
    "ceiltoint": lambda a: Fraction(math.ceil(a)),
    "trunctoint": lambda a: Fraction(math.trunc(a)),
}
"""Name in small letters -> function."""


def terms(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the dims in `names` that `text` is computed from, in order; () where it is a name itself."""
    return _parsed(text, _usable(text, names))[1]


def value(text: str, values: Mapping[str, int]) -> int | None:
    """Return the size that `text` evaluates to; None where it is a name that is not in `values`."""
    if text in values:
        return values[text]
    body, dims = _parsed(text, _usable(text, values))
    if body is None:
        return None
    try:
        exact = _evaluate(body, [Fraction(values[name]) for name in dims])
    except (ArithmeticError, TypeError, ValueError):  # a division by 0, or arguments that do not fit
        return 1
    return int(max(0, min(math.floor(exact), MOST)))


def _usable(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that occur in a text, names that contain other names first."""
    inside = {name for name in names if name != text and name in text and not name.strip().isdecimal()}
    return tuple(sorted(inside, key=lambda name: (-len(name), name)))


def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    whole = (rf"(?<![\w.]){re.escape(name)}(?![\w.])" for name in names)
    return re.compile("|".join(whole))


@functools.lru_cache(maxsize=4096)
def _parsed(text: str, names: tuple[str, ...]) -> tuple[ast.expr | None, tuple[str, ...]]:
    """Return the tree of an expression and its dims, the first of which is `v0` there; (None, ()) for a
    name."""
    if not names or len(text) > LONGEST:
        return None, ()
    pattern = _pattern(names)
    words = re.findall(r"[^\W\d]\w*", pattern.sub(" ", text))
    if not {word.lower() for word in words} <= FUNCTIONS.keys():
        return None, ()
    dims = dict[str, None].fromkeys(pattern.findall(text))
    place = {name: f"v{k}" for k, name in enumerate(dims)}
    try:
        body = ast.parse(pattern.sub(lambda match: f" {place[match[0]]} ", text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, ()
    computed = isinstance(body, ast.BinOp | ast.Call) and dims and _is_arithmetic(body)
    return (body, tuple(dims)) if computed else (None, ())


def _is_arithmetic(part: ast.expr) -> bool:
    """True for a tree of numbers, names, arithmetic operators and the FUNCTIONS."""
    if isinstance(part, ast.Constant):
        return type(part.value) in (int, float)
    if isinstance(part, ast.Call):
        named = isinstance(part.func, ast.Name) and part.func.id.lower() in FUNCTIONS
        return named and bool(part.args) and not part.keywords and all(map(_is_arithmetic, part.args))
    if isinstance(part, ast.BinOp):
        return type(part.op) in BINARY and _is_arithmetic(part.left) and _is_arithmetic(part.right)
    if isinstance(part, ast.UnaryOp):
        return isinstance(part.op, ast.USub | ast.UAdd) and _is_arithmetic(part.operand)
    return isinstance(part, ast.Name) and part.id.lower() not in FUNCTIONS


def _evaluate(node: ast.expr, values: list[Fraction]) -> Fraction:
    if isinstance(node, ast.Name):
        return values[int(node.id[1:])]
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp):
        inner = _evaluate(node.operand, values)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        return BINARY[type(node.op)](_evaluate(node.left, values), _evaluate(node.right, values))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_evaluate(argument, values) for argument in node.args]
        return FUNCTIONS[node.func.id.lower()](*arguments)
    raise ValueError("no size")
