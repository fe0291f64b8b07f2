"""The statements about NSL itself, on problems that the ledger does not use."""

from __future__ import annotations

import numpy as np
import pytest

from theory import convex, observables
from theory.claims import bias, blocks, equations, filters, limits, margins, predictor, start, training


@pytest.mark.parametrize("seed", [11, 12])
def test_the_shared_block_tends_to_the_minimum_nuclear_norm_of_the_unfolding(seed):
    problem, target = blocks.shared_block_problem(seed, channels=3, filters=4, patches=15)
    assert float(problem.loss(target)) < 1e-20
    least = convex.minimum_nuclear_norm(problem.A, problem.y)[1]
    plain = observables.nuclear_norm(blocks.minimum_frobenius(problem)) / least - 1
    ours = observables.nuclear_norm(blocks.shared_flow(problem, 0.01)) / least - 1
    assert 0 <= ours < 0.25 * plain


def test_the_shared_block_problem_is_a_convolution_with_that_kernel():
    import torch

    rng = np.random.default_rng(0)
    kernel, similarity = rng.standard_normal((4, 4, 9)), rng.standard_normal((9, 9))
    problem, _ = blocks.shared_block_problem(3)
    unfolded = np.einsum("lk,fcl->kcf", similarity, kernel).reshape(9, 16)
    patches = problem.A.reshape(20, 4, 9, 4, 4)[:, 0, :, :, 0]  # [patch, tap, channel] of the first filter
    stated = np.einsum("fcl,lk,pkc->pf", kernel, similarity, patches)
    predicted = np.einsum("ikm,km->i", problem.A, unfolded).reshape(20, 4)
    np.testing.assert_allclose(predicted, stated, atol=1e-12)
    layer = torch.nn.functional.conv2d(
        torch.from_numpy(patches.transpose(0, 2, 1).reshape(20, 4, 3, 3).copy()),
        torch.from_numpy(np.einsum("lk,fcl->fck", similarity, kernel).reshape(4, 4, 3, 3).copy()),
    )
    np.testing.assert_allclose(layer.numpy()[:, :, 0, 0], stated, atol=1e-12)


@pytest.mark.parametrize("seed", [5, 6])
def test_a_bounded_predictor_keeps_the_degree_one_and_a_linear_head_doubles_it(seed):
    maps = np.random.default_rng(seed).standard_normal((3, 6, 6))
    for depth in (1, 2, 3):
        layers = predictor.network(seed, depth)
        assert predictor.homogeneity(layers, "sphere", maps) == pytest.approx(1, abs=1e-3)
        assert predictor.homogeneity(layers, "linear", maps) == pytest.approx(2**depth, abs=1e-3)
    free, reached = predictor.largest_output(seed)
    assert free <= 1 + 1e-12
    assert reached == pytest.approx(1, abs=1e-12)


def test_a_zero_patch_predicts_nothing():
    _, first, second = predictor.network(0, 1)[0]
    assert np.all(predictor.sphere_predictor(first, second, np.zeros((3, 6, 6))) == 0)


@pytest.mark.parametrize("seed", [31, 32])
def test_the_practical_start_has_its_closed_forms(seed):
    assert start.projection_gap(seed) < 1e-8
    identity, moved = start.off_range_gap(seed)
    assert identity < 1e-12 < moved
    assert max(start.zero_kernel_gap(seed)) < 1e-10


@pytest.mark.parametrize("norm", ["nuclear", "rows"])
def test_equal_decay_is_the_convex_penalty(norm):
    rng = np.random.default_rng(41)
    problem = equations.random_regression(rng, 3, 6, 2)
    flow = (
        equations.random_factorised(rng, 3, 2, 0.5)
        if norm == "nuclear"
        else limits.DiagonalSimilarity(rng.standard_normal((3, 2)), np.ones(3))
    )
    gap, difference = training.decayed_gap(problem, flow, 0.4, norm)
    assert abs(gap) < 1e-8
    assert difference < 1e-6


def test_the_duality_gap_tells_a_point_that_is_no_minimum():
    rng = np.random.default_rng(42)
    problem = equations.random_regression(rng, 3, 6, 2)
    assert convex.penalised_gap(problem.X, problem.Y, 0.4, "nuclear", problem.minimum_norm_solution)[0] > 1e-3


def test_momentum_changes_the_balance_as_stated():
    rng = np.random.default_rng(43)
    problem, pair = equations.random_regression(rng, 3, 3, 2), equations.random_factorised(rng, 3, 2, 0.5)
    assert training.heavy_ball_residual(problem, pair, 0.5, 2.0) < 1e-9


@pytest.mark.parametrize("seed", [51, 52])
def test_dynamic_filters_dilation_and_shapes_are_similarities(seed):
    assert filters.dynamic_filter_gap(seed) < 1e-12
    assert filters.dilation_gap(seed) < 1e-12
    assert filters.shape_gap(seed) < 1e-12


def test_factors_of_a_classifier_align():
    rng = np.random.default_rng(61)
    problem = margins.separable_data(rng)
    free, _ = margins.small_starts(problem, rng)
    assert float(problem.log_loss(free.weight(free.initial))) < np.log(problem.X.shape[1])
    spread, off = margins.alignment(free, margins.margin_path(problem, free, (-30.0, -300.0)).states)
    assert spread[1] < 0.5 * spread[0]
    assert off[1] < 1e-6


def test_norms_diverge_from_one_determinant_and_not_from_the_other():
    begin = np.array([[0.4, 0.1], [-0.1, 0.3]])
    corner, losses = bias.corner_path(begin, until=1e4)
    assert bias.divergence_slope(corner, losses, below=1e-2) == pytest.approx(-0.5, abs=0.03)
    corner, losses = bias.corner_path(begin * np.array([[1.0], [-1.0]]), until=1e4)
    assert corner.max() < 10
    assert losses[-1] < 1e-5


def test_the_counterexample_goes_to_rank_one_against_its_norm():
    path = bias.counterexample_path((1e-2, 1e-4))
    assert path.gap[1] > path.gap[0] > 0.05
    assert path.distance[1] < path.distance[0]


@pytest.mark.parametrize("shape", [(3, 5, 0.6), (2, 4, 0.3)])
def test_the_closed_form_holds_for_more_outputs_than_inputs_and_positive_lambda(shape):
    n, m, lam = shape
    rng = np.random.default_rng(71)
    problem = equations.random_regression(rng, n, 2 * n, m).whitened()
    pair = equations.lambda_balanced(0.3 * rng.standard_normal((n, m)), lam, rng)
    assert max(equations.balanced_closure(problem, pair, lam, np.linspace(0, 4, 6)).values()) < 1e-10
