"""Pictures of the tables beyond the paper, from what records hold: plain numbers in, figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reproduce.show.figures import logarithmic, new_figure, picture
from reproduce.show.looks import OKABE_ITO, looks
from reproduce.verdicts.statistics import MINIMUM_SEEDS, Interval, mean_interval

#: Colours of the classes of a segmentation: the ground is black.
CLASS_COLOURS = (
    "#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999", "#8C510A",
    "#FFFFFF",
)  # fmt: skip
CLASS_NAMES = ("ground", *map(str, range(10)))


def moved_taps(layers: Sequence[tuple[str, Any]], shapes: Sequence[tuple[str, Any]]) -> Figure:
    """Where deformable taps go on average, in pixels of the axes, and below them which taps a learned shape keeps.

    Args:
        layers: (name, mean offsets [K][2] in pixels, down and right).
        shapes: (name, D [K] of zeros and ones).
    """
    figure = new_figure(1.5 * max(len(layers), len(shapes), 1) + 0.4, 4.4 if shapes else 2.4)
    heights = [3, 2] if shapes else [1]
    parts = np.asarray(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights))
    above = np.asarray(parts[0, 0].subplots(1, max(1, len(layers)), squeeze=False), dtype=object)[0]
    for ax, (name, offsets) in zip(above, layers):
        values = np.asarray(offsets, float)
        side = round(len(values) ** 0.5)
        rows, columns = np.divmod(np.arange(len(values)), side)
        ax.scatter(columns, rows, facecolor="none", edgecolor="black", s=40)
        # A mean far outside of the map would hide the others.
        short = np.clip(values, -1.5 * side, 1.5 * side)
        arrows: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.012}
        ax.quiver(columns, rows, short[:, 1], short[:, 0], color=OKABE_ITO[0], **arrows)
        ax.set_title(f"offsets, {name}", fontsize=7)
        ax.set(xlim=(-2.5, side + 1.5), ylim=(side + 1.5, -2.5), aspect="equal", xticks=range(side), yticks=range(side))
        ax.tick_params(labelsize=6)
    below = np.asarray(parts[-1, 0].subplots(1, len(shapes), squeeze=False), dtype=object)[0] if shapes else ()
    for ax, (name, shape) in zip(below, shapes):
        values = np.asarray(shape, float)
        side = round(len(values) ** 0.5)
        # White is kept: a frame tells it from the paper.
        ax.imshow(values.reshape(side, side), cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        for edge in np.arange(side - 1) + 0.5:
            ax.axhline(edge, color="0.5", linewidth=0.8)
            ax.axvline(edge, color="0.5", linewidth=0.8)
        ax.set_title(f"learned D, {name}\n({int(values.sum())} of {len(values)} taps kept)", fontsize=7)
    return figure


def _with_seeds(label: str, found: Sequence[Any]) -> str:
    return f"{label} ({len(found)} seed{'s' if len(found) > 1 else ''})"


def attack_curves(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Error against the attack's radius, FGSM left and PGD right; radius 0 is no attack.

    Lines are means over seeds, bars their 95 % intervals from three seeds on. ``rows`` maps labels to what each seed
    found: {"radii", "clean" [1], "fgsm", "pgd"}.
    """
    figure = new_figure(9, 3.4)
    axes = np.asarray(figure.subplots(1, 2, sharey=True), dtype=object)
    own = looks(list(rows))
    for label, found in rows.items():
        radii = [0, *found[0]["radii"]]
        style: dict[str, Any] = {"color": own[label].colour, "marker": own[label].marker, "markersize": 4, "capsize": 2}
        for ax, kind in zip(axes, ("fgsm", "pgd")):
            errors = [mean_interval(list(one)) for one in zip(*([*each["clean"], *each[kind]] for each in found))]
            bars = [np.nan if one.high is None else one.high - one.mean for one in errors]
            ax.errorbar(radii, [one.mean for one in errors], bars, label=_with_seeds(label, found), **style)
    for ax, kind in zip(axes, ("FGSM", "PGD, 10 steps")):
        ax.set(title=kind, xlabel="largest change of a pixel, 255ths", ylabel="error (%)")
        ax.grid(alpha=0.3)
    axes[1].legend(fontsize=7, title="bars: 95 % over seeds, from three on", title_fontsize=7)
    return figure


