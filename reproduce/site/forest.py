"""The front page's picture: every claim that was compared, with its interval, the paper's difference and its scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reproduce.show.claims import Judged
from reproduce.show.figures import OKABE_ITO, new_figure, png
from reproduce.show.statistics import Direction

COLOURS = {
    Direction.AGREES: OKABE_ITO[2],
    Direction.DISAGREES: OKABE_ITO[5],
    Direction.NO_EFFECT: OKABE_ITO[3],
    Direction.UNDECIDED: "#888888",
}

#: Points beyond this are drawn at the edge, as arrows: one far claim shall not make the others a line.
FARTHEST = 6.0


def _edge(found: Sequence[tuple[str, Judged]]) -> float:
    """Half the width of the axis: all means with their intervals, as far as :data:`FARTHEST`."""
    ends = [0.5]
    for _, judged in found:
        interval = judged.verdict.interval
        assert interval is not None
        ends += [abs(end) for end in (interval.mean, interval.low, interval.high, judged.paper) if end is not None]
    return min(FARTHEST, 1.05 * max(end for end in ends if end <= FARTHEST or end == ends[0]))


def compared(claims: Sequence[tuple[str, Judged]]) -> list[tuple[str, Judged]]:
    """Of (table, claim) those with a difference in points; counted claims and those not run have none."""
    return [
        (table, judged)
        for table, judged in claims
        if judged.verdict.interval is not None and not judged.verdict.observed
    ]


def draw(claims: Sequence[tuple[str, Judged]], dark: bool = False) -> bytes:
    """A PNG with one line a claim of :func:`compared`; transparent, with the ink of a light or a dark page.

    Filled points with bars decided a claim by their interval; hollow ones have too few seeds for one. A vertical tick
    is the paper's own difference.
    """
    found = compared(claims)
    edge = _edge(found)
    ink = "#dddddd" if dark else "#222222"
    figure = new_figure(9.5, 1.1 + 0.36 * max(1, len(found)))
    figure.patch.set_alpha(0.0)
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    axes.axvline(0, color=ink, linewidth=0.8)
    labels = []
    for place, (table, judged) in enumerate(found):
        interval, colour = judged.verdict.interval, COLOURS[judged.verdict.direction]
        assert interval is not None
        decided = interval.low is not None and interval.high is not None
        if interval.low is not None and interval.high is not None:
            axes.plot([max(interval.low, -edge), min(interval.high, edge)], [place, place], color=colour, linewidth=2.2)
        inside = abs(interval.mean) <= edge
        marker = "o" if inside else ("<" if interval.mean < 0 else ">")
        axes.plot(
            max(-edge, min(edge, interval.mean)), place, marker, color=colour, markersize=7,
            markerfacecolor=colour if decided else "none", markeredgewidth=1.6,
        )
        if judged.paper is not None:
            far = abs(judged.paper) > edge
            tick = ">" if far else "|"
            axes.plot(min(edge, judged.paper), place, tick, color=ink, markersize=5 if far else 12, alpha=0.8)
        metric = judged.claim.metric.title
        scope = str(replace(judged.verdict.scope, data=""))
        where = ", ".join(part for part in (judged.dataset, metric, scope) if part)
        labels.append(f"{table}: {judged.better.label} – {judged.worse.label}\n{where}")
    axes.set_yticks(range(len(found)), labels, fontsize=6.5, color=ink)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlim(-1.05 * edge, 1.05 * edge)
    axes.set_xlabel("points in the claim's direction: right of zero as the paper says", color=ink, fontsize=8)
    axes.tick_params(colors=ink, labelsize=6.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(ink)
    handles = [axes.plot([], [], "o", color=colour)[0] for colour in COLOURS.values()]
    handles.append(axes.plot([], [], "|", color=ink, markersize=12)[0])
    figure.legend(
        handles, [*map(str, COLOURS), "the paper"], loc="outside upper center", ncols=5, fontsize=7, frameon=False,
        labelcolor=ink,
    )
    return png(figure)
