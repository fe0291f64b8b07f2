"""The answer to "does the difference grow or vanish with training?" is what the stored gains say."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.display import Image

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show import beyond, beyond_report, budget
from reproduce.show.report import Report
from reproduce.verdicts.statistics import mean_interval
from tests.reproduce.helpers import fill, put_record

CPU = plan.profile("cpu")
DECLARED = plan.experiment("budget")
#: Gains over the CNN by budget, one a seed, with what they come to.
BY = "with every doubling of the images it changes by"
GROWS = f" grows; {BY} 0.25 points"
CASES = {
    GROWS: [[0.0, 0.1, 0.2], [0.25, 0.35, 0.45], [0.5, 0.6, 0.7], [1.0, 1.1, 1.2]],
    f" shrinks; {BY} -0.5": [[4.0, 4.1, 4.2], [3.5, 3.6, 3.7], [3.0, 3.1, 3.2], [2.0, 2.1, 2.2]],
    f" not shown to differ from 0; {BY} -0.5": [[2.0, 2.1, 2.2], [1.5, 1.6, 1.7], [1.0, 1.1, 1.2], [-0.1, 0.0, 0.2]],
    f" reverses; {BY} -0.9": [[1.0, 1.1, 1.2], [0.2, 0.1, 0.3], [-0.5, -0.7, -0.6], [-2.4, -2.5, -2.6]],
    f"is undecided (the interval holds 0); {BY} 0.0": [
        [0.2, 0.1, 0.2], [0.1, 0.3, 0.2], [0.3, 0.1, 0.2], [0.1, 0.2, 0.4]
    ],
    "is undecided (2 common seeds, three decide); in the two seeds of all stored budgets it is": [
        [0.0, 0.1], [0.25, 0.35], [0.5, 0.6], [1.0, 1.1]
    ],
    "is undecided (one common seed, three decide); in the one seed of all stored budgets it is": [
        [0.0], [0.25], [0.5], [1.0]
    ],
    "is undecided (fewer than two budgets are stored)": [[], [], [0.5, 0.6, 0.7], []],
}


def stored(folder: Path, gains: list[list[float]]) -> Report:
    """The report on records in which dynamic NSN gains so much over the CNN, which is at 12 % everywhere."""
    store = Store(folder, "cpu")
    fill(store, CPU, "budget", {})
    for slot, values in zip(DECLARED.datasets, gains):
        for seed, gain in enumerate(values):
            for key, error in (("cnn", 12.0), ("dynamic", 12.0 - gain)):
                put_record(store, CPU.run(DECLARED.method(key), slot, seed), error)
    return Report("budget", "cpu", folder)


@pytest.mark.parametrize("said", CASES)
def test_the_answer_is_of_the_slopes_over_seeds(said: str, tmp_path: Path) -> None:
    report = stored(tmp_path, CASES[said])
    text = budget.answer(report.table)
    assert said in text
    assert text.count("undecided") == ("undecided" in said)
    shown = beyond_report.budget_answer(report).data
    assert shown == f"**{text}**"
    assert isinstance(beyond_report.budget_curves(report), Image)
    found = budget.budgets(report.table)
    assert [item.images for item in found] == sorted(item.images for item in found)
    for item in found:
        assert f"at {item.images:,}" in text


def test_a_slope_is_that_of_a_line_over_the_doublings() -> None:
    assert budget.slope({100: 1.0, 200: 1.5, 800: 2.5}) == pytest.approx(0.5)


def test_seeds_that_lack_a_budget_do_not_count(tmp_path: Path) -> None:
    report = stored(tmp_path, [[0.0, 0.1, 0.2], [], [], []])
    for seed, key in enumerate(("cnn", "dynamic")):
        put_record(report.store, CPU.run(DECLARED.method(key), "cifar10", seed), 12.0)
    text = budget.answer(Report("budget", "cpu", tmp_path).table)
    assert "is undecided (no common seed); it is, in points, 0.10 at 112,640" in text
    assert text.endswith("none at 450,432 images.")


def test_a_diverged_run_decides_nothing(tmp_path: Path) -> None:
    report = stored(tmp_path, CASES[GROWS])
    run = CPU.run(DECLARED.method("dynamic"), "cifar10_long", 2)
    put_record(report.store, run, float("nan"), status="diverged")
    assert "is undecided (a run diverged)" in budget.answer(Report("budget", "cpu", tmp_path).table)


def test_nothing_stored_is_said(tmp_path: Path) -> None:
    report = Report("budget", "cpu", tmp_path)
    assert beyond_report.budget_curves(report).data == "No run is stored yet."
    assert "undecided (fewer than two budgets are stored)." in budget.answer(report.table)


def test_the_budgets_verdicts_are_controls_beside_the_papers_difference(tmp_path: Path) -> None:
    table = stored(tmp_path, CASES[GROWS]).table
    assert [judged.claim.control for judged in table.claims] == [True] * 4
    assert [judged.paper for judged in table.claims] == [pytest.approx(0.93)] * 4
    assert {row.printed(row.metric) for row in table.rows} == {7.78, 7.29, 7.15, 6.85}


def test_the_papers_points_stand_apart_from_the_lines() -> None:
    interval = mean_interval([0.1, 0.2, 0.3])
    values = {100: [8.0, 8.1, 8.2], 400: [7.0]}
    differences = {100: (interval, [0.1, 0.2, 0.3])}
    figure = beyond.budget_curves({"CNN": values}, differences, {"CNN": 7.78, "": 0.93}, 9000, "CNN minus NSN")
    left, right = figure.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[100, 400], [100, 100]]
    assert list(left.lines[0].get_ydata()) == [pytest.approx(8.1), 7.0]
    assert list(right.lines[1].get_ydata()) == [interval.low, interval.high]
    for ax, paper in ((left, 7.78), (right, 0.93)):
        assert [9000, paper] in [points.get_offsets().tolist()[0] for points in ax.collections]
        assert ax.get_xscale() == "log"
    right = beyond.budget_curves({"CNN": values}, differences, {}, 9000, "CNN minus NSN", {100: 0.1, 400: 0.3}).axes[1]
    assert [line.get_linestyle() for line in right.lines[:1]] == ["None"]  # the mean of all seeds
    drawn = {line.get_label(): list(line.get_ydata()) for line in right.lines}
    assert drawn["seeds of all budgets"] == [0.1, 0.3]


def test_the_gains_that_are_named_are_those_of_the_seeds_that_the_slopes_are_of(tmp_path: Path) -> None:
    text = budget.answer(stored(tmp_path, [[0.1], [0.2], [0.3, 0.9, 0.9], []]).table)
    shown = "0.10 at 112,640, 0.20 at 225,280, 0.30 at 450,432"
    assert f"in the one seed of all stored budgets it is, in points, {shown}" in text
    assert "over all seeds that there are 0.70 at 450,432." in text
