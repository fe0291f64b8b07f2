from __future__ import annotations

import numpy as np
import pytest

from theory import observables
from theory.batched import adaptive_flow
from theory.bench import setting
from theory.chebyshev import CompletionFlow, chebyshev_flow
from theory.claims import bias, margins
from theory.flows import Factorised
from theory.integrators import integrate
from theory.problems import random_completion


def test_batched_flow_agrees_with_the_exact_integrator():
    problem, _ = random_completion(4, 1, 10, [0, 1])
    start = np.broadcast_to(0.5 * np.eye(4), (2, 4, 4))
    pair = Factorised(np.zeros_like(start), start)
    end = adaptive_flow(problem, pair, stop_loss=0.0, horizon=1.5, rtol=1e-9, atol=1e-12)
    exact = integrate(problem, pair, times=[0.0, 1.5])
    np.testing.assert_allclose(end.weights, exact.weights[-1], atol=1e-7)
    np.testing.assert_allclose(end.times, 1.5)


def test_members_of_a_batch_do_not_influence_each_other():
    both, _ = random_completion(4, 1, 10, [0, 1])
    one, _ = random_completion(4, 1, 10, [1])
    start = np.broadcast_to(0.1 * np.eye(4), (2, 4, 4))
    together = adaptive_flow(both, Factorised(np.zeros_like(start), start), stop_loss=1e-4)
    alone = adaptive_flow(one, Factorised(np.zeros((1, 4, 4)), start[:1]), stop_loss=1e-4)
    np.testing.assert_allclose(together.weights[1], alone.weights[0], rtol=1e-9, atol=1e-12)
    assert np.all(together.losses <= 1e-4)


@pytest.mark.parametrize("depth", [2, 3])
def test_completion_flow_computes_the_velocity_of_the_product(depth):
    problem, _ = random_completion(6, 2, 20, [3], mean=True)
    single = problem.single(0)
    product = bias.gaussian_product(6, depth, 0.5, [3])
    state = product.initial[0]
    out = np.empty_like(state)
    loss = CompletionFlow(single, depth)(state, out)
    weight = product.weight(state)
    assert loss == pytest.approx(float(single.loss(weight)))
    np.testing.assert_allclose(out, product.velocity(state, single.descent(weight)), atol=1e-14)


def test_chebyshev_flow_stays_on_the_flow():
    problem, _ = random_completion(6, 1, 20, [5], mean=True)
    single = problem.single(0)
    product = bias.gaussian_product(6, 2, 0.1, [5])
    flow = CompletionFlow(single, 2)
    end = chebyshev_flow(flow, product.initial[0], stop_loss=1e-6, rtol=1e-5, atol=1e-7)
    exact = adaptive_flow(problem, product, stop_loss=0.0, horizon=end.time, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(flow.weight(end.state), exact.weights[0], atol=1e-3)
    assert end.converged


def test_bench_starts_both_sides_from_the_same_small_factors():
    problem, target, factors = setting(3)
    assert factors.shape == (3, 100, 100)
    assert len(problem.values) == 2000
    assert np.linalg.norm(factors[0] @ factors[1] @ factors[2]) == pytest.approx(1e-3 * 10, rel=0.2)
    assert observables.singular_values(target)[5] < 1e-9


def test_margins_approach_the_maximum_of_the_norm_that_the_structure_chooses():
    rng = np.random.default_rng(21)
    problem = margins.separable_data(rng, n=3, count=8)
    free, diagonal = margins.small_starts(problem, rng)
    levels = (-10.0, -300.0)
    assert margins.margin_path(problem, free, levels).l2[-1] > 0.98
    ours = margins.margin_path(problem, diagonal, levels)
    assert ours.l1[-1] > ours.l1[0]
    assert ours.l1[-1] > 0.9
