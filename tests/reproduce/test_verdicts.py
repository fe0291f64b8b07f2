"""Intervals are Student's, and the verdict rule decides each case as it is written down."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from reproduce.statistics import (
    Interval,
    Scope,
    Verdict,
    combine,
    judge_errors,
    judge_saving,
    mean_interval,
    paired_difference,
)

PAPER = Scope(same_data=True, same_width=True, budget=1.0)
CPU = Scope(same_data=True, same_width=True, budget=0.05)
DEMO = Scope(same_data=False, same_width=False, budget=0.001)

errors = st.lists(st.floats(0, 100), min_size=2, max_size=8)


@given(errors)
def test_the_interval_is_scipys_t_interval(values: list[float]) -> None:
    ours = mean_interval(values)
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), max(scipy.stats.sem(values), 1e-300))
    assert (ours.low, ours.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert mean_interval([3.0]) == Interval(3.0, None, None, 1)


@given(errors, st.floats(-50, 50))
def test_what_is_common_to_both_methods_cancels_seed_by_seed(values: list[float], shift: float) -> None:
    worse = dict(enumerate(values))
    better = {seed: value + shift for seed, value in worse.items()}
    difference = paired_difference(better, worse)
    assert difference is not None
    assert difference.mean == pytest.approx(shift, abs=1e-9)
    assert difference.high == pytest.approx(shift, abs=1e-9)


def test_only_common_seeds_are_paired() -> None:
    difference = paired_difference({0: 1.0, 1: 2.0, 5: 9.0}, {0: 2.0, 1: 4.0, 6: 0.0})
    assert difference is not None
    assert (difference.count, difference.mean) == (2, -1.5)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-1.0, -0.1, "reproduced"),
        (0.1, 1.0, "not reproduced"),
        (-0.5, 0.5, "inconclusive"),
        (-1.0, 0.0, "inconclusive"),
    ],
)
def test_a_claim_of_lower_error_is_decided_by_the_interval(low: float, high: float, word: str) -> None:
    assert str(judge_errors(Interval((low + high) / 2, low, high, 5), PAPER)) == word


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-0.4, 0.4, "reproduced"),
        (0.6, 1.0, "not reproduced"),
        (-1.0, -0.6, "not reproduced"),
        (0.2, 0.6, "inconclusive"),
        (-1.0, 1.0, "inconclusive"),
    ],
)
def test_a_claim_of_similar_error_is_decided_by_the_margin(low: float, high: float, word: str) -> None:
    assert judge_errors(Interval((low + high) / 2, low, high, 5), PAPER, margin=0.5).word == word


CLEAR = Interval(-1.0, -1.1, -0.9, 5)


def test_other_data_decide_nothing_however_clear_they_are() -> None:
    assert str(judge_errors(CLEAR, DEMO)) == "inconclusive (other data and width)"
    assert str(judge_errors(CLEAR, Scope(True, False, 1.0))) == "inconclusive (other width)"


def test_fewer_than_three_seeds_decide_nothing() -> None:
    for count in (1, 2):
        verdict = judge_errors(Interval(-1.0, -1.1, -0.9, count), PAPER)
        assert str(verdict) == "inconclusive (too few seeds)"


def test_a_diverged_run_decides_nothing() -> None:
    assert str(judge_errors(CLEAR, PAPER, diverged=True)) == "inconclusive (a run diverged)"
    assert str(judge_errors(None, PAPER, diverged=True)) == "inconclusive (a run diverged)"


def test_a_small_budget_is_stated_beside_the_verdict() -> None:
    assert str(judge_errors(CLEAR, CPU)) == "reproduced (ordering at 5.0 % of the paper's training)"


def test_what_was_not_run_is_not_judged() -> None:
    assert str(judge_errors(None, PAPER)) == "not run"
    assert str(judge_errors(None, DEMO)) == "not run"
    assert str(judge_saving(None, (0.4, 0.6), PAPER)) == "not run"


def test_a_saving_of_parameters_is_decided_by_its_range_at_the_papers_width() -> None:
    assert str(judge_saving(0.5, (0.4, 0.6), CPU)) == "reproduced"
    assert str(judge_saving(0.7, (0.4, 0.6), CPU)) == "not reproduced"
    assert str(judge_saving(0.5, (0.4, 0.6), DEMO)) == "inconclusive (other width)"


def test_a_row_is_reproduced_only_when_all_its_claims_are() -> None:
    yes, no = Verdict("reproduced"), Verdict("not reproduced")
    unsure, absent = Verdict("inconclusive", "too few seeds"), Verdict("not run")
    assert combine([yes, yes]) == yes
    assert combine([yes, unsure, no]) == no
    assert combine([yes, unsure]) == unsure
    assert combine([yes, absent]) == Verdict("inconclusive", "a method compared with is not run")
    assert combine([absent, absent]) == combine([]) == absent
