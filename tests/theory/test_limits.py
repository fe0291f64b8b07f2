from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import convex, observables
from theory.claims import equations, limits

seeds = st.integers(0, 10**6)


@settings(max_examples=3, deadline=None, derandomize=True)
@given(seeds)
def test_regression_flows_end_where_the_algebra_says(seed):
    rng = np.random.default_rng(seed)
    problem = equations.random_regression(rng, 6, 3, 2)
    found = limits.regression_limits(problem, rng.standard_normal((6, 2)))
    assert found["standard"] < 1e-9
    assert found["factorised"] < 1e-9
    assert found["M^T M"] < 1e-9


def test_one_point_minimises_frobenius_and_nuclear_norm_in_regression():
    rng = np.random.default_rng(1)
    problem = equations.random_regression(rng, 5, 3, 2)
    least = problem.minimum_norm_solution
    for _ in range(50):
        other = least + problem.null_projector @ rng.standard_normal((5, 2))
        assert np.all(observables.singular_values(other) >= observables.singular_values(least) - 1e-12)


@pytest.mark.parametrize("scale", [10.0, 1.0, 0.1, 0.01])
def test_diagonal_flow_ends_at_the_hypentropy_minimiser(scale):
    problem = limits.sparse_regression(np.random.default_rng(31), n=6, samples=3)
    kkt, moved, limit = limits.diagonal_flow(problem, np.zeros(6), np.full(6, scale))
    assert kkt < 1e-8
    assert moved < 1e-8
    exact = convex.minimum_hypentropy(problem.X, problem.Y[0], scale / 2)
    np.testing.assert_allclose(limit, exact, atol=1e-8)


def test_hypentropy_minimiser_is_a_minimum():
    rng = np.random.default_rng(2)
    problem = limits.sparse_regression(rng)
    best = convex.minimum_hypentropy(problem.X, problem.Y[0], 0.2)
    value = convex.hypentropy(best, 0.2)
    for _ in range(50):
        other = best + problem.null_projector @ rng.standard_normal(10) * 10 ** rng.uniform(-4, 0)
        assert convex.hypentropy(other, 0.2) >= value


def test_commuting_sensing_follows_the_spectral_hypentropy_to_the_minimum_but_not_monotonically():
    norms = []
    for scale in (1.0, 0.3, 0.1):
        norm, error = limits.commuting_limit(limits.RISING_SEED, scale)
        assert error < 1e-8
        norms.append(norm)
    assert norms[1] > norms[0] > norms[2]
    for seed in (77, 78, 79):
        gaps = limits.spectral_gaps(seed, (1e-2, 1e-4, 1e-8))
        assert gaps[2] < gaps[1] < gaps[0] + 1e-12


def test_margins_of_the_convex_programs_are_optimal():
    rng = np.random.default_rng(4)
    signed = rng.standard_normal((3, 12))
    signed *= np.sign(np.array([1.0, 2.0, -1.0]) @ signed)
    for norm, order in (("l1", 1), ("l2", 2)):
        direction, margin = convex.maximum_margin(signed, norm)
        assert np.linalg.norm(direction, order) == pytest.approx(1, abs=1e-8)
        trial = rng.standard_normal((3000, 3))
        trial /= np.linalg.norm(trial, ord=order, axis=1, keepdims=True)
        assert np.max(np.min(trial @ signed, axis=1)) <= margin + 1e-9


@pytest.mark.parametrize("unit", [1e-10, 1e-4, 255.0, 1e6])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_margin_is_the_same_in_every_unit(unit, norm):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((5, 30))
    signed = X * np.sign(rng.standard_normal(5) @ X)
    direction, margin = convex.maximum_margin(signed, norm)
    scaled, in_unit = convex.maximum_margin(unit * signed, norm)
    assert in_unit / unit == pytest.approx(margin, rel=1e-9)
    np.testing.assert_allclose(scaled, direction, atol=1e-9)


def test_the_largest_margin_is_that_of_the_shortest_weight_also_where_features_differ_in_size():
    import cvxpy as cp

    rng = np.random.default_rng(2)
    X = rng.standard_normal((3, 20))
    signed = np.diag([1.0, 100.0, 1e4]) @ (X * np.sign(rng.standard_normal(3) @ X))
    weight = cp.Variable(3)
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)
    cp.Problem(cp.Minimize(cp.sum_squares(weight)), [signed.T @ weight >= 1]).solve(solver="CLARABEL", **tight)
    assert convex.maximum_margin(signed, "l2")[1] == pytest.approx(1 / np.linalg.norm(weight.value), rel=1e-5)


