"""The statements about NSL itself, on problems that the ledger does not use."""

from __future__ import annotations

import numpy as np
import pytest

from theory import FlowError, convex, figures, observables
from theory.claims import (
    bias,
    blocks,
    equations,
    families,
    filters,
    limits,
    margins,
    practice,
    predictor,
    start,
    training,
)


@pytest.mark.parametrize("seed", [11, 12])
def test_the_shared_block_tends_to_the_minimum_nuclear_norm_of_the_unfolding(seed):
    problem, target = blocks.shared_block_problem(seed, channels=3, filters=4, patches=15)
    assert float(problem.loss(target)) < 1e-20
    least = convex.minimum_nuclear_norm(problem.A, problem.y)[1]
    plain = observables.nuclear_norm(blocks.minimum_frobenius(problem)) / least - 1
    ours = observables.nuclear_norm(blocks.shared_flow(problem, 0.01)) / least - 1
    assert 0 <= ours < 0.25 * plain


@pytest.mark.parametrize("module", [blocks, families, limits, practice])
def test_a_flow_that_stops_on_the_way_is_no_end_to_compare(module, monkeypatch):
    """Its nuclear norm would lie below every minimum, and pass any gate on a gap."""
    from theory.claims.ledger import Settings

    follow = module.follow
    monkeypatch.setattr(module, "follow", lambda *given, **options: follow(*given, **options, max_evaluations=20))
    run = {
        blocks: lambda: blocks.shared_flow(blocks.shared_block_problem(1)[0], 0.01),
        families: lambda: families.counterexample_path((1e-3,)),
        limits: lambda: limits._rank_ratios([0]),
        practice: lambda: practice.completions_from_identity(Settings(quick=True)),
    }[module]
    with pytest.raises(FlowError, match="flows stopped before they reached the loss"):
        run()


def test_a_norm_below_the_minimum_is_named():
    assert convex.excess([1.1, 1.0 - 1e-6], 1.0) == pytest.approx([0.1, -1e-6])
    with pytest.raises(ValueError, match="below the least one of all fits"):
        convex.excess([1.1, 0.9], 1.0)


def test_margins_are_read_at_levels_that_are_reached(monkeypatch):
    rng = np.random.default_rng(61)
    problem = margins.separable_data(rng)
    flow = margins.adaptive_flow
    monkeypatch.setattr(margins, "adaptive_flow", lambda *given, **options: flow(*given, **{**options, "max_steps": 5}))
    with pytest.raises(FlowError, match="1 of 1 flows stopped"):
        margins.margin_path(problem, margins.small_starts(problem, rng)[0], (-30.0,))


def test_the_kernels_of_a_network_are_unfolded_where_the_block_acts():
    import torch

    import nsl

    layer = nsl.NSConv2d(4, 5, 3, bias=False, similarity="unconstrained")
    with torch.no_grad():
        layer.similarity.copy_(torch.outer(torch.arange(9.0), torch.ones(9)).reshape(layer.similarity.shape))
    (kernel,) = practice.effective_kernels(torch.nn.Sequential(layer))
    assert kernel.shape == (9, 20)
    assert np.linalg.matrix_rank(kernel, tol=1e-4) == 1  # that of M_s


def test_the_baseline_without_bias_is_where_the_standard_flow_ends():
    from theory import Standard, integrate
    from theory.problems import random_completion

    problem, _ = random_completion(5, 1, 12, [0, 1])
    starts = np.random.default_rng(0).standard_normal((2, 5, 5))
    ends = practice.standard_ends(problem, starts)
    np.testing.assert_allclose(integrate(problem, Standard(starts)).limit(), ends, atol=1e-9)


def test_a_training_is_recorded_to_its_end(monkeypatch):
    """`before_step` is told of 0 to 4 only."""
    import torch

    built = []

    def kernels(model):
        built.append(model)
        return [next(p for p in model.parameters() if p.ndim == 4).detach().double().flatten(1).numpy().copy()]

    monkeypatch.setattr(practice, "effective_kernels", kernels)
    path = practice.track_training("cnn9", 5, every=2)
    assert path["iteration"].tolist() == [0, 2, 4, 5]
    assert path["frobenius_norm"][-1] == observables.frobenius_norm(kernels(built[-1])[0])
    assert path["frobenius_norm"][-1] != path["frobenius_norm"][-2]
    assert isinstance(built[-1], torch.nn.Module)


