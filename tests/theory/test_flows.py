from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import closed_forms
from theory.claims import equations
from theory.flows import (
    DiagonalSimilarity,
    Factorised,
    Parametrisation,
    Product,
    Standard,
    Tied,
    balanced_factors,
    lambda_balanced,
)
from theory.integrators import integrate
from theory.problems import LinearRegression

seeds = st.integers(0, 10**6)
sizes = st.integers(2, 6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seeds, sizes, sizes, sizes)
def test_flow_equations_match_finite_differences_and_the_other_order_does_not(seed, n, samples, m):
    rng = np.random.default_rng(seed)
    found = equations.flow_equation_residuals(
        equations.random_regression(rng, n, samples, m), equations.random_factorised(rng, n, m)
    )
    assert found["parameter flow"] < 1e-12
    assert found["M^T M"] < 1e-12
    assert found["M M^T"] > 1e-6


@pytest.mark.parametrize("kind", ["standard", "factorised", "diagonal", "tied", "deep"])
def test_every_parametrisation_follows_minus_the_gradient_of_its_loss(kind):
    rng = np.random.default_rng(7)
    problem = equations.random_regression(rng, 3, 4, 3)
    made: dict[str, Parametrisation] = {
        "standard": Standard(rng.standard_normal((3, 3))),
        "factorised": equations.random_factorised(rng, 3, 3),
        "diagonal": DiagonalSimilarity(rng.standard_normal((3, 3)), rng.standard_normal(3)),
        "tied": Tied(rng.standard_normal((2, 3))),
        "deep": Product([rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal((2, 3))]),
    }
    flow = made[kind]
    state = flow.initial
    descent = problem.descent(flow.weight(state))
    velocity = flow.velocity(state, descent)
    step = 1e-5
    for j in range(len(state)):
        shift = np.zeros_like(state)
        shift[j] = step
        slope = (problem.loss(flow.weight(state + shift)) - problem.loss(flow.weight(state - shift))) / (2 * step)
        assert velocity[j] == pytest.approx(-slope, abs=1e-6 * (1 + abs(slope)))
    along = (flow.weight(state + step * velocity) - flow.weight(state - step * velocity)) / (2 * step)
    np.testing.assert_allclose(flow.weight_velocity(state, descent), along, atol=1e-4 * np.abs(along).max())


def test_depth_two_is_the_factorised_flow():
    rng = np.random.default_rng(3)
    kernel, similarity = rng.standard_normal((4, 2)), rng.standard_normal((4, 4))
    problem = equations.random_regression(rng, 4, 3, 2)
    times = np.linspace(0, 1, 4)
    ours = integrate(problem, Factorised(kernel, similarity), times=times).weights
    deep = integrate(problem, Product([similarity.T, kernel]), times=times).weights
    np.testing.assert_allclose(ours, deep, atol=1e-12)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seeds)
def test_the_two_dynamics_differ_while_both_fit(seed):
    rng = np.random.default_rng(seed)
    found = equations.path_gap(
        equations.random_regression(rng, 5, 3, 2), equations.random_factorised(rng, 5, 2, 0.5), points=40
    )
    assert found["gap at equal times"] > 0.1
    assert found["gap of the curves, M frozen"] > 0.01
    assert found["loss"] < 1e-12


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seeds)
def test_invariants_hold_and_the_loss_is_what_was_dissipated(seed):
    rng = np.random.default_rng(seed)
    found, _ = equations.conservation(
        equations.random_regression(rng, 5, 3, 2), equations.random_factorised(rng, 5, 2, 0.5)
    )
    assert found["C"] < 1e-11
    assert found["M Pi"] < 1e-13
    assert found["wrong"] > 1e-3
    assert found["dissipation"] < 1e-9
    assert found["integrand"] < 1e-12


@settings(max_examples=5, deadline=None, derandomize=True)
@given(seeds, st.sampled_from([(4, 4, 0.6), (4, 4, 0.0), (3, 3, -0.6), (4, 2, -0.5), (2, 4, -0.5), (4, 2, 0.0)]))
def test_balanced_flows_follow_the_closed_form(seed, case):
    n, m, lam = case
    rng = np.random.default_rng(seed)
    problem = equations.random_regression(rng, n, 2 * n, m).whitened()
    pair = lambda_balanced(0.3 * rng.standard_normal((n, m)), lam, rng)
    found = equations.balanced_closure(problem, pair, lam, np.linspace(0, 4, 6))
    assert max(found.values()) < 1e-10


