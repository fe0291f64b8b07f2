"""What the integrators call a limit, in every unit and from every start, and that they finish."""

from __future__ import annotations

import numpy as np
import pytest

import theory
from theory import (
    Factorised,
    FlowError,
    LinearRegression,
    Product,
    SeparableClassification,
    Standard,
    Tied,
    integrate,
)
from theory.bench import setting
from theory.chebyshev import CompletionFlow, chebyshev_flow, follow
from theory.claims import bias
from theory.flows import Decayed
from theory.problems import random_completion


def regression(seed: int, n: int = 4, samples: int = 4, m: int = 4) -> LinearRegression:
    rng = np.random.default_rng(seed)
    return LinearRegression(rng.standard_normal((n, samples)), rng.standard_normal((m, samples)))


@pytest.mark.parametrize("depth", [2, 3])
def test_a_start_at_zero_stays_and_does_not_count_as_converged(depth):
    path = integrate(regression(0), Product([np.zeros((4, 4))] * depth))
    assert not path.converged
    with pytest.raises(FlowError, match="not converged"):
        path.limit()


def test_three_tiny_factors_are_followed_over_the_plateau_at_the_origin():
    problem = LinearRegression(np.diag([2.0, 1.0]), np.diag([1.0, 2.0]))
    path = integrate(problem, Product([1e-4 * np.diag([1.0, 0.8])] * 3))
    assert path.converged
    assert path.times[-1] > 1000
    np.testing.assert_allclose(path.limit(), problem.minimum_norm_solution, atol=1e-8)


def test_a_minimum_of_low_rank_is_a_limit_though_its_gradient_in_w_is_not_small():
    rng = np.random.default_rng(1)
    path = integrate(regression(1), Product([rng.standard_normal((4, 1)), rng.standard_normal((1, 4))]))
    assert path.converged
    assert path.gradient_norms[-1] > 0.1
    path = integrate(regression(1), Tied(rng.standard_normal((1, 4))))
    assert path.converged


@pytest.mark.parametrize("size", [1e-6, 1e-5, 1e3])
@pytest.mark.parametrize("inputs", [False, True])
def test_limits_do_not_depend_on_the_units_of_the_data(size, inputs):
    given = regression(2, 5, 4, 3)
    problem = LinearRegression(given.X * (size if inputs else 1), given.Y * size)
    exact = problem.minimum_norm_solution
    for start in (Standard(np.zeros((5, 3))), Factorised(np.zeros((5, 3)), np.eye(5))):
        path = integrate(problem, start)
        assert np.max(np.abs(path.limit() - exact)) < 1e-9 * np.max(np.abs(exact))


def test_a_loss_without_minimiser_has_no_limit():
    problem = SeparableClassification(np.array([[1.0, 2.0, -1.0], [0.3, -1.0, 1.0]]), [1, 1, -1])
    path = integrate(problem, Standard(np.zeros((2, 1))), horizon=1e3)
    assert not path.converged
    with pytest.raises(FlowError, match="no minimiser"):
        path.limit()


def test_a_velocity_that_does_not_descend_is_named():
    class Uphill(Standard):
        def velocity(self, state, descent):
            return -super().velocity(state, descent)

    with pytest.raises(FlowError, match=r"does not descend|became infinite"):
        integrate(regression(3), Uphill(np.ones((4, 4))))


@pytest.mark.parametrize("scale", [3.0, 30.0, 100.0])
def test_chebyshev_flow_survives_large_starts(scale):
    problem, _ = random_completion(6, 1, 18, [0])
    for flow in (
        Factorised(np.zeros((1, 6, 6)), scale * np.eye(6)[None]),
        bias.gaussian_product(6, 3, scale, [0]),
    ):
        assert follow(problem, flow, stop_loss=1e-8).converged.all()