def test_the_shared_block_comes_to_the_target_of_low_rank_and_not_to_the_small_norm():
    end = blocks._ends(2004, (0.01, 1e-5))
    assert end.apart > 2 * blocks.APART
    assert end.to_target < 0.1 * end.to_least
    assert end.flow_rank[1] < 2.2 < 2.9 < end.least_rank < end.flow_rank[0] * 1.01 < 0.5 * end.plain_rank


def test_a_large_step_ends_better_balanced_or_diverges():
    problem, pair = training._noisy_problem(1)
    small, edge = (training.large_step(problem, pair, factor) for factor in (0.1, 1.5))
    assert small.minimal
    assert edge.minimal
    assert edge.imbalance < 0.5 < small.imbalance
    assert training.large_step(*training._noisy_problem(0), 1.9) is None


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


@pytest.mark.parametrize("seed", [5, 6])
def test_batch_norm_removes_the_growth_with_either_predictor(seed):
    batch = np.random.default_rng(seed).standard_normal((4, 3, 6, 6))
    for depth in (1, 2, 3):
        layers = predictor.network(seed, depth)
        for kind in ("sphere", "linear"):
            assert predictor.homogeneity(layers, kind, batch, norm=True) == pytest.approx(0, abs=1e-3)
            assert predictor.change_by_doubling(layers, kind, batch, 1e6) < 1e-3
        assert predictor.change_by_doubling(layers, "sphere", batch, 0.7) < 1e-9
        assert predictor.change_by_doubling(layers, "linear", batch, 0.7) > 1e-2


def test_a_batch_is_its_images_and_batch_norm_is_torchs():
    import torch

    batch = np.random.default_rng(7).standard_normal((4, 3, 6, 5))
    layers = predictor.network(7, 2)
    for kind in ("sphere", "linear"):
        single = [predictor.run_network(layers, kind, maps) for maps in batch]
        np.testing.assert_allclose(predictor.run_network(layers, kind, batch), np.stack(single), rtol=1e-12)
    norm = torch.nn.BatchNorm2d(3, eps=1e-14, dtype=torch.float64)
    np.testing.assert_allclose(predictor.batch_norm(batch), norm(torch.from_numpy(batch)).detach().numpy(), atol=1e-12)