@pytest.mark.parametrize(("depth", "lam"), [(2, 0.0), (3, 0.0), (4, 0.0), (2, 0.4), (2, -0.7)])
def test_singular_values_move_at_the_stated_rate(depth, lam):
    rng = np.random.default_rng(depth + 11)
    problem = LinearRegression(0.6 * rng.standard_normal((4, 6)), rng.standard_normal((4, 6)))
    start = 0.4 * rng.standard_normal((4, 4))
    flow = lambda_balanced(start, lam, rng) if depth == 2 else Product(list(balanced_factors(start, depth)))
    path = integrate(problem, flow, times=np.linspace(0, 2, 11))
    assert equations.singular_value_residual(problem, path, depth, lam) < 1e-7


def test_standard_flow_is_the_matrix_exponential_even_with_dependent_inputs():
    rng = np.random.default_rng(5)
    problem = equations.random_regression(rng, 5, 3, 2)
    start, times = rng.standard_normal((5, 2)), np.linspace(0, 3, 7)
    path = integrate(problem, Standard(start), times=times)
    np.testing.assert_allclose(path.weights, closed_forms.standard_flow(problem, start, times), atol=1e-10)


def test_saxe_modes_solve_the_diagonal_problem():
    target, start, times = np.array([3.0, 1.0]), 1e-3, np.linspace(0, 6, 9)
    problem = LinearRegression(np.eye(2), np.diag(target))
    path = integrate(problem, Product(list(balanced_factors(start * np.eye(2), 2))), times=times)
    for j in range(2):
        np.testing.assert_allclose(path.weights[:, j, j], closed_forms.saxe_mode(target[j], start, times), atol=1e-10)


def test_closed_form_holds_where_the_determinant_keeps_one_mode_from_being_learned():
    # Balanced flow cannot cross det W = 0: from the wrong side the growing part of Z_0 is singular.
    rng = np.random.default_rng(9)
    problem = equations.random_regression(rng, 4, 8, 4).whitened()
    start = 0.05 * rng.standard_normal((4, 4))
    if np.linalg.det(start) * np.linalg.det(problem.minimum_norm_solution) > 0:
        start[0] *= -1
    found = equations.balanced_closure(problem, lambda_balanced(start, 0.0, rng), 0.0, np.linspace(0, 4, 6))
    assert max(found.values()) < 1e-10


@pytest.mark.parametrize("lam", [2.0, 0.0, -2.0])
def test_a_balanced_pair_keeps_the_digits_of_a_small_weight(lam):
    rng = np.random.default_rng(21)
    weight = 1e-9 * rng.standard_normal((3, 4))
    pair = lambda_balanced(weight, lam, rng)
    np.testing.assert_allclose(pair.weight(pair.initial), weight, atol=1e-13 * np.abs(weight).max())
    kernel, similarity = pair.blocks(pair.initial)
    np.testing.assert_allclose(kernel @ kernel.T - similarity @ similarity.T, lam * np.eye(3), atol=1e-14)


def test_norms_and_ranks_of_a_path_are_those_of_its_weights() -> None:
    rng = np.random.default_rng(0)
    problem = LinearRegression(rng.standard_normal((4, 3)), rng.standard_normal((2, 3)))
    path = integrate(problem, Factorised(0.1 * rng.standard_normal((4, 2)), np.eye(4)), horizon=2.0)
    spectra = np.linalg.svd(path.weights, compute_uv=False)
    np.testing.assert_allclose(path.schatten_norms(1), path.nuclear_norms, rtol=1e-12)
    np.testing.assert_allclose(path.schatten_norms(2), path.frobenius_norms, rtol=1e-12)
    np.testing.assert_allclose(path.schatten_norms(np.inf), spectra[:, 0], rtol=1e-12)
    np.testing.assert_allclose(path.schatten_norms(3), (spectra**3).sum(1) ** (1 / 3), rtol=1e-12)
    share = spectra / spectra.sum(1, keepdims=True)
    np.testing.assert_allclose(path.effective_ranks, np.exp(-(share * np.log(share)).sum(1)), rtol=1e-12)
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        path.schatten_norms(0.5)
