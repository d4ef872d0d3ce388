"""Variable elimination gives the minimum: against brute force over all assignments."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from netfuse_onnx.plan.elimination import Problem


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    problem = Problem()
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    for size in sizes:
        problem.variable(size)
    prices = st.sampled_from([0.0, 0.25, 1.0, 2.0, 3.5, 8.0, np.inf])
    for _ in range(draw(st.integers(0, 9))):
        scope = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=0, max_size=3, unique=True))
        count = int(np.prod([sizes[v] for v in scope]))
        flat = draw(st.lists(prices, min_size=count, max_size=count))
        problem.add(scope, np.array(flat).reshape([sizes[v] for v in scope]))
    return problem


def brute(problem: Problem) -> float:
    return min(problem.cost(values) for values in itertools.product(*(range(s) for s in problem.sizes)))


@settings(max_examples=400, deadline=None)
@given(problems())
def test_the_minimum_is_found(problem: Problem) -> None:
    solution = problem.solve()
    assert solution.exact
    assert solution.cost == problem.cost(solution.values) == brute(problem)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_a_cut_search_says_so_and_still_answers(problem: Problem) -> None:
    solution = problem.solve(limit=4)
    assert all(0 <= value < size for value, size in zip(solution.values, problem.sizes, strict=True))
    assert solution.cost == problem.cost(solution.values) >= brute(problem)
    if solution.exact:
        assert solution.cost == brute(problem)


def test_a_chain_of_thousands_is_solved() -> None:
    problem = Problem()
    chain = [problem.variable(4) for _ in range(3000)]
    for left, right in itertools.pairwise(chain):
        problem.add([left, right], 1.0 - np.eye(4))
    problem.add([chain[0]], np.array([5.0, 5, 0, 5]))
    solution = problem.solve()
    assert solution.cost == 0.0 and set(solution.values) == {2}
