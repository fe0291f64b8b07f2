"""The front page's picture: every claim that was compared, with its interval, the paper's difference and its scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from reproduce.show.figures import new_figure, png
from reproduce.show.looks import OKABE_ITO
from reproduce.show.overview import Shown
from reproduce.verdicts.judge import Judged
from reproduce.verdicts.statistics import Direction

COLOURS = {
    Direction.AGREES: OKABE_ITO[2],
    Direction.DISAGREES: OKABE_ITO[5],
    Direction.NO_EFFECT: OKABE_ITO[3],
    Direction.UNDECIDED: "#888888",
}

#: Points beyond this are drawn at the edge, as arrows: one far claim shall not make the others a line.
FARTHEST = 6.0



def _edge(found: Sequence[Shown]) -> float:
    """Half the width of the axis: all means with their intervals, as far as :data:`FARTHEST`."""
    ends = [0.5]
    for shown in found:
        interval = shown.judged.verdict.interval
        assert interval is not None
        ends += [
            abs(end) for end in (interval.mean, interval.low, interval.high, shown.judged.paper) if end is not None
        ]
    return min(FARTHEST, 1.05 * max(end for end in ends if end <= FARTHEST or end == ends[0]))


def compared(claims: Sequence[Shown]) -> list[Shown]:
    """Those with a difference in points; counted claims and those not run have none."""
    verdicts = [shown.judged.verdict for shown in claims]
    return [
        shown for shown, verdict in zip(claims, verdicts) if verdict.interval is not None and not verdict.observed
    ]


def draw(claims: Sequence[Shown], dark: bool = False, narrow: bool = False) -> bytes:
    """A PNG with one line a claim of :func:`compared`; transparent, with the ink of a light or a dark page.

    Filled points with bars decided a claim by their interval; hollow ones have too few seeds for one. A vertical tick
    is the paper's own difference. ``narrow`` is for a phone: names stand above their lines.
    """
    found = compared(claims)
    edge = _edge(found)
    ink = "#dddddd" if dark else "#222222"
    step = 0.62 if narrow else 0.44
    figure = new_figure(4.2 if narrow else 8.0, (1.5 if narrow else 1.1) + step * max(1, len(found)))
    figure.patch.set_alpha(0.0)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    axes.axvline(0, color=ink, linewidth=0.8, alpha=0.35 if narrow else 1)
    for place, shown in enumerate(found):
        _line(axes, place, shown.judged, edge, ink)
    labels = [_label(shown) for shown in found]
    if narrow:
        axes.set_yticks([])
        for place, (name, where) in enumerate(labels):
            axes.text(-1.05 * edge, place - 0.52, name, color=ink, fontsize=7.5, va="center")
            axes.text(-1.05 * edge, place - 0.26, where, color=ink, fontsize=6, va="center", alpha=0.75)
    else:
        axes.set_yticks(range(len(found)), ["\n".join(label) for label in labels], fontsize=8, color=ink)
    axes.set_ylim(len(found) - 0.5, -0.8 if narrow else -0.6)
    axes.set_xlim(-1.05 * edge, 1.05 * edge)
    told = "points, right of zero as the paper says" if narrow else "points; right of zero: as the paper says"
    axes.set_xlabel(told, color=ink, fontsize=8.5)
    axes.tick_params(colors=ink, labelsize=7.5, left=False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(ink)
    handles = [axes.plot([], [], "o", color=colour)[0] for colour in COLOURS.values()]
    handles.append(axes.plot([], [], "|", color=ink, markersize=12)[0])
    figure.legend(
        handles, [*map(str, COLOURS), "the paper"], loc="outside upper center", ncols=2 if narrow else 5,
        fontsize=8, frameon=False, labelcolor=ink,
    )
    return png(figure)


def _label(shown: Shown) -> tuple[str, str]:
    """What is compared, and where: tables, data, metric and scope, in few signs."""
    judged = shown.judged
    scope = replace(judged.verdict.scope, data="", trainings="")
    # Points are mostly of test error: another metric is named.
    metric = judged.claim.metric.title.replace("test error", "")
    where = ", ".join(part for part in (judged.dataset, metric, str(scope)) if part)
    short = where.replace(" than the paper's", "")
    return f"{judged.better.label} – {judged.worse.label}", f"{shown.where}: {short}"


def _line(axes: Axes, place: int, judged: Judged, edge: float, ink: str) -> None:
    """One claim: the interval as a bar, its mean as a point, the paper's difference as a tick."""
    interval, colour = judged.verdict.interval, COLOURS[judged.verdict.direction]
    assert interval is not None
    decided = interval.low is not None and interval.high is not None
    if interval.low is not None and interval.high is not None:
        axes.plot([max(interval.low, -edge), min(interval.high, edge)], [place, place], color=colour, linewidth=2.2)
    marker = "o" if abs(interval.mean) <= edge else ("<" if interval.mean < 0 else ">")
    axes.plot(
        max(-edge, min(edge, interval.mean)), place, marker, color=colour, markersize=7,
        markerfacecolor=colour if decided else "none", markeredgewidth=1.6,
    )
    if judged.paper is not None:
        far = abs(judged.paper) > edge
        tick = ">" if far else "|"
        axes.plot(min(edge, judged.paper), place, tick, color=ink, markersize=5 if far else 12, alpha=0.8)
