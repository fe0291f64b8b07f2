"""Drawing: learning curves, error charts, learned similarities, and the graphs of the paper's Figures 1 to 3.

Functions take plain numbers and return a :class:`matplotlib.figure.Figure`; they know nothing of models or
records. Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from reproduce.show.looks import OKABE_ITO, looks
from reproduce.verdicts.statistics import MINIMUM_SEEDS, mean_interval

KERNEL_COLOUR, INPUT_COLOUR = "#009E73", "#F0E442"  # the paper's Figure 1: green kernel, yellow input
POSITIVE_COLOUR, NEGATIVE_COLOUR = "#0072B2", "#D55E00"

#: Points that an axis of errors shows at least.
SHORTEST = 2.0

Array = NDArray[np.float64]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches that lays itself out."""
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same drawing."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _band(values: Array) -> tuple[Array, Array] | None:
    """Lower and upper limit per column of ``values`` [seeds, points]: 95 % t, or the range for two seeds."""
    if len(values) < 2:
        return None
    if len(values) < MINIMUM_SEEDS:
        return values.min(0), values.max(0)
    intervals = [mean_interval(list(column)) for column in values.T]
    return np.array([i.low for i in intervals], float), np.array([i.high for i in intervals], float)


def band_name(*seeds: int, clipped: bool = False) -> str:
    """What lines and bands show where the rows have these numbers of seeds.

    ``clipped``: a band would reach 0 or less, which a logarithmic axis does not have.
    """
    single, pair = 1 in seeds, 2 in seeds
    enough = sorted(count for count in set(seeds) if count >= MINIMUM_SEEDS)
    parts = []
    if enough:
        among = f"{enough[0]}" if len(enough) == 1 else f"{enough[0]} to {enough[-1]}"
        where = "where there are" if single or pair else "over"
        parts.append(f"95 % interval {where} {among} seeds")
    if pair:
        parts.append("range of two seeds")
    if not parts:
        return "one seed"
    lines = [f"line: mean{' or the one seed' if single else ''}; band: {', '.join(parts)}"]
    return "\n".join(lines + ["(cut at the smallest seed where it reaches 0)"] * clipped)


def _verdict(diverged: int, runs: int) -> str:
    """What is written where runs diverged."""
    return "diverged" if diverged == runs else f"{diverged} of {runs} diverged"


