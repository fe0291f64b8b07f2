"""Intervals are Student's, Holm's levels are Holm's, and the verdict rule decides each case as it is written down."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from reproduce.verdicts.statistics import (
    Direction,
    Interval,
    Scope,
    Verdict,
    combine,
    decide_better,
    decide_failures,
    decide_share,
    decide_similar,
    difference_p,
    holm_levels,
    mean_interval,
)

AGREES, DISAGREES, NO_EFFECT = Direction.AGREES, Direction.DISAGREES, Direction.NO_EFFECT
UNDECIDED, NOT_RUN = Direction.UNDECIDED, Direction.NOT_RUN

numbers = st.lists(st.floats(0, 100), min_size=3, max_size=8)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def between(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 5)


@given(numbers, st.floats(0.5, 0.999))
def test_the_interval_is_scipys_t_interval(values: list[float], level: float) -> None:
    ours = mean_interval(values, level)
    low, high = scipy.stats.t.interval(level, len(values) - 1, np.mean(values), max(scipy.stats.sem(values), 1e-300))
    assert (ours.low, ours.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@pytest.mark.parametrize("values", [[3.0], [2.0, 4.0]])
def test_below_three_values_there_is_a_mean_and_no_interval(values: list[float]) -> None:
    assert mean_interval(values) == Interval(3.0, None, None, len(values))


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="The mean of no values was asked for; pass at least one"):
        mean_interval([])


def test_the_p_value_is_scipys_and_that_of_equal_values_is_0_or_1() -> None:
    values = [0.3, -0.1, 0.4, 0.2]
    assert difference_p(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)
    assert (difference_p([0.5, 0.5, 0.5]), difference_p([0.0, 0.0, 0.0])) == (0.0, 1.0)


def test_holm_tests_the_smallest_p_hardest_and_stops_at_the_first_that_fails() -> None:
    levels = holm_levels({"a": 0.03, "b": 0.001, "c": 0.04, "d": 0.9})
    assert levels == pytest.approx({"b": 1 - 0.05 / 4, "a": 1 - 0.05 / 3, "c": 1 - 0.05 / 3, "d": 1 - 0.05 / 3})
    assert holm_levels({}) == {}
    assert holm_levels({"alone": 0.2}) == {"alone": pytest.approx(0.95)}


@given(p_values)
def test_holm_rejects_what_its_textbook_form_rejects(found: list[float]) -> None:
    levels = holm_levels(dict(enumerate(found)))
    ordered, rejected = sorted(found), 0
    while rejected < len(found) and ordered[rejected] <= 0.05 / (len(found) - rejected):
        rejected += 1
    assert sum(p <= 1 - levels[i] + 1e-15 for i, p in enumerate(found)) == rejected
    assert all(0.95 - 1e-12 <= level < 1 for level in levels.values())


@pytest.mark.parametrize(
    ("low", "high", "paper", "direction"),
    [
        (0.1, 1.0, 0.9, AGREES),
        (0.1, 0.5, 0.9, AGREES),
        (0.1, 1.0, None, AGREES),
        (-1.0, -0.1, 0.9, DISAGREES),
        (-1.0, -0.1, None, DISAGREES),
        (-0.5, 0.5, 0.9, NO_EFFECT),
        (-0.5, 0.0, 0.9, NO_EFFECT),
        (-0.5, 1.0, 0.9, UNDECIDED),
        (0.0, 1.0, 0.9, UNDECIDED),
        (-0.5, 0.5, None, UNDECIDED),
        (-0.5, 0.5, -0.2, UNDECIDED),
    ],
)
def test_a_better_claim_is_decided_by_zero_and_the_papers_effect(
    low: float, high: float, paper: float | None, direction: Direction
) -> None:
    assert decide_better(between(low, high), paper)[0] == direction


def test_an_effect_of_another_size_than_the_papers_agrees_and_says_so() -> None:
    assert decide_better(between(0.1, 0.5), 0.9) == (AGREES, "a smaller effect than the paper's")
    assert decide_better(between(0.1, 1.5), 0.9) == (AGREES, "")
    assert decide_better(between(1.0, 1.5), 0.9) == (AGREES, "a larger effect than the paper's")
    assert decide_better(between(1.0, 1.5), -0.2) == (AGREES, "")


@pytest.mark.parametrize(
    ("low", "high", "direction"),
    [
        (-0.2, 0.2, AGREES),
        (-0.2, 0.0, AGREES),
        (0.05, 0.2, AGREES),
        (-0.3, 0.2, UNDECIDED),
        (-0.45, -0.15, UNDECIDED),
        (0.3, 1.0, DISAGREES),
        (-1.0, -0.3, DISAGREES),
    ],
)
def test_a_similar_claim_is_an_equivalence_test(low: float, high: float, direction: Direction) -> None:
    assert decide_similar(between(low, high), 0.25)[0] == direction


def test_a_difference_within_the_margin_is_similar_and_said() -> None:
    """The paper's own gaps of 0.23 and 0.24, which it calls similar, measured with many seeds."""
    assert decide_similar(between(0.225, 0.235), 0.25) == (AGREES, "a difference, within the margin of 0.25 points")
    assert decide_similar(between(-0.1, 0.1), 0.25) == (AGREES, "")


def test_a_counted_share_agrees_above_the_first_and_up_to_the_second_end() -> None:
    wanted = (0.0, 0.1)
    assert [decide_share(share, wanted) for share in (-0.01, 0.0, 0.01, 0.1, 0.11)] == [
        DISAGREES,
        DISAGREES,
        AGREES,
        AGREES,
        DISAGREES,
    ]


def test_a_method_does_not_converge_when_every_one_of_three_runs_fails() -> None:
    assert decide_failures(3, 3) == (AGREES, "")
    assert decide_failures(0, 3) == (DISAGREES, "")
    assert decide_failures(2, 3) == (UNDECIDED, "some runs converge")
    assert decide_failures(2, 2) == (UNDECIDED, "2 common seeds, three decide")


def test_a_scope_names_what_differs_from_the_paper_and_nothing_else() -> None:
    assert str(Scope()) == ""
    assert str(Scope(budget=0.6)) == ""
    assert str(Scope("digits for CIFAR-10", "width 8 (full: 32)", 0.05)) == (
        "digits for CIFAR-10, width 8 (full: 32), 5 % of the paper's training"
    )


def test_a_row_agrees_only_when_all_its_claims_do() -> None:
    yes, no, none = Verdict(AGREES), Verdict(DISAGREES), Verdict(NO_EFFECT)
    unsure, absent = Verdict(UNDECIDED, reason="one common seed, three decide"), Verdict(NOT_RUN)
    assert combine([yes, yes]) == yes
    assert combine([yes, unsure, none, no]) == no
    assert combine([yes, unsure, none]) == none
    assert combine([yes, unsure]) == unsure
    assert combine([yes, absent]) == Verdict(UNDECIDED, reason="a method compared with is not run")
    assert combine([absent, absent]) == combine([]) == absent
    # The handicap is that of the claim that decides, and the scope that of one that was run.
    won = Verdict(Direction.AGREES, Scope("digits"), handicap="MAML is handicapped: few episodes")
    lost = Verdict(Direction.DISAGREES, Scope("digits"))
    assert combine([won, lost]) == lost
    assert combine([absent, won]).scope == Scope("digits")
