"""Drawing for Table 6: an episode, M before and after adaptation, accuracy against shots and inner steps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from reproduce.show.figures import new_figure
from reproduce.show.looks import OKABE_ITO, looks
from reproduce.verdicts.statistics import EPISODE, SEED

Points = Mapping[float, tuple[float, float | None]]
"""Value of the x axis to mean accuracy and half its 95 % interval, percent."""


def episode(png: str, classes: Sequence[str], support: int) -> Figure:
    """A stored picture of an episode: one row a class, support images on the left, queries on the right."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(png))) as opened:
        picture = np.asarray(opened.convert("RGB"))
    figure = new_figure(7.0, 7.0 * picture.shape[0] / picture.shape[1] + 0.4)
    axes = figure.add_subplot()
    axes.imshow(picture, interpolation="nearest")
    step, names = (picture.shape[0] + 1) / len(classes), [name.replace("_", " ") for name in classes]
    axes.set_yticks([step * (row + 0.5) for row in range(len(classes))], names, fontsize=12)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"support: {support} labelled images a class; queries to the right of the gap", fontsize=10)
    return figure


def adaptation(layers: Sequence[tuple[str, Any, Any]]) -> Figure:
    """M_s before adapting to a task, after, and the difference, layer by layer; kernel taps down, input taps across."""
    figure = new_figure(2.1 * len(layers) + 1.2, 6.2)
    grid = figure.subplots(3, len(layers), squeeze=False)
    arrays = [(np.asarray(before, float), np.asarray(after, float)) for _, before, after in layers]
    moved = max(float(np.abs(after - before).max()) for before, after in arrays) or 1.0
    spread = max(1.0, max(float(np.abs(array).max()) for pair in arrays for array in pair))
    image = change = None
    for column, ((name, _, _), (before, after)) in enumerate(zip(layers, arrays)):
        image = grid[0, column].imshow(before, cmap="PuOr", vmin=-spread, vmax=spread)
        grid[1, column].imshow(after, cmap="PuOr", vmin=-spread, vmax=spread)
        change = grid[2, column].imshow(after - before, cmap="PuOr", vmin=-moved, vmax=moved)
        grid[0, column].set_title(name, fontsize=9)
    for row, title in enumerate(("M before", "M after", "difference")):
        grid[row, 0].set_ylabel(f"{title}\nkernel tap", fontsize=9)
    for axes in grid[2]:
        axes.set_xlabel("input tap", fontsize=9)
    for axes in grid.flat:
        taps = range(0, axes.get_images()[0].get_array().shape[0], 4)
        axes.set_xticks(taps)
        axes.set_yticks(taps)
        axes.tick_params(labelsize=7)
    if image is not None and change is not None:
        figure.colorbar(image, ax=list(grid[:2].flat), shrink=0.8, label="entry of $M_s$")
        figure.colorbar(change, ax=list(grid[2]), shrink=0.9, label="after minus before")
    return figure


def curves(lines: Mapping[str, Points], xlabel: str, logarithmic: bool = False) -> Figure:
    """Accuracy against a number, one line a method, bars for the 95 % intervals over episodes.

    The grey lines, which colour does not tell apart, have their names at the right end.
    """
    figure = new_figure(8.5, 5.6)
    axes = figure.add_subplot()
    own = looks(list(lines))
    # The coloured ones last, over the grey, and first in the legend.
    for label in sorted(lines, key=lambda label: not own[label].behind):
        points, look = lines[label], own[label]
        x = sorted(points)
        y = [points[value][0] for value in x]
        bars = [points[value][1] or 0.0 for value in x]
        axes.errorbar(
            x,
            y,
            bars,
            color=look.colour,
            linestyle=look.linestyle,
            marker=look.marker,
            markersize=4,
            capsize=2,
            linewidth=0.9 if look.behind else 1.8,
            label="" if look.behind else label,
        )
    if logarithmic:
        axes.set_xscale("log")
    ticks = sorted({value for points in lines.values() for value in points})
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(xlabel)
    axes.set_ylabel("accuracy on novel classes, %\n(chance: 20; bars: 95 % over episodes)")
    axes.grid(alpha=0.3)
    ends = {label: (max(points), points[max(points)][0]) for label, points in lines.items() if own[label].behind}
    low, high = axes.get_ylim()
    heights = spaced([height for _, height in ends.values()], (high - low) / 36)
    style: dict[str, Any] = {"textcoords": axes.get_yaxis_transform(), "va": "center", "fontsize": 7, "color": "0.3"}
    for (label, end), height in zip(ends.items(), heights):
        leader = {"arrowstyle": "-", "color": "0.6", "lw": 0.6, "relpos": (0, 0.5), "shrinkA": 0}
        axes.annotate(label, end, (1.06, height), arrowprops=leader, **style)
    handles, names = axes.get_legend_handles_labels()
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 2}
    axes.legend(handles[::-1], names[::-1], fontsize=7, **place)
    return figure


def spaced(heights: Sequence[float], least: float) -> list[float]:
    """Heights for labels, as near to those given as being ``least`` apart allows, in the same order upwards."""
    order = np.argsort(heights, kind="stable")
    steps = least * np.arange(len(heights))
    # Less their steps the labels may touch: the nearest such heights are means of neighbours that are out of order.
    blocks: list[tuple[float, int]] = []
    for value in np.asarray(heights, float)[order] - steps:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (mean * count + before * size) / (count + size), count + size
        blocks.append((mean, count))
    found = np.empty(len(heights))
    found[order] = np.repeat([mean for mean, _ in blocks], [count for _, count in blocks]) + steps
    return found.tolist()


#: How our means are drawn, by what their intervals are over: the two tell different things.
_OURS = {EPISODE: ("o", "ours, over the test episodes"), SEED: ("s", "ours, over trainings")}


def accuracy_chart(rows: Sequence[tuple[str, float, float, str, float | None, tuple[float, float] | None]]) -> Figure:
    """Our accuracy with its interval, the paper's value and another published one, one line a method.

    ``rows`` holds (label, mean, half interval, ``SEED`` or ``EPISODE``, the paper's value or None, the other published
    value with half its interval or None).
    """
    figure = new_figure(7.5, 0.34 * len(rows) + 1.2)
    axes = figure.add_subplot()
    places = list(range(len(rows)))[::-1]
    for unit, (marker, label) in _OURS.items():
        own = [(row[1], place, row[2]) for row, place in zip(rows, places) if row[3] == unit]
        if own:
            means, heights, halves = zip(*own)
            look: dict[str, Any] = {"fmt": marker, "color": OKABE_ITO[0], "capsize": 3, "label": label}
            axes.errorbar(means, heights, xerr=halves, mfc="white" if unit == EPISODE else OKABE_ITO[0], **look)
    # Above ours, which would hide them.
    others = (
        ("D", OKABE_ITO[1], "paper", [None if row[4] is None else (row[4], np.nan) for row in rows]),
        ("^", OKABE_ITO[2], "published elsewhere", [row[5] for row in rows]),
    )
    for marker, colour, label, values in others:
        known = [(*pair, place + 0.25) for pair, place in zip(values, places) if pair is not None]
        if known:
            found, bars, heights = zip(*known)
            style: dict[str, Any] = {"capsize": 2, "markersize": 5, "elinewidth": 0.9, "label": label}
            axes.errorbar(found, heights, xerr=bars, fmt=marker, color=colour, **style)
    axes.set_yticks(places, [row[0] for row in rows], fontsize=8)
    axes.set_xlabel("accuracy, % (chance: 20), with 95 % intervals")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8)
    return figure