def learning_curves(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]],
    key: str = "test_error",
    names: Mapping[str, str] = MappingProxyType({}),
    diverged: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    samples: str = "images",
) -> Figure:
    """A metric (percent) against training images, one panel a data set, one line a method.

    ``panels`` maps a panel's title to method labels, those to one curve a seed; a curve is a list of points
    with ``images`` and ``key``. ``names`` maps titles to how the metric is written, "test error" where nothing is said,
    ``diverged`` titles to labels, those to the number of runs that diverged. ``samples``: what they train on.
    """
    longest = max([len(label) for methods in panels.values() for label in methods], default=0)
    columns = 2 if longest <= 40 else 1
    entries = max([len(methods) for methods in panels.values()], default=0)
    figure = new_figure(6.2 * len(panels), 4.2 + 0.19 * -(-entries // columns))
    axes = np.atleast_1d(np.asarray(figure.subplots(1, len(panels)), dtype=object))
    for ax, (title, methods) in zip(axes, panels.items()):
        seeds: set[int] = set()
        clipped = False
        own = looks(list(methods))
        for label, curves in methods.items():
            curves = [curve for curve in curves if curve]
            if not curves:
                continue
            length = min(len(curve) for curve in curves)
            images = np.array([point["images"] for point in curves[0][:length]], float) / 1000
            values = np.array(
                [[np.nan if p[key] is None else p[key] for p in curve[:length]] for curve in curves], float
            )
            look = own[label]
            colour, front = look.colour, 2 if look.behind else 3
            style: dict[str, Any] = {"linestyle": look.linestyle, "marker": look.marker, "zorder": front}
            ax.plot(images, values.mean(0), color=colour, markersize=4, label=label, **style)
            band = _band(values)
            if band is not None:
                low, high = band
                under = low <= 0
                clipped |= bool(under.any())
                low = np.where(under, values.min(0), low)
                ax.fill_between(images, low, high, color=colour, alpha=0.15, linewidth=0)
            seeds.add(len(values))
            count = diverged.get(title, {}).get(label, 0)
            if count:
                end, height = (images[-1], float(values.mean(0)[-1]))
                note: dict[str, Any] = {"xytext": (0, -7), "textcoords": "offset points", "ha": "right", "va": "top"}
                ax.annotate(_verdict(count, len(curves)), (end, height), fontsize=8, **note)
        ax.set(title=title, xlabel=f"training {samples} (thousands)", ylabel=f"{names.get(title, 'test error')} (%)")
        logarithmic(ax)
        ax.grid(alpha=0.3, which="both")
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": columns}
        ax.legend(fontsize=8, title=band_name(*seeds, clipped=clipped), title_fontsize=8, **place)
    return figure


def logarithmic(ax: Axes) -> None:
    """Make the upward axis of what is drawn logarithmic, in plain numbers, of which one is near the lower end."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    steps = (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8) if high < 12 * low else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [value for decade in decades for step in steps if low <= (value := step * 10.0**decade) <= high]
    if len(ticks) < 3:
        ticks = [value for value in MaxNLocator(5).tick_values(low, high) if low <= value <= high]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.tick_params(axis="y", labelsize=8)


def error_chart(
    panels: Mapping[tuple[str, str], Sequence[tuple[str, Sequence[float], float | None]]],
    diverged: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> Figure:
    """A metric (percent) per method: every seed a dot, the mean with its 95 % interval, the paper's value beside it.

    ``panels`` maps a panel's title and metric to rows (label, value of each seed, the paper's value or None), and
    ``diverged`` titles to labels, those to the number of runs that diverged. An axis is never shorter than two points,
    so that a difference of a few images does not fill it; it is logarithmic where values are over a decade apart.
    """
    rows = max(len(items) for items in panels.values())
    figure = new_figure(6.4 * len(panels), 1.3 + 0.42 * rows)
    axes = np.atleast_1d(np.asarray(figure.subplots(1, len(panels)), dtype=object))
    for ax, ((title, name), items) in zip(axes, panels.items()):
        every = [value for _, errors, paper in items for value in (*errors, *([] if paper is None else [paper]))]
        wide = bool(every) and min(every) > 0 and max(every) > 10 * min(every)
        for place, (label, errors, paper) in enumerate(items):
            count = diverged.get(title, {}).get(label, 0)
            if count:
                text = f"{_verdict(count, count + len(errors))} "
                ax.text(0.99, place, text, transform=ax.get_yaxis_transform(), ha="right", va="center", fontsize=8)
            if paper is not None:
                ax.scatter([paper], [place], marker="D", s=40, facecolor="none", edgecolor="black", zorder=3)
            if not errors:
                continue
            ax.scatter(errors, [place] * len(errors), color=OKABE_ITO[4], s=14, zorder=2)
            interval = mean_interval(list(errors))
            if interval.count >= MINIMUM_SEEDS and interval.low is not None and interval.high is not None:
                low = min(errors) if wide and interval.low <= 0 else max(interval.low, 0.0)
                ax.plot([low, interval.high], [place, place], color=OKABE_ITO[0], linewidth=2)
            ax.scatter([interval.mean], [place], color=OKABE_ITO[0], marker="|", s=160, zorder=4)
        ax.set(title=title, xlabel=f"{name} (%)")
        ax.set_yticks(range(len(items)), [textwrap.fill(label, 36) for label, _, _ in items], fontsize=8)
        if wide:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
        else:
            low, high = ax.get_xlim()
            short = max(0.0, SHORTEST - (high - low))
            ax.set_xlim(low - short / 2, high + short / 2)
        ax.set_ylim(len(items) - 0.5, -0.5)
        ax.grid(alpha=0.3, axis="x")
    handles = [
        axes[0].scatter([], [], color=OKABE_ITO[4], s=14, label="one seed (ours)"),
        axes[0].scatter([], [], color=OKABE_ITO[0], marker="|", s=100, label="mean (ours), 95 % interval from 3 seeds"),
    ]
    if any(paper is not None for items in panels.values() for _, _, paper in items):
        handles.append(axes[0].scatter([], [], marker="D", facecolor="none", edgecolor="black", label="paper"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _spread(arrays: Sequence[Array], centre: float) -> float:
    """Half the range of a diverging colour map around ``centre`` that holds all of ``arrays``."""
    return max([float(np.abs(np.asarray(array) - centre).max()) for array in arrays] + [1e-6])


def _broken(name: str) -> str:
    """A layer's name in two lines, such as "stage 1" over "layer 2", so that it is readable over a small picture."""
    return name.replace(", ", "\n")


def static_similarities(layers: Sequence[tuple[str, Array]]) -> Figure:
    """The learned ``M_s`` of each layer: a mask over the kernel for diagonal ones, else the matrix [K, K].

    Colours are centred on the initialisation: 1 for a mask, 0 beside and 1 on the diagonal of a matrix.
    """
    pictures = []
    for name, matrix in layers:
        matrix = np.asarray(matrix, float)
        side = round(len(matrix) ** 0.5)
        diagonal = np.allclose(matrix, np.diag(np.diag(matrix)))
        if diagonal and side * side == len(matrix):
            pictures.append((name, np.diag(matrix).reshape(side, side) - 1))
        else:
            pictures.append((name, matrix - np.eye(len(matrix))))
    spread = _spread([picture for _, picture in pictures], 0.0)
    figure = new_figure(0.95 * len(pictures) + 0.9, 1.7)
    axes = np.atleast_1d(np.asarray(figure.subplots(1, len(pictures)), dtype=object))
    image: Any = None
    for ax, (name, picture) in zip(axes, pictures):
        image = ax.imshow(picture, cmap="PuOr", vmin=-spread, vmax=spread)
        ax.set_title(_broken(name), fontsize=9)
        ax.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=list(axes), label="$M_s - I$")
    return figure


