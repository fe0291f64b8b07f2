from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import dynamics
from theory.claims import discrete, equations, systems
from theory.claims.orders import slope
from theory.steps import implicit_midpoint

seeds = st.integers(0, 10**6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seeds, st.floats(1e-3, 0.3))
def test_one_gradient_step_changes_the_invariant_by_the_stated_amount(seed, step):
    rng = np.random.default_rng(seed)
    problem, pair = equations.random_regression(rng, 4, 3, 2), equations.random_factorised(rng, 4, 2, 0.7)
    # The identity is exact; what is measured is rounding, relative to a change of order step^2.
    assert discrete.step_identity(problem, pair, step) < 1e-13 / step**2 + 1e-12


def test_euler_converges_to_first_and_runge_kutta_to_fourth_order():
    rng = np.random.default_rng(12)
    found = discrete.convergence_slopes(
        equations.random_regression(rng, 4, 3, 2), equations.random_factorised(rng, 4, 2, 0.4), time=0.5
    )
    assert found["Euler"] == pytest.approx(1, abs=0.05)
    assert found["RK4"] == pytest.approx(4, abs=0.1)


def test_implicit_midpoint_conserves_the_invariant_to_rounding():
    rng = np.random.default_rng(13)
    problem, pair = equations.random_regression(rng, 4, 3, 2), equations.random_factorised(rng, 4, 2, 0.5)
    path = implicit_midpoint(problem, pair, step=0.02, steps=150)
    assert max(path.invariants().values()) < 1e-12
    assert path.losses[-1] < path.losses[0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_residual_nsl_layer_is_one_euler_step(seed):
    assert systems.residual_identity(seed) < 1e-12


def test_deeper_residual_networks_converge_to_the_ode_at_first_order():
    depths = [16, 32, 64]
    static, dynamic = systems.refinement_errors(4, depths)
    assert slope(1 / np.array(depths), static) == pytest.approx(1, abs=0.1)
    assert slope(1 / np.array(depths), dynamic) == pytest.approx(1, abs=0.1)


def test_dynamic_neural_unit_remembers():
    assert systems.memory() > 1
    unit = dynamics.DynamicNeuralUnit(weight=2.0)
    points = unit.equilibria(0.0)
    assert [stable for _, stable in points] == [True, False, True]
    for point, stable in points:
        end = unit.respond(point + 1e-3, [0.0])[-1]
        assert (abs(end - point) < 1e-6) == stable


@pytest.mark.parametrize("seed", [0, 1])
def test_layers_have_the_stated_order_in_their_input(seed):
    layers = systems.layers_by_order(seed)
    second, _, doubled = systems.order_in_input(layers["static"], seed)
    assert max(second, doubled) < 1e-12
    second, third, _ = systems.order_in_input(layers["linear predictor"], seed)
    assert third < 1e-12 < 1e-4 < second
    second, third, _ = systems.order_in_input(layers["SphereNet predictor"], seed)
    assert min(second, third) > 1e-4
