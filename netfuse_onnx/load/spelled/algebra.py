"""Polynomials that small groups of operators compute: factors and terms may have any order and nesting."""

from __future__ import annotations

import math
from collections.abc import Mapping

from netfuse_onnx.load.spelled.engine import Forms
from netfuse_onnx.storage.numbers import BFLOAT16, DOUBLE, FLOAT16
from netfuse_onnx.types import Node

DEPTH = 8
"""The longest chain of operators that is read."""
Powers = tuple[int, ...]
Polynomial = Mapping[Powers, float]
"""The exponents of the atoms -> the coefficient of this term."""


def tolerance(dtype: int) -> float:
    """Return the relative error by which a constant may miss a number that its type can't hold."""
    return {FLOAT16: 2.0**-11, BFLOAT16: 2.0**-8, DOUBLE: 1e-9}.get(dtype, 1e-6)


def equals(found: Polynomial | None, wanted: Polynomial, dtype: int) -> bool:
    """Return True where two polynomials have the same terms, and coefficients that round alike."""
    if found is None or found.keys() != wanted.keys():
        return False
    near = 2 * tolerance(dtype)
    return all(math.isclose(found[term], wanted[term], rel_tol=near) for term in wanted)


def polynomial(forms: Forms, name: str, atoms: Mapping[str, int], depth: int = DEPTH) -> Polynomial | None:
    """Return a value as a polynomial of the atoms, which are numbered from 0 on; None where it is none."""
    zero = (0,) * len(atoms)
    if name in atoms:
        return {tuple([int(k == atoms[name]) for k in range(len(atoms))]): 1.0}
    if (number := forms.number(name)) is not None:
        return {zero: number} if all(forms.keeps_rank(atom, name) for atom in atoms) else None
    node = forms.producer(name, "Mul", "Add", "Sub", "Div", "Neg", "Pow")
    if node is None or depth == 0:
        return None
    parts = [polynomial(forms, each, atoms, depth - 1) for each in node.inputs]
    if any(part is None for part in parts):
        return None
    return _computed(node, [part for part in parts if part is not None], zero)


def _computed(node: Node, parts: list[Polynomial], zero: Powers) -> Polynomial | None:
    """Return what an operator makes of polynomials."""
    first, last = parts[0], parts[-1]
    constant = last[zero] if last.keys() == {zero} else None
    match node.op:
        case "Neg":
            return _times(first, {zero: -1.0})
        case "Mul":
            return _times(first, last)
        case "Add":
            return _plus(first, last)
        case "Sub":
            return _plus(first, _times(last, {zero: -1.0}))
        case "Div" if constant:
            return _times(first, {zero: 1.0 / constant})
        case "Pow" if constant in (2.0, 3.0):
            square = _times(first, first)
            return square if constant == 2.0 else _times(square, first)
    return None


def _times(one: Polynomial, other: Polynomial) -> Polynomial:
    product: dict[Powers, float] = {}
    for a, left in one.items():
        for b, right in other.items():
            term = tuple([i + j for i, j in zip(a, b, strict=True)])
            product[term] = product.get(term, 0.0) + left * right
    return product


def _plus(one: Polynomial, other: Polynomial) -> Polynomial:
    return {term: one.get(term, 0.0) + other.get(term, 0.0) for term in [*one, *(other.keys() - one.keys())]}


def inside(forms: Forms, name: str, *keys: str, depth: int = 4) -> Node | None:
    """Return the nearest node of one of these operators from which sums and products make a value."""
    node = forms.producers.get(name)
    if node is None or depth == 0:
        return None
    if node.key in keys:
        return node
    if node.key not in ("Mul", "Add", "Sub", "Div"):
        return None
    return next(filter(None, [inside(forms, each, *keys, depth=depth - 1) for each in node.inputs]), None)


def candidates(forms: Forms, name: str, depth: int = DEPTH) -> list[str]:
    """Return the computed values that a value is made of by sums and products, itself first."""
    found = dict.fromkeys([name])
    node = forms.producer(name, "Mul", "Add", "Sub", "Div", "Neg", "Pow") if depth else None
    for each in node.inputs if node else ():
        if each not in forms.weights:
            found.update(dict.fromkeys(candidates(forms, each, depth - 1)))
    return list(found)
