"""What the notebooks show can be drawn from records alone, complete or not."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.display import Image, Markdown

from reproduce.declare import plan
from reproduce.declare.runs import CLASSIFICATION
from reproduce.run.store import Store
from reproduce.show import figures
from reproduce.show.report import Report, draw_picture, layer_name
from tests.reproduce.helpers import fill, put_record

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
def test_every_table_can_be_shown_from_incomplete_records(number: int, results: Path) -> None:
    report = Report(number, "paper", results)
    assert isinstance(report.learning_curves(), Image)
    assert isinstance(report.error_chart(), Image)
    for shown in (report.scope(), report.errors(), report.claims()):
        assert isinstance(shown, Markdown)


def test_learned_similarities_are_drawn_from_the_records_observations(results: Path) -> None:
    report = Report(4, "paper", results)
    assert isinstance(report.static_similarities("static"), Image)
    assert isinstance(report.dynamic_similarities("dynamic"), Image)
    assert isinstance(report.similarity_maps("dynamic"), Image)


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
    assert [figures.band_name(seeds) for seeds in (1, 2, 3)] == [
        "one seed",
        "band: range of two seeds",
        "band: 95 % interval over 3 seeds",
    ]