def dynamic_similarities(layers: Sequence[tuple[str, Array, Array]]) -> Figure:
    """Mean (top) and standard deviation (bottom) over patches of each layer's predicted mask, [3, 3] each."""
    figure = new_figure(0.95 * len(layers) + 1.0, 2.7)
    axes = np.asarray(figure.subplots(2, len(layers), squeeze=False), dtype=object)
    centre = _spread([mean for _, mean, _ in layers], 1.0)
    widest = max([float(np.max(std)) for _, _, std in layers] + [1e-6])
    top: Any = None
    bottom: Any = None
    for column, (name, mean, std) in enumerate(layers):
        top = axes[0, column].imshow(mean, cmap="PuOr", vmin=1 - centre, vmax=1 + centre)
        bottom = axes[1, column].imshow(std, cmap="cividis", vmin=0, vmax=widest)
        axes[0, column].set_title(_broken(name), fontsize=9)
        for ax in axes[:, column]:
            ax.set(xticks=[], yticks=[])
    figure.colorbar(top, ax=list(axes[0]), label="mean of $M$")
    figure.colorbar(bottom, ax=list(axes[1]), label="std of $M$")
    return figure


def _as_picture(image: Any) -> Array:
    """[3, H, W] in 0..1 or 0..255 as [H, W, 3] in 0..1."""
    picture = np.asarray(image, float).transpose(1, 2, 0)
    return np.clip(picture / (255.0 if picture.max() > 1.5 else 1.0), 0, 1)


def similarity_maps(image: Any, maps: Any, name: str) -> Figure:
    """A test image [3][H][W] and what a layer's predictor makes of it: a map [h][w] for each kernel tap."""
    values = np.asarray(maps, float)
    side = round(len(values) ** 0.5)
    figure = new_figure(7.2, 3.6)
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[1, 1.25]), dtype=object)
    ax = left.subplots()
    ax.imshow(_as_picture(image))
    ax.set_title("test image", fontsize=9)
    ax.set(xticks=[], yticks=[])
    axes = np.asarray(right.subplots(side, side, squeeze=False), dtype=object).ravel()
    spread = _spread([values], 1.0)
    shown = None
    for tap, (ax, value) in enumerate(zip(axes, values)):
        shown = ax.imshow(value, cmap="PuOr", vmin=1 - spread, vmax=1 + spread)
        ax.set_title(f"tap {tap // side},{tap % side}", fontsize=7)
        ax.set(xticks=[], yticks=[])
    right.suptitle(f"predicted mask, {name}", fontsize=9)
    right.colorbar(shown, ax=list(axes), label="$M(X)$ (1: inner product)", shrink=0.8)
    return figure


