"""The small checks of the notebook on related work."""

from __future__ import annotations

import pytest

from nsl.layers.ode import SCHEMES
from reproduce.studies import related


def test_only_a_similarity_of_all_channels_computes_generated_filters() -> None:
    shared, one, block = related.filter_gaps().values()
    assert max(shared, one) < 1e-10
    assert block > 0.1


def test_schemes_reach_their_orders_where_the_field_is_smooth() -> None:
    for name, (order, _, errors) in related.scheme_errors().items():
        assert related.slope(errors) == pytest.approx(order, abs=0.1), name
        assert order == SCHEMES[name][0]


def test_a_kink_costs_the_fourth_order() -> None:
    assert related.slope(related.scheme_errors(smooth=False)["rk4"][2]) < 3


def test_few_taps_save_multiply_adds_and_a_free_shift_does_not() -> None:
    found = {saving.taps: saving.multiply_adds for saving in related.shift_savings(4, 8, 1)[2:]}
    assert found == {taps: taps / 25 for taps in (9, 5, 3, 1)}
    assert related.shift_savings(4, 8, 1)[1].multiply_adds == 1
    assert related.savings_markdown(related.shift_savings(4, 8, 1)).count("\n") == 7


def test_a_network_of_few_shifts_is_counted_beside_the_cnn() -> None:
    rows = [line.split(" | ") for line in related.network_savings((3, 1), 16, 16, 1).splitlines()[2:]]
    assert [int(row[1]) for row in rows] == [81, 27, 9]
    costs = [float(row[2]) for row in rows]
    assert costs[0] > 2 * costs[1] > 4 * costs[2] > 0