def test_a_hypentropy_without_size_is_refused():
    with pytest.raises(ValueError, match="every size"):
        convex.bregman_projection(np.ones((2, 1)), np.ones(1), np.array([0.0, 1.0]), np.zeros(2))


def test_a_wide_balanced_pair_whose_weight_has_lost_rank_is_refused():
    from theory import closed_forms

    with pytest.raises(ValueError, match="must have rank 3"):
        closed_forms.balanced_grams(np.zeros((3, 5)), 0.5)
    closed_forms.balanced_grams(np.zeros((3, 5)), 0.0)
    assert closed_forms.saxe_mode(0.0, 0.5, np.array([0.0, 1.0])) == pytest.approx([0.5, 0.25])
    assert np.all(closed_forms.saxe_mode(1.0, 0.0, np.array([0.0, 1.0, 1e6])) == 0)


@pytest.mark.parametrize("shape", [(3, 3, 0.0), (3, 2, -0.5), (2, 6, 0.5), (4, 2, 0.0)])
@pytest.mark.filterwarnings("error")
def test_the_riccati_solution_stays_at_its_limit_however_long_the_time(shape):
    """Modes that grow by e^v overflow at v t = 709; here v t is up to 1e8."""
    from theory import closed_forms, integrate
    from theory.flows import lambda_balanced
    from theory.problems import LinearRegression

    n, m, lam = shape
    rng = np.random.default_rng(0)
    given = equations.random_regression(rng, n, 8, m)
    problem = LinearRegression(given.X, 5 * given.Y).whitened()
    pair = lambda_balanced(0.3 * rng.standard_normal((n, m)), lam, rng)
    if n == m and np.linalg.det(pair.weight(pair.initial)) * np.linalg.det(problem.minimum_norm_solution) < 0:
        turned = pair.weight(pair.initial) * np.array([-1.0, *np.ones(m - 1)])  # else one mode is never learned
        pair = lambda_balanced(turned, lam, rng)
    times = np.array([0.0, 10.0, 40.0, 50.0, 400.0, 1e7])
    found = closed_forms.whitened_riccati(problem, *pair.blocks(pair.initial), lam, times)
    np.testing.assert_allclose(found[:3], integrate(problem, pair, times=times[:3]).weights, atol=1e-10)
    assert np.max(np.abs(found[3:] - problem.minimum_norm_solution)) < 1e-12


def test_powers_of_e_keep_their_order_and_small_ones_their_value():
    from theory import closed_forms

    np.testing.assert_array_equal(closed_forms._within_range(np.array([3.0, 0.0, 500.0])), [3.0, 0.0, 500.0])
    found = closed_forms._within_range(np.array([3.0, 0.0, 5e5, 5e5, 8e5]))
    assert np.argsort(found, kind="stable").tolist() == [1, 0, 2, 3, 4]
    assert found[-1] <= closed_forms.LARGEST_POWER
    assert found[0] == pytest.approx(3)
    assert found[2] == found[3]
    assert min(found[2], found[4] - found[2]) > 100


def test_an_objective_of_zero_has_no_gap():
    assert convex.penalised_gap(np.ones((2, 3)), np.zeros((2, 3)), 0.5, "rows", np.zeros((2, 2))) == (0, 0)


def test_measurements_that_only_commute_need_not_lead_to_the_minimum():
    gaps = [limits.oblique_gap(seed, 1e-5) for seed in (3, limits.OBLIQUE_SEED)]
    assert gaps == pytest.approx([0.107, 0.153], abs=1e-3)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_a_projection_is_the_same_in_every_unit(unit, size):
    rng = np.random.default_rng(5)
    X, y, start = rng.standard_normal((6, 3)), rng.standard_normal(3), rng.standard_normal(6)
    sizes = rng.uniform(0.5, 1.5, 6)
    exact = convex.bregman_projection(X, y, sizes, start)
    found = convex.bregman_projection(size * X, unit * size * y, unit * sizes, unit * start)
    np.testing.assert_allclose(found / unit, exact, atol=1e-9)
    assert np.all(convex.bregman_projection(X, np.zeros(3), sizes, np.zeros(6)) == 0)


def test_newton_is_not_stopped_by_rounding_of_its_objective():
    rng = np.random.default_rng(85)
    X, y = rng.standard_normal((6, 3)), rng.standard_normal(3)
    found = convex.bregman_projection(X, y, np.full(6, 0.5), np.zeros(6))
    np.testing.assert_allclose(X.T @ found, y, atol=1e-12)


def test_a_program_solved_to_no_tolerance_is_told():
    class Program:
        status = "optimal_inaccurate"

        def solve(self, **_):
            pass

    with pytest.warns(RuntimeWarning, match="its solution is inaccurate"):
        convex._solve(Program(), 1e-8)
