"""The pictures of the tables beyond the paper show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pytest

from reproduce.show import beyond


def test_attack_curves_start_at_the_error_without_attack() -> None:
    found = {"radii": [1, 2], "clean": [3.0], "fgsm": [5.0, 8.0], "pgd": [6.0, 9.0]}
    higher = {**found, "clean": [5.0], "fgsm": [7.0, 10.0]}
    left, right = beyond.attack_curves({"CNN": [found, higher], "sphere": [found]}).axes
    drawn = [[list(bars.lines[0].get_ydata()) for bars in ax.containers] for ax in (left, right)]
    assert drawn[0] == [[4.0, 6.0, 9.0], [3.0, 5.0, 8.0]]  # of two seeds the mean
    assert drawn[1][1] == [3.0, 6.0, 9.0]
    assert list(right.containers[0].lines[0].get_xdata()) == [0, 1, 2]
    assert [bars.get_label() for bars in right.containers] == ["CNN (2 seeds)", "sphere (1 seed)"]


def test_moved_taps_are_drawn_as_arrows_beside_the_learned_shapes() -> None:
    offsets, shape = [[0.5, -1.0]] * 9, [1, 0, 1, 1, 1, 1, 1, 1, 1]
    figure = beyond.moved_taps([("first", offsets)], [("other", shape)])
    quiver = figure.axes[0].collections[-1]
    assert list(quiver.U) == [-1.0] * 9  # right
    assert list(quiver.V) == [0.5] * 9  # down, on an axis that runs down
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]
    assert np.asarray(figure.axes[1].images[0].get_array()).ravel().tolist() == shape
    assert len(beyond.moved_taps([("first", offsets)], []).axes) == 1


def test_segmentations_stand_beside_image_and_truth() -> None:
    images = np.zeros((2, 3, 4, 4), np.uint8)
    truth, predicted = np.full((2, 4, 4), 3), np.full((2, 4, 4), 5)
    figure = beyond.segmentations(images, truth, {"CNN": predicted})
    axes = figure.axes
    assert [entry.get_text() for entry in figure.legends[0].get_texts()] == list(beyond.CLASS_NAMES)
    assert len(axes) == 6
    assert [ax.get_title() for ax in axes[:3]] == ["image", "truth", "CNN"]
    assert np.asarray(axes[5].images[0].get_array()).max() == 5


def test_class_bars_leave_absent_classes_empty() -> None:
    ax = beyond.class_bars({"CNN": [[90.0, None], [80.0, None]], "NSN": [[80.0, 10.0]]}, ["ground", "0"]).axes[0]
    assert [bar.get_height() for bar in ax.patches] == [85.0, 0.0, 80.0, 10.0]


def test_state_masks_are_centred_on_the_plain_cell() -> None:
    shown = beyond.state_masks([[0.0, 1.0]] * 3, [[1.0, 1.5]] * 3, "GRU").axes[1].images[0]
    assert shown.get_clim() == (0.5, 1.5)
    ax = beyond.state_masks([[0.0, 1.0]] * 3, [[1.0, 1.5]] * 3, "GRU", ("number", "mark")).axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["number", "mark"]


def test_curves_over_stages_mark_every_point_once() -> None:
    curve = [
        {"iteration": 1, "test_error": 9.0, "stage": "pretrain"},
        {"iteration": 2, "test_error": 8.0, "stage": "similarity"},
        {"iteration": 3, "test_error": 7.0, "stage": "finetune"},
    ]
    ax = beyond.stage_curves({"three": curve}).axes[0]
    assert list(ax.lines[0].get_ydata()) == [9.0, 8.0, 7.0]
    assert sum(len(points.get_offsets()) for points in ax.collections) == 3


def test_spectra_and_orders_are_drawn_as_given() -> None:
    drawn = beyond.spectrum({"psd": [2.0, 0.0]}).axes[0].lines[0].get_ydata()
    assert drawn[0] == 2.0
    assert np.isnan(drawn[1])  # what rounding leaves of a zero is no eigenvalue to show
    line = beyond.orders({"euler": (1, [5, 10], [0.2, 0.1])}).axes[0].lines[0]
    assert list(line.get_ydata()) == pytest.approx([0.2, 0.1])
    assert line.get_label() == "euler, order 1"