def segmentations(images: Any, truth: Any, predictions: Mapping[str, Any]) -> Figure:
    """Test images [N][3][H][W], their classes [N][H][W], and those that each row predicts."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = ListedColormap(CLASS_COLOURS)
    columns = 2 + len(predictions)
    figure = new_figure(1.9 * columns, 1.95 * len(images) + 0.4)
    axes = np.asarray(figure.subplots(len(images), columns, squeeze=False), dtype=object)
    for row, image in enumerate(images):
        picture(axes[row, 0], image, "image" if row == 0 else "")
        for column, (name, masks) in enumerate({"truth": truth, **predictions}.items(), start=1):
            ax = axes[row, column]
            ax.imshow(np.asarray(masks[row]), cmap=colours, vmin=-0.5, vmax=10.5, interpolation="nearest")
            ax.set_title(name if row == 0 else "", fontsize=8)
            ax.set(xticks=[], yticks=[])
    handles = [
        Patch(facecolor=colour, edgecolor="0.5", label=name) for name, colour in zip(CLASS_NAMES, CLASS_COLOURS)
    ]
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": len(handles), "columnspacing": 1.2}
    figure.legend(handles=handles, title="class of a pixel", fontsize=8, title_fontsize=8, handlelength=1.2, **place)
    return figure


def class_bars(rows: Mapping[str, Sequence[Sequence[float | None]]], names: Sequence[str]) -> Figure:
    """Intersection over union of every class, one bar a row: the mean over seeds with its interval from three on."""
    figure = new_figure(9, 3)
    ax = figure.subplots()
    width = 0.8 / max(1, len(rows))
    own = looks(list(rows))
    for number, (label, found) in enumerate(rows.items()):
        values = np.array(found, float)  # [seeds, classes]; a class that no image has is NaN
        places = np.arange(values.shape[1]) + number * width
        present = ~np.isnan(values)
        means = [mean_interval(list(one[there])) if there.any() else None for one, there in zip(values.T, present.T)]
        heights = [0.0 if one is None else one.mean for one in means]
        bars = [np.nan if one is None or one.high is None else one.high - one.mean for one in means]
        style: dict[str, Any] = {"color": own[label].colour, "error_kw": {"elinewidth": 0.8, "capsize": 1.5}}
        ax.bar(places, heights, width, yerr=bars, label=_with_seeds(label, found), **style)
    ax.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, fontsize=8)
    ax.set(xlabel="class", ylabel="intersection over union (%)")
    figure.legend(fontsize=8, loc="outside right upper", title="bars: 95 % over seeds", title_fontsize=8)
    return figure


def state_masks(sequence: Any, masks: Any, title: str, channels: Sequence[str] = ()) -> Figure:
    """A sequence [T][C] and the mask over the state [T][hidden] that a cell predicts at every step.

    ``channels``: what the sequence's channels are, where they have names.
    """
    figure = new_figure(8, 3.4)
    axes = np.asarray(figure.subplots(1, 2, width_ratios=[1, 2]), dtype=object)
    axes[0].imshow(np.asarray(sequence, float), cmap="gray", aspect="auto")
    axes[0].set(title="input", xlabel="" if channels else "channel", ylabel="step")
    if channels:
        axes[0].set_xticks(range(len(channels)), list(channels))
    else:
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    values = np.asarray(masks, float)
    spread = max(float(np.abs(values - 1).max()), 1e-6)
    shown = axes[1].imshow(values, cmap="PuOr", vmin=1 - spread, vmax=1 + spread, aspect="auto")
    axes[1].set(title=title, xlabel="unit of the state", ylabel="step")
    for axis in (axes[0].yaxis, axes[1].yaxis, axes[1].xaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(shown, ax=axes[1], label="$M(x, h)$ (1: plain cell)")
    return figure


def spectrum(rows: Mapping[str, Sequence[float]]) -> Figure:
    """Eigenvalues of learned metrics, largest first; the Euclidean one has only ones.

    Eigenvalues of less than a millionth, which rounding leaves of zeros, are not drawn.
    """
    figure = new_figure(6, 3)
    ax = figure.subplots()
    own = looks(list(rows))
    for label, values in rows.items():
        found = np.asarray(values, float)
        found = np.where(found > 1e-6, found, np.nan)
        ax.plot(np.arange(1, len(found) + 1), found, color=own[label].colour, label=label)
    ax.axhline(1, color="black", linewidth=0.8, linestyle=":", label="$M = I$")
    ax.set(xlabel="place, the largest first", ylabel="eigenvalue of $M$, above $10^{-6}$", yscale="log")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def orders(rows: Mapping[str, tuple[int, Sequence[int], Sequence[float]]]) -> Figure:
    """Errors against the number of steps; ``rows`` maps schemes to (order, steps, errors)."""
    figure = new_figure(6, 3.4)
    ax = figure.subplots()
    for number, (name, (order, steps, errors)) in enumerate(rows.items()):
        colour, title = OKABE_ITO[number % len(OKABE_ITO)], name.replace("_", " ")
        ax.plot(steps, errors, color=colour, marker="o", markersize=4, label=f"{title}, order {order}")
    ax.set(xlabel="steps", ylabel="error at the end", xscale="log", yscale="log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("{x:g}")
    ax.tick_params(axis="x", which="both", labelsize=8, length=3)
    ax.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def stage_curves(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Test error of every stage's points, one line a row; where a line's marker changes, a stage begins."""
    figure = new_figure(7, 3.4)
    ax = figure.subplots()
    markers = {"pretrain": "o", "similarity": "s", "finetune": "^"}
    styles = looks(list(rows))
    for label, curve in rows.items():
        colour = styles[label].colour
        iterations = [point["iteration"] for point in curve]
        ax.plot(iterations, [point["test_error"] for point in curve], color=colour, label=label)
        for stage, marker in markers.items():
            own = [point for point in curve if point["stage"] == stage]
            ax.scatter([p["iteration"] for p in own], [p["test_error"] for p in own], color=colour, marker=marker, s=22)
    ax.set(xlabel="iterations (circles: CNN, squares: M alone, triangles: everything)", ylabel="test error (%)")
    logarithmic(ax)
    ax.grid(alpha=0.3, which="both")
    ax.legend(fontsize=8)
    return figure


