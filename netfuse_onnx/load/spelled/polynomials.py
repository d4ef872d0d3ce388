"""Sizes as polynomials in the sizes of a model's inputs, with integer coefficients.

An atom is a size that is not written with others: that of an axis of an input, `min(n, 128)`, a quotient that
does not come out even. Atoms are at least 0. Two polynomials that are equal are equal in every run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Atom = tuple[object, ...]
"""A key: ("input", index, axis), ("of", value, axis), ("min", polynomial, number), ("quotient", p, q)."""
Monomial = tuple[Atom, ...]
MOST_TERMS = 16
"""The largest number of terms. Sizes that networks compute have few."""


@dataclass(frozen=True, slots=True)
class Poly:
    """The sum of coefficients times monomials, in the order of `_order`."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Poly | int) -> Poly:
        return of_terms([*self.terms, *poly(other).terms])

    def __mul__(self, other: Poly | int) -> Poly:
        rows = [
            (tuple(sorted((*a, *b), key=repr)), x * y) for a, x in self.terms for b, y in poly(other).terms
        ]
        return of_terms(rows)

    def __neg__(self) -> Poly:
        return self * -1

    def __sub__(self, other: Poly | int) -> Poly:
        return self + -poly(other)

    @property
    def constant(self) -> int | None:
        """The number, where there are no atoms."""
        if not self.terms:
            return 0
        ((monomial, factor), *rest) = self.terms
        return None if monomial or rest else factor

    @property
    def atom(self) -> Atom | None:
        """The atom that the polynomial is; None where it is more than one atom, or a number."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            return self.terms[0][0][0]
        return None

    @property
    def natural(self) -> bool:
        """True where it is at least 0 whatever the atoms are."""
        return all(factor >= 0 for _, factor in self.terms)

    @property
    def positive(self) -> bool:
        """True where it is at least 1 whatever the atoms are."""
        return self.natural and any(not monomial for monomial, _ in self.terms)


def poly(value: Poly | int) -> Poly:
    """Return a number as a polynomial."""
    if isinstance(value, Poly):
        return value
    return Poly((((), int(value)),) if value else ())


def of_atom(*key: object) -> Poly:
    return Poly((((key,), 1),))


def of_terms(rows: Iterable[tuple[Monomial, int]]) -> Poly:
    """Return the sum of the rows. Raises ArithmeticError for more terms than sizes have."""
    factors: dict[Monomial, int] = {}
    for monomial, factor in rows:
        factors[monomial] = factors.get(monomial, 0) + factor
    kept = sorted(((m, f) for m, f in factors.items() if f), key=lambda row: (len(row[0]), repr(row[0])))
    if len(kept) > MOST_TERMS:
        raise ArithmeticError("a size with many terms")
    return Poly(tuple(kept))


def product(sizes: Iterable[Poly]) -> Poly:
    total = poly(1)
    for size in sizes:
        total = total * size
    return total


def quotient(a: Poly, b: Poly) -> Poly | None:
    """Return a / b as integers divide, toward 0; None where a sign is unknown, or b may be 0."""
    if (even := exact(a, b)) is not None:
        return even
    divisor = b.constant
    if divisor is None or divisor <= 0:
        return None
    if a.constant is not None:
        return poly(abs(a.constant) // divisor * (1 if a.constant >= 0 else -1))
    return of_atom("quotient", a, b) if a.natural else None


def exact(a: Poly, b: Poly) -> Poly | None:
    """Return the polynomial that is a when multiplied by b, where b is one term that is not 0."""
    if len(b.terms) != 1:
        return poly(1) if b.terms and a == b else None
    ((divisor, factor),) = b.terms
    rows = []
    for monomial, each in a.terms:
        rest = list(monomial)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if each % factor:
            return None
        rows.append((tuple(rest), each // factor))
    return of_terms(rows)


def equal(a: Poly, b: Poly) -> bool | None:
    """Return whether two sizes are equal in every run or in none; None where it depends on the run."""
    if a == b:
        return True
    rest = a - b
    return False if rest.positive or (-rest).positive else None
