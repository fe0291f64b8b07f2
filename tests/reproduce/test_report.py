"""What the notebooks show can be drawn from records alone, complete or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reproduce.declare import plan
from reproduce.run.store import Store
from reproduce.show import figures
from reproduce.show.report import Report, draw_picture, layer_name
from reproduce.tasks import CLASSIFICATION
from tests.reproduce.helpers import drawn, fill, put_record

IDENTITY = [[float(row == column) for column in range(9)] for row in range(9)]
OBSERVATIONS = {
    "static": [{"layer": "stages.0.0.conv", "M": IDENTITY}, {"layer": "stages.0.1.conv", "M": 9 * [9 * [0.1]]}],
    "dynamic": [
        {
            "layer": "stages.0.0.conv",
            "mean": 3 * [[1.0, 1.1, 0.9]],
            "std": 3 * [[0.1, 0.2, 0.3]],
            "maps": 9 * [4 * [4 * [1.2]]],
        },
        {"layer": "stages.0.1.conv", "mean": 3 * [3 * [1.0]], "std": 3 * [3 * [0.0]]},
    ],
    "image": 3 * [4 * [[0, 100, 200, 255]]],
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Records of Tables 1, 4 and 5 with three seeds; one run has diverged, one method has not run."""
    profile, store = plan.profile("paper"), Store(tmp_path, "paper")
    fill(store, profile, 5, {"cnn": [43.0, 43.1]})
    fill(store, profile, 4, {"cnn": [8.0, 8.1, 8.3], "static": [7.0, 7.2, 7.4], "dynamic": [6.8, 6.9, 7.0]})
    for slot in ("cifar10", "cifar100"):
        for key in ("static", "dynamic"):
            record = put_record(store, profile.run(plan.experiment(4).method(key), slot, 0), 7.0)
            store.write({**record, "observations": OBSERVATIONS})
    run = profile.run(plan.experiment(4).method("static_uns"), "cifar10", 0)
    put_record(store, run, float("nan"), status="diverged")
    return tmp_path


@pytest.mark.parametrize("number", plan.tables(CLASSIFICATION))
def test_every_table_is_shown_from_incomplete_records_with_their_values(number: int, results: Path) -> None:
    report = Report(number, "paper", results)
    seeds = {row.method.label: list(row.values().values()) for row in report.table.rows if row.values()}
    curves, chart = drawn(report.learning_curves), drawn(report.error_chart)
    lines = {str(line.get_label()): float(np.asarray(line.get_ydata())[0]) for line in curves.axes[0].lines}
    measured = {label: value for label, value in lines.items() if not np.isnan(value)}  # what diverged has no value
    assert measured == {label: pytest.approx(np.mean(values)) for label, values in seeds.items()}
    assert [text.get_text().replace("\n", " ") for text in chart.axes[0].get_yticklabels()] == [
        row.method.label for row in report.table.rows if row.slot == report.table.rows[0].slot
    ]
    for shown in (report.scope(), report.errors(), report.claims()):
        assert shown.data
        assert "nan" not in shown.data
    assert all(label in report.errors().data for label in seeds)


def test_learned_similarities_are_drawn_from_the_records_observations(results: Path) -> None:
    report = Report(4, "paper", results)
    identity, other = (ax.images[0].get_array() for ax in drawn(lambda: report.static_similarities("static")).axes[:2])
    assert np.array_equal(identity, np.zeros((3, 3)))  # M - I of a mask
    assert np.allclose(other, 0.1 - np.eye(9))
    means = drawn(lambda: report.dynamic_similarities("dynamic"))
    assert [ax.get_title() for ax in means.axes[:2]] == ["stage 1\nlayer 1", "stage 1\nlayer 2"]
    assert np.allclose(means.axes[0].images[0].get_array(), 3 * [[1.0, 1.1, 0.9]])
    assert np.allclose(means.axes[2].images[0].get_array(), 3 * [[0.1, 0.2, 0.3]])
    image, *taps = drawn(lambda: report.similarity_maps("dynamic")).axes
    assert image.images[0].get_array().shape == (4, 4, 3)
    assert all(np.array_equal(tap.images[0].get_array(), np.full((4, 4), 1.2)) for tap in taps[:9])


def test_what_was_not_recorded_is_said(results: Path, tmp_path: Path) -> None:
    assert Report(4, "paper", results).similarity_maps("cnn").data == "Not recorded."
    empty = Report(1, "paper", tmp_path / "empty")
    assert empty.learning_curves().data == "No run is stored yet."
    assert empty.dynamic_similarities("dynamic").data == "Not recorded."


def test_a_drawing_gives_the_same_bytes_twice(results: Path) -> None:
    pictures = [Report(1, "paper", results).learning_curves().data for _ in range(2)]
    assert pictures[0] == pictures[1]


def test_the_picture_of_the_readme_needs_a_run_to_draw(results: Path, tmp_path: Path) -> None:
    profile, output = plan.profile("paper"), tmp_path / "picture.png"
    draw_picture(profile, Store(results, "paper"), output)
    assert output.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="has no run of the dynamic network to draw"):
        draw_picture(profile, Store(tmp_path / "empty", "paper"), output)


def test_layers_are_counted_as_a_reader_counts() -> None:
    assert layer_name("stages.0.2.conv") == "stage 1, layer 3"
    assert layer_name("another") == "another"


def test_bands_say_what_they_are() -> None:
    assert [figures.band_name(*seeds) for seeds in ((1,), (2,), (3, 3), (3, 1))] == [
        "one seed",
        "line: mean; band: range of two seeds",
        "line: mean; band: 95 % interval over 3 seeds",
        "line: mean or the one seed; band: 95 % interval where there are 3 seeds",
    ]


def test_a_band_never_leaves_a_logarithmic_axis_and_says_so() -> None:
    curves = [[{"images": 1000 * n, "test_error": error} for n in (1, 2)] for error in (0.5, 0.6, 9.0)]
    ax = figures.learning_curves({"adding": {"GRU": curves}}).axes[0]
    assert min(path.vertices[:, 1].min() for path in ax.collections[0].get_paths()) == 0.5
    legend = ax.get_legend()
    assert legend is not None
    assert "cut at the smallest seed" in legend.get_title().get_text()


def test_diverged_runs_are_named_in_curves_and_charts() -> None:
    curve = [{"images": 1000, "test_error": 90.0}]
    bad = {"CIFAR-10": {"one": 1, "some": 1}}
    ax = figures.learning_curves({"CIFAR-10": {"one": [curve], "some": [curve] * 3}}, diverged=bad).axes[0]
    assert [text.get_text() for text in ax.texts] == ["diverged", "1 of 3 diverged"]
    rows = [("one", [], None), ("some", [9.0, 8.0], 7.0), ("fine", [8.0], None)]
    ax = figures.error_chart({("CIFAR-10", "test error"): rows}, bad).axes[0]
    assert [text.get_text().strip() for text in ax.texts] == ["diverged", "1 of 3 diverged"]
    assert ax.get_xscale() == "linear"


def test_errors_far_apart_are_charted_on_a_logarithmic_axis() -> None:
    rows = [("RNN", [90.0, 91.0, 92.0], None), ("GRU", [0.01, 0.02, 0.5], None)]
    ax = figures.error_chart({("adding", "error"): rows}).axes[0]
    assert ax.get_xscale() == "log"
    assert min(np.asarray(line.get_xdata()).min() for line in ax.lines) == 0.01  # the interval reaches below 0