def test_chebyshev_flow_finishes_in_float32():
    problem, _, factors = setting(2)
    flow = CompletionFlow(problem, 2, np.float32)
    end = chebyshev_flow(flow, factors.reshape(-1).astype(np.float32), stop_loss=1e-6, max_evaluations=1000)
    assert end.converged


def test_compression_leaves_the_flow_where_it_was():
    problem, _, factors = setting(3)
    flow = CompletionFlow(problem, 3)
    state = chebyshev_flow(flow, factors.reshape(-1), stop_loss=0.5).state
    small, inner = flow.compressed(state, 0.05)
    assert inner.size < state.size / 3
    weight = flow.weight(state).copy()
    assert np.linalg.norm(small.weight(inner) - weight) < 0.02 * np.linalg.norm(weight)
    out = np.empty_like(inner)
    small(inner, out)
    step = 1e-6
    before = small.weight(inner).copy()
    change = (small.weight(inner + step * out) - before) / step
    wide = np.empty_like(state)
    flow(state, wide)
    expected = (flow.weight(state + step * wide) - weight) / step
    assert np.linalg.norm(change - expected) < 0.05 * np.linalg.norm(expected)


def test_decay_enters_the_velocity_and_the_test_for_a_limit():
    rng = np.random.default_rng(4)
    problem = regression(4, 3, 6, 2)
    flow = Decayed(Factorised(rng.standard_normal((3, 2)), np.eye(3)), (0.3, 0.3))
    path = integrate(problem, flow, rtol=1e-10, atol=1e-12)
    assert path.converged
    slopes = np.linalg.svd(problem.descent(path.limit()), compute_uv=False)
    assert slopes[0] == pytest.approx(0.3, abs=1e-6)


def test_the_callers_objects_are_not_changed():
    X, Y = np.ones((2, 3)), np.ones((1, 3))
    problem = LinearRegression(X, Y)
    X[:] = 7
    assert np.all(problem.X == 1)
    flow = Standard(np.zeros((2, 1)))
    other = flow.started(np.ones(2))
    assert np.all(flow.initial == 0)
    assert np.all(other.initial == 1)
    completion, _ = random_completion(4, 1, 8, [0])
    values = completion.values.copy()
    completion.scaled(2.0)
    np.testing.assert_array_equal(completion.values, values)


@pytest.mark.parametrize(
    "start",
    [
        theory.Factorised([[1.0]], [[1.0]]),
        theory.DiagonalSimilarity([[1.0]], [1.0]),
        theory.Product([[[0.9]]] * 4),
    ],
)
def test_a_saddle_of_the_wrong_sign_is_no_limit(start):
    path = theory.integrate(theory.LinearRegression([[1.0]], [[-1.0]]), start)
    assert not path.converged
    with pytest.raises(ValueError):
        path.limit()


@pytest.mark.parametrize(("rtol", "unit"), [(1e-3, 1.0), (1e-4, 1e5), (1e-6, 1e9), (1e-6, 1.0)])
def test_a_loose_tolerance_is_not_taken_for_a_flow_that_does_not_descend(rtol, unit):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        problem = theory.LinearRegression(rng.standard_normal((4, 3)), unit * rng.standard_normal((2, 3)))
        start = theory.Factorised(np.zeros((4, 2)), np.eye(4))
        assert theory.integrate(problem, start, rtol=rtol, atol=1e-8).losses[-1] < 1e-6 * unit**2


def test_a_batch_that_starts_at_zero_moves_where_it_can():
    from theory.batched import adaptive_flow

    problem = theory.LinearRegression(np.eye(2)[None], np.ones((1, 1, 2)))
    end = adaptive_flow(problem, theory.Standard(np.zeros((1, 2, 1))), stop_loss=1e-8, horizon=100.0)
    assert end.converged.all()
    still = theory.Factorised(np.zeros((1, 2, 1)), np.zeros((1, 2, 2)))
    assert not adaptive_flow(problem, still, stop_loss=1e-8, horizon=100.0).converged.any()