def bipartite(ax: Axes, matrix: Any, title: str) -> None:
    """A similarity ``M_s`` [K, K] as a bipartite graph of kernel taps (left) and patch elements (right).

    A line is a multiplication: its width is the size of the entry, blue for positive and orange for negative.
    Entries below 2 % of the largest are left out.
    """
    values = np.asarray(matrix, float)
    largest = np.abs(values).max()
    count = len(values)
    for kernel in range(count):
        for element in range(count):
            value = values[kernel, element]
            if abs(value) < 0.02 * largest:
                continue
            colour = POSITIVE_COLOUR if value > 0 else NEGATIVE_COLOUR
            width = 3 * abs(value) / largest
            ax.plot([0, 1], [-kernel, -element], color=colour, linewidth=width, alpha=0.75, zorder=1)
    places = -np.arange(count)
    ax.scatter(np.zeros(count), places, s=90, color=KERNEL_COLOUR, edgecolor="black", zorder=2)
    ax.scatter(np.ones(count), places, s=90, color=INPUT_COLOUR, edgecolor="black", zorder=2)
    ax.text(0, 0.9, "kernel $W$", ha="center", fontsize=8)
    ax.text(1, 0.9, "patch $X$", ha="center", fontsize=8)
    ax.set_title(title, fontsize=9)
    ax.set(xlim=(-0.3, 1.3), ylim=(-count + 0.4, 1.6))
    ax.axis("off")


def matrix_picture(ax: Axes, matrix: Any, title: str, spread: float) -> Any:
    """``M_s - I`` [K, K] as an image with colours from ``-spread`` to ``spread``; returns the image."""
    values = np.asarray(matrix, float)
    image = ax.imshow(values - np.eye(len(values)), cmap="PuOr", vmin=-spread, vmax=spread)
    ax.set_title(title, fontsize=8)
    ax.set(xticks=[], yticks=[])
    return image


def picture(ax: Axes, image: Any, title: str, *squares: tuple[int, int, int]) -> None:
    """An image [3][H][W]; ``squares`` (row, column, side) mark the patches with that top left corner."""
    ax.imshow(_as_picture(image))
    for row, column, side in squares:
        x = [column - 0.5, column + side - 0.5, column + side - 0.5, column - 0.5, column - 0.5]
        y = [row - 0.5, row - 0.5, row + side - 0.5, row + side - 0.5, row - 0.5]
        ax.plot(x, y, color=NEGATIVE_COLOUR, linewidth=2)
    ax.set_title(title, fontsize=8)
    ax.set(xticks=[], yticks=[])


def ownership(
    ax: Axes, layers: Sequence[str], own: Sequence[int], shared: Sequence[int], title: str, common: int = 0
) -> None:
    """Which predictor serves which layer: layers left, predictors right, parameter counts in the boxes.

    ``own[i]`` is the number of predictor parameters that only layer i uses, ``shared[i]`` an index of the
    predictor kernels it uses together with the layers of the same index (-1: none), ``common`` their number.
    """
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "black"}
    groups = sorted({group for group in shared if group >= 0})
    for place, name in enumerate(layers):
        ax.text(0, -place, name, ha="center", va="center", fontsize=8, bbox={**box, "facecolor": KERNEL_COLOUR})
        what = "adaptation" if shared[place] >= 0 else "predictor"
        ax.text(1, -place, f"{what}\n{own[place]:,}", ha="center", va="center", fontsize=7, bbox=box)
        ax.plot([0, 1], [-place, -place], color="black", linewidth=1, zorder=0)
        if shared[place] >= 0:
            middle = -float(np.mean([i for i, group in enumerate(shared) if group == shared[place]]))
            ax.plot([1, 2], [-place, middle], color=POSITIVE_COLOUR, linewidth=1, zorder=0)
    for group in groups:
        middle = -float(np.mean([i for i, item in enumerate(shared) if item == group]))
        ax.text(
            2,
            middle,
            f"shared\npredictor\n{common:,}",
            ha="center",
            va="center",
            fontsize=8,
            bbox={**box, "facecolor": INPUT_COLOUR},
        )
    ax.set_title(title, fontsize=9)
    ax.set(xlim=(-0.5, 2.5), ylim=(-len(layers) + 0.3, 0.7))
    ax.axis("off")
