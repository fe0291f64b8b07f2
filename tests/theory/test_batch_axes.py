"""Batch axes of data and starts: several problems at once are each what they are alone, or refused in a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from theory import (
    LinearRegression,
    MatrixCompletion,
    MatrixSensing,
    Standard,
    adaptive_flow,
    gradient_descent,
    integrate,
)
from theory.chebyshev import follow
from theory.claims import ledger
from theory.problems import Problem
from theory.steps import implicit_midpoint


def completions() -> tuple[MatrixCompletion, list[MatrixCompletion]]:
    rows, columns = [[0, 1, 2], [0, 1, 1]], [[0, 1, 0], [0, 1, 0]]
    values = np.random.default_rng(0).standard_normal((2, 3))
    alone = [MatrixCompletion((3, 2), *parts) for parts in zip(rows, columns, values)]
    return MatrixCompletion((3, 2), rows, columns, values), alone


def regressions(count: int) -> tuple[LinearRegression, list[LinearRegression]]:
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((count, 4, 5)), rng.standard_normal((count, 2, 5))
    return LinearRegression(X, Y), [LinearRegression(*parts) for parts in zip(X, Y)]


@pytest.mark.parametrize("shared", [False, True])
def test_a_path_of_several_completions_has_the_numbers_of_each(shared: bool) -> None:
    together, alone = completions()
    path = integrate(together, Standard(np.zeros((3, 2) if shared else (2, 3, 2))), times=[0.0, 1.0, 3.0])
    for member, problem in enumerate(alone):
        one = integrate(problem, Standard(np.zeros((3, 2))), times=[0.0, 1.0, 3.0])
        np.testing.assert_allclose(path.weights[:, member], one.weights, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(path.losses[:, member], one.losses, rtol=1e-7)
        np.testing.assert_allclose(path.gradient_norms[:, member], one.gradient_norms, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_start_serves_any_number_of_problems(count: int) -> None:
    together, alone = regressions(count)
    start = Standard(np.ones((4, 2)))
    ends = [
        integrate(together, start, times=[0.0, 0.3]).weights[-1],
        gradient_descent(together, start, step=0.01, steps=30).weights[-1],
        implicit_midpoint(together, start, step=0.01, steps=30).weights[-1],
    ]
    for member, problem in enumerate(alone):
        for end, one in zip(
            ends,
            [
                integrate(problem, start, times=[0.0, 0.3]),
                gradient_descent(problem, start, step=0.01, steps=30),
                implicit_midpoint(problem, start, step=0.01, steps=30),
            ],
        ):
            np.testing.assert_allclose(end[member], one.weights[-1], rtol=1e-6)


@pytest.mark.parametrize(("problems", "starts"), [(3, 1), (3, 2), (2, 3)])
def test_adaptive_flow_refuses_another_number_of_starts(problems: int, starts: int) -> None:
    """With one start it followed the first problem only, and said that it had converged."""
    together, _ = regressions(problems)
    with pytest.raises(ValueError, match=r"follows \d initial states, but the problem is a batch of"):
        adaptive_flow(together, Standard(np.zeros((starts, 4, 2))), stop_loss=0.5, horizon=50)
    with pytest.raises(ValueError, match=r"follow follows \d initial states"):
        follow(together, Standard(np.zeros((starts, 4, 2))), stop_loss=0.5)


class Summed(Problem):
    """A user's problem whose loss is summed over too few axes."""

    def __init__(self, keep: bool) -> None:
        self.shape, self.keep = (4, 2), keep

    def loss(self, weight: np.ndarray) -> np.ndarray:
        axes = (-2, -1) if self.keep else -1
        return 0.5 * np.sum(weight**2, axis=axes, keepdims=self.keep)

    def descent(self, weight: np.ndarray) -> np.ndarray:
        return -weight


@pytest.mark.parametrize("keep", [False, True])
def test_a_loss_of_another_shape_is_no_batch(keep: bool) -> None:
    with pytest.raises(ValueError, match="the problem's loss must take weights"):
        integrate(Summed(keep), Standard(np.ones((4, 2))), times=[0.0, 1.0])


def test_a_batch_of_completions_serves_every_method_from_one_start() -> None:
    together, alone = completions()
    end = gradient_descent(together, Standard(np.zeros((3, 2))), step=0.1, steps=5).weights[-1]
    one = [gradient_descent(each, Standard(np.zeros((3, 2))), step=0.1, steps=5).weights[-1] for each in alone]
    np.testing.assert_allclose(end, one)


def test_two_batch_axes_are_followed_or_refused_in_one_sentence() -> None:
    rng = np.random.default_rng(2)
    two = LinearRegression(rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 2, 5)))
    start = Standard(np.zeros((2, 3, 4, 2)))
    assert integrate(two, start, times=[0.0, 1.0], method="DOP853").losses.shape == (2, 2, 3)
    with pytest.raises(ValueError, match=r"the data have 2 batch axes.*reshape them"):
        integrate(two, start, times=[0.0, 1.0], method="Radau")
    sensing = MatrixSensing(rng.standard_normal((2, 3, 5, 4, 2)), rng.standard_normal((2, 3, 5)))
    with pytest.raises(ValueError, match="the data have 2 batch axes"):
        sensing.members(np.array([0]))


def test_a_claim_is_found_by_its_number_and_mutants_may_come_one_by_one() -> None:
    assert ledger.find(3) == ledger.find("3")
    with pytest.raises(ValueError, match="mutants must be names in a list, got the text 'preconditioned'"):
        ledger.claim(id="as-text", statement="", source="", threshold="", mutants="preconditioned")
    try:
        name = "one-by-one"
        ledger.claim(id=name, statement="", source="", threshold="", mutants=(m for m in ("preconditioned",)))(
            lambda settings: None  # type: ignore[arg-type, return-value]
        )
        assert ledger.find(name).mutants == ("preconditioned",)
        with pytest.raises(TypeError, match=r"the claim one-by-one must return a theory\.Finding, got NoneType"):
            ledger.check(name)
    finally:
        ledger._REGISTRY.pop("one-by-one", None)


def test_a_shape_that_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape must be the two sizes \(n, m\) of W, got 3"):
        MatrixCompletion(3, [0], [0], [1.0])  # type: ignore[arg-type]
