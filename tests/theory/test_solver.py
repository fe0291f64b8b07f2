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


@pytest.mark.parametrize(
    ("start", "sizes"),
    [
        (Standard(np.zeros((2, 1))), ((1e-2, True), (1e-4, False), (1e-6, False), (1e-17, True))),
        (Factorised(np.zeros((2, 1)), np.eye(2)), ((1e-2, True), (1e-4, False))),
    ],
)
def test_a_mode_too_slow_to_be_seen_is_not_given_out_as_a_limit(start, sizes):
    for size, told in sizes:
        X = np.diag([1.0, size])
        path = integrate(LinearRegression(X, np.ones((1, 2)) @ X), start)
        assert path.converged
        if told:  # the last is zero to rounding: W does not move there, and the limit is that of the rest
            np.testing.assert_allclose(path.limit()[0], 1, atol=1e-6)
        else:
            with pytest.raises(FlowError, match="off the nearest least-squares fit"):
                path.limit()


def test_the_distance_to_the_fits_is_that_of_the_nearest():
    problem = regression(5, 5, 3, 2)
    weight = np.random.default_rng(5).standard_normal((5, 2))
    nearest = problem.null_projector @ weight + problem.minimum_norm_solution
    assert problem.distance_to_fits(weight) == pytest.approx(np.linalg.norm(weight - nearest))


def test_decay_of_decay_adds_up_and_conserves_nothing():
    flow = Factorised(np.ones((2, 1)), np.eye(2))
    twice, once = Decayed(Decayed(flow, (0.1, 0.2)), (0.3, 0.1)), Decayed(flow, (0.4, 0.3))
    state = np.arange(1.0, 7.0)
    assert twice.penalty(state) == pytest.approx(once.penalty(state))
    np.testing.assert_allclose(twice.velocity(state, np.ones((2, 1))), once.velocity(state, np.ones((2, 1))))
    assert twice.invariants(state) == {}
    assert list(Decayed(flow, (0.0, 0.0)).invariants(state)) == list(flow.invariants(state))


def test_tolerances_are_relaxed_to_the_stated_one_and_told(monkeypatch):
    from theory import integrators

    problem = regression(6, 3, 4, 2)
    flow = Factorised(np.zeros((3, 2)), np.eye(3))
    assert integrate(problem, flow).rtol == 1e-13
    monkeypatch.setattr(integrators, "EXPLICIT_BUDGET", 0)
    monkeypatch.setattr(integrators, "IMPLICIT_STEPS", 1)
    path = integrate(problem, flow)
    assert path.rtol == integrators.LOOSEST
    assert set(path.methods) == {"Radau"}


@pytest.mark.parametrize("samples", [1, 2, 12])
def test_the_end_is_kept_however_few_states_are(samples):
    problem, flow = regression(7, 4, 3, 2), Factorised(0.3 * np.ones((4, 2)), np.eye(4))
    path = integrate(problem, flow, horizon=5.0, samples=samples)
    assert path.times[-1] == 5
    path = integrate(problem, flow, stop_loss=1e-3, samples=samples)
    assert path.fitted
    assert path.losses[-1] <= 1e-3


def test_a_wrong_flow_that_becomes_infinite_stays_where_it_was_last_finite():
    from theory.claims import mutants
    from theory.steps import gradient_descent, implicit_midpoint

    rng = np.random.default_rng(1600)
    problem = regression(0, 4, 3, 2)
    flow = Factorised(0.5 * rng.standard_normal((4, 2)), 0.5 * rng.standard_normal((4, 4)))
    runs = (
        lambda: integrate(problem, flow, times=[0.0, 2.0, 3.0]),
        lambda: integrate(problem, flow, horizon=3.0),
        lambda: gradient_descent(problem, flow, step=0.05, steps=100),
        lambda: implicit_midpoint(problem, flow, step=0.02, steps=300),
    )
    for run in runs:
        assert run().losses[-1] < 0.9 * run().losses[0]
    with mutants.applied("wrong order"):
        for run in runs:
            path = run()
            assert np.all(np.isfinite(path.states))
            assert path.losses[-1] > path.losses[0]
            assert not path.converged
            path.limit()
    with pytest.raises(FlowError, match=r"does not descend|became infinite"):
        integrate(problem, WrongOrder(*flow.blocks(flow.initial)), horizon=3.0)


class WrongOrder(Factorised):
    """M^T in place of M: no gradient flow."""

    def velocity(self, state, descent):
        kernel, similarity = self.blocks(state)
        return self.pack(similarity.T @ descent, descent @ kernel.T)


def test_the_bench_repeats_what_is_near_the_fastest():
    from theory import bench

    def row(step, seconds, endpoint=0.001):
        return {"step": step, "cpu_seconds": seconds, "reached": True, "endpoint": endpoint}

    asked = []

    def once(step):
        asked.append(step)
        return row(step, 0.9)

    tried = [row(64.0, 0.1, 0.5), row(32.0, 1.0), row(16.0, 1.2), row(8.0, 2.0)]
    assert bench.best_of_grid(once, tried)["cpu_seconds"] == 0.9
    assert asked == [32.0, 32.0, 16.0, 16.0]
    assert bench.best_of_grid(once, tried[:1]) is None
    assert bench.STEPS[0] / bench.STEPS[1] == pytest.approx(2**0.5, rel=1e-3)
    assert (bench.STEPS[0], bench.STEPS[-1]) == (64, 2)