def budget_curves(
    errors: Mapping[str, Mapping[int, Sequence[float]]],
    differences: Mapping[int, tuple[Interval, Sequence[float]]],
    paper: Mapping[str, float],
    paper_images: int,
    difference: str,
    common: Mapping[int, float] = MappingProxyType({}),
) -> Figure:
    """Errors of methods, and the difference of two of them, against the training images of a run.

    Bars are intervals over seeds, from three on; dots are seeds. The difference's line goes through the seeds that all
    budgets have in common, and where a budget has more, the mean of all is a square. The paper's values are hollow, at
    its own budget, and no line leads to them.

    Args:
        errors: by label and number of images, one error a seed.
        differences: by number of images, the interval that decided with every seed's value, in points.
        common: by number of images, the difference over the seeds that all budgets have.
        paper: the paper's errors by label, and under "" its difference; empty where data are not the paper's.
        paper_images: the paper's budget.
        difference: what minus what.
    """
    figure = new_figure(11, 4.4)
    left, right = np.asarray(figure.subplots(1, 2), dtype=object)
    own = looks(list(errors))
    for label, values in errors.items():
        colour = own[label].colour
        _bars(left, {images: (mean_interval(list(v)), v) for images, v in values.items() if v}, colour, label)
        if label in paper:
            left.scatter([paper_images], [paper[label]], marker="D", s=36, facecolor="none", edgecolor=colour)
    _bars(right, differences, OKABE_ITO[3], "mean of all seeds, from 3 on with the interval that decided", common)
    if common:
        places = sorted(common)
        name = "seeds of all budgets"
        right.plot(places, [common[at] for at in places], color=OKABE_ITO[5], marker="o", markersize=5, label=name)
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "fontsize": 8}
    right.legend(**below)
    right.axhline(0, color="black", linewidth=0.8)
    if "" in paper:
        right.scatter([paper_images], [paper[""]], marker="D", s=36, facecolor="none", edgecolor="black")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="training images of a run")
        ax.grid(alpha=0.3, which="both")
        if paper:
            ax.axvspan(paper_images / 1.5, paper_images * 1.5, color="black", alpha=0.06, linewidth=0)
            ax.text(paper_images, 1.01, "paper", transform=ax.get_xaxis_transform(), ha="center", fontsize=8)
    left.set(ylabel="test error (%)")
    logarithmic(left)
    left.legend(**below, ncols=2)
    right.set_ylabel(f"{difference}\n(points)")
    return figure


def _bars(
    ax: Any,
    found: Mapping[int, tuple[Interval, Sequence[float]]],
    colour: str,
    label: str,
    common: Mapping[int, float] = MappingProxyType({}),
) -> None:
    """A line through the means by number of images, with intervals where there are some, and the seeds as dots.

    No line, and squares, where there is a ``common`` one to be drawn.
    """
    places = sorted(found)
    style: dict[str, Any] = {"linestyle": "none", "marker": "s"} if common else {"marker": "o"}
    ax.plot(places, [found[place][0].mean for place in places], color=colour, markersize=5, label=label, **style)
    for place in places:
        interval, values = found[place]
        ax.scatter([place] * len(values), values, color=colour, s=10, alpha=0.6)
        if len(values) >= MINIMUM_SEEDS and interval.low is not None and interval.high is not None:
            ax.plot([place, place], [interval.low, interval.high], color=colour, linewidth=2, alpha=0.7)