@pytest.mark.parametrize(("name", "degree"), [("sphere", 1), ("cnn", 4)])
def test_two_blocks_of_a_tables_network_grow_with_stored_statistics_only(name, degree):
    """Two blocks of NSN-9 and both predictors of Table 1, the plain one without any normalisation of its own."""
    import torch

    from nsl.models.cnn import nsn9

    torch.manual_seed(0)
    options = {"head": "none", "small": False} if name == "cnn" else {}
    network = nsn9(10, kind="dynamic", width=4, image_size=16, predictor=name, predictor_options=options).double()
    blocks = network.stages[0][:2]
    maps = 1e6 * torch.randn(8, 4, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        blocks.eval()
        growth = torch.log2(blocks(2 * maps).norm() / blocks(maps).norm())
        blocks.train()
        once, twice = blocks(maps), blocks(2 * maps)
    assert float(growth) == pytest.approx(degree, abs=1e-3)
    assert float((twice - once).norm() / once.norm()) < 1e-3


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


def test_decay_on_the_kernel_alone_takes_away_what_lies_off_the_range_of_the_inputs():
    """Like t^(-1/4), where the flow without decay keeps it; and where X X^T has full rank there is nothing off it."""
    rng = np.random.default_rng(44)
    problem, pair = equations.random_regression(rng, 4, 2, 2), equations.random_factorised(rng, 4, 2, 0.5)
    found = training.one_sided_decay(problem, pair, 0.5)
    assert found.slope == pytest.approx(-0.5, abs=0.02)
    assert found.off_slope == pytest.approx(-0.25, abs=0.01)
    assert found.off < 0.1 * found.free_off
    assert found.distance < 0.1
    assert np.linalg.norm(problem.null_projector @ pair.weight(pair.initial)) > 0.1


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
    path = families.counterexample_path((1e-2, 1e-4))
    assert path.gap[1] > path.gap[0] > 0.05
    assert path.distance[1] < path.distance[0]


def test_gaussian_sensing_ends_at_the_target_also_where_its_trace_is_not_the_least():
    scales = (1e-5,)
    gaps = families.nuclear_gaps(list(range(1000, 1010)), scales)
    sensing, completion = families.ends_of(gaps["sensing"]), families.ends_of(gaps["completion"])
    assert (sensing.problems, sensing.target, sensing.least, sensing.other, sensing.underway) == (10, 4, 6, 0, 0)
    assert (completion.target, completion.least, completion.other, completion.underway) == (4, 1, 2, 3)
    assert (sensing.lower, completion.lower) == (4, 4)
    assert max(sensing.off, completion.off) < 0.03
    assert np.flatnonzero(gaps["sensing"].target_gap > families.LEAST).tolist() == [1, 4, 5, 8]
    own = gaps["sensing"].target_gap[[1, 4, 5, 8]]
    np.testing.assert_allclose(own, [0.002885, 0.005864, 0.002221, 0.000568], atol=2e-6)
    assert np.all(gaps["sensing"].distance[-1] < 1e-3)
    assert np.all(gaps["sensing"].to_least[-1, [1, 4, 5, 8]] > 0.028)
    told = families.told_of_ends(gaps, scales)
    assert "in 4 of 10 sensing problems and in 4 of 10 completions; at another matrix of rank 1 in 0 and 2." in told
    assert "In 6 and 1 the target is the minimum itself, and 0 and 3 flows have come to none of these." in told
    assert told.endswith("and the effective rank below that of the matrix of least norm in 8.")


@pytest.mark.parametrize("seed", bias.REFUTING_SENSING)
def test_lsoda_comes_to_the_same_matrix_in_sensing(seed):
    gaps = families.nuclear_gaps([seed], (1e-5,))["sensing"]
    assert bias._sensing_refutes(gaps, 0)
    assert bias.gap_by_lsoda("sensing", seed, 1e-5) == pytest.approx(gaps.gap[0, 0], abs=1e-5)


def test_a_sensing_problem_whose_target_has_the_least_trace_refutes_nothing():
    assert not bias._sensing_refutes(families.nuclear_gaps([1000], (1e-5,))["sensing"], 0)


def test_nothing_is_told_of_ends_at_the_target_where_there_are_none():
    far = np.ones((2, 3))
    still = families.Gaps(np.zeros((2, 3)), 2 * far, far, far, 0.1 * np.ones(3), np.ones(3))
    told = families.told_of_ends({"sensing": still, "completion": still}, (1e-2, 1e-5))
    assert "in 0 of 3 sensing problems" in told
    assert told.endswith("and 3 and 3 flows have come to none of these.")


def test_a_notebooks_ledger_counts_its_verdicts_and_explains_its_mutants():
    shown = figures.show_ledger([5, 26], "full", None, "results").data
    assert shown.startswith("**Verdicts of the 2 claims below: holds: 1; measured, not gated: 1.**\n\n| # |")
    assert shown.endswith("refused: the run itself raised.")
    assert "s = 0.01: gap (median)" in figures.measured(26, "full", None, "results")


@pytest.mark.parametrize("shape", [(3, 5, 0.6), (2, 4, 0.3)])
def test_the_closed_form_holds_for_more_outputs_than_inputs_and_positive_lambda(shape):
    n, m, lam = shape
    rng = np.random.default_rng(71)
    problem = equations.random_regression(rng, n, 2 * n, m).whitened()
    pair = equations.lambda_balanced(0.3 * rng.standard_normal((n, m)), lam, rng)
    assert max(equations.balanced_closure(problem, pair, lam, np.linspace(0, 4, 6)).values()) < 1e-10
