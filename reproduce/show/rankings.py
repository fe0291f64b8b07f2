"""Which ranks a method can have among many: from paired differences of all pairs of a table's methods, with Holm.

A method's best rank is one more than the number of methods that are better than it beyond chance, its worst the number
of methods less those that it is better than. Both hold together with at least 95 % for all methods of one data set,
since every pair is asked once and Holm's procedure is over all of them (Mogstad, Romano, Shaikh, Wilhelm, "Inference
for ranks", Review of Economic Studies 91, 2024). Like a verdict's interval they speak of these trainings only where
the replicates are test episodes, and over seeds have the spread that the methods show together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from reproduce import tasks
from reproduce.show.cells import as_markdown, number
from reproduce.show.rows import Row, Table
from reproduce.verdicts.metrics import Metric, gains, other_starts
from reproduce.verdicts.spread import pool
from reproduce.verdicts.statistics import EPISODE, MINIMUM_SEEDS, SEED, holm_levels

#: With fewer methods the claims say everything that a ranking would.
FEWEST_METHODS = 5

COLUMNS = ("dataset", "method", "metric", "mean", "best_rank", "worst_rank", "methods", "unit", "better_than")
HEADINGS = {"dataset": "data", "method": "method", "mean": "mean", "ranks": "rank", "better_than": "better than"}


@dataclass(frozen=True)
class Ranked:
    """One method's place on one data set; ``unit`` is what its pairs were compared over, ``units`` all pairs."""

    row: Row
    metric: Metric
    mean: float
    best: int
    worst: int
    methods: int
    unit: str
    better_than: tuple[str, ...]
    units: Mapping[str, int]

    @property
    def title(self) -> str:
        """What is ranked by, as it is written of this data set."""
        return tasks.named(self.row.method.task).metric_title(self.metric, self.row.slot)


def rank(rows: Sequence[Row], metric: Metric) -> list[Ranked]:
    """The methods of one data set from best mean to worst; those that diverged or share too few runs are left out."""
    means: list[tuple[Row, float]] = []
    for row in rows:
        interval = row.mean(metric)
        if interval is not None and not row.diverged:
            means.append((row, interval.mean))
    means.sort(key=lambda item: -metric.gain(item[1], 0.0))
    told = {row.method.key: metric.values(row.records) for row, _ in means}
    shared = None if metric.episodes is not None else pool(told)
    found = {}
    for first, second in combinations(range(len(means)), 2):
        records = means[first][0].records, means[second][0].records
        paired = gains(metric, *records)
        if paired is not None and len(paired.values) >= MINIMUM_SEEDS:
            found[first, second] = paired.among(shared, means[first][0].method.key, means[second][0].method.key)
        elif not other_starts(metric, *records):
            return []
    # A pair that cannot be told apart, since it starts from two trainings of one backbone, is asked all the same.
    p_values: dict[Hashable, float] = dict.fromkeys(combinations(range(len(means)), 2), 1.0)
    p_values |= {pair: item.p for pair, item in found.items()}
    levels = holm_levels(p_values)
    beaten: dict[int, set[int]] = {place: set() for place in range(len(means))}
    for (first, second), paired in found.items():
        if p_values[first, second] <= 1 - levels[first, second]:
            ahead = sum(paired.values) > 0
            beaten[first if ahead else second].add(second if ahead else first)
    units = Counter(item.unit for item in found.values())
    ranked = []
    for place, (row, mean) in enumerate(means):
        above = sum(place in others for others in beaten.values())
        names = tuple(means[other][0].method.label for other in sorted(beaten[place]))
        own = sorted({item.unit for pair, item in found.items() if place in pair})
        worst, unit = len(means) - len(beaten[place]), " and ".join(own)
        ranked.append(Ranked(row, metric, mean, 1 + above, worst, len(means), unit, names, units))
    return ranked


def rankings(table: Table) -> list[list[Ranked]]:
    """One ranking for every data set on which enough methods of a table meet."""
    metric = table.metric
    slots = dict.fromkeys(row.slot for row in table.rows)
    found = [rank([row for row in table.rows if row.slot == slot], metric) for slot in slots]
    return [ranked for ranked in found if len(ranked) >= FEWEST_METHODS]


def rows(table: Table) -> list[dict[str, str]]:
    """The rows of ``tableN_ranking.csv``; none where too few methods meet."""
    return [
        {
            "dataset": item.row.dataset,
            "method": item.row.method.label,
            "metric": item.title,
            "mean": number(item.mean),
            "best_rank": str(item.best),
            "worst_rank": str(item.worst),
            "methods": str(item.methods),
            "unit": item.unit,
            "better_than": "; ".join(item.better_than),
        }
        for ranked in rankings(table)
        for item in ranked
    ]


def _starts(ranked: Sequence[Ranked]) -> str:
    """Which methods do not start from the training of a backbone that others start from; empty where all do."""
    pairs = [
        (first, second)
        for first, second in combinations(ranked, 2)
        if other_starts(first.metric, first.row.records, second.row.records)
    ]
    if not pairs:
        return ""
    times = Counter(item.row.method.label for pair in pairs for item in pair)
    few = [label for label, count in times.items() if count == max(times.values())]
    return (
        f" Of one backbone there are several trainings, by the machine: {', '.join(few)} started from another and "
        "cannot be compared with those."
    )


def _over(units: Mapping[str, int]) -> str:
    """What the pairs were compared over, in words."""
    if not units.get(EPISODE):
        return "paired over seeds"
    if not units.get(SEED):
        return "of these trainings, paired over episodes"
    return (
        f"{units[EPISODE]} pairs of these trainings over episodes and {units[SEED]}, of methods with "
        "three trainings or more, over seeds, which spread more"
    )


def markdown(table: Table) -> str:
    """The rankings of a table under a sentence that says what they hold for; empty where there is none."""
    parts = []
    for ranked in rankings(table):
        first = ranked[0]
        pairs = first.methods * (first.methods - 1) // 2
        parts.append(
            f"Ranks by {first.title} on {first.row.dataset}, {_over(first.units)}: the range that all {pairs} pairs of "
            f"{first.methods} methods leave to each, for all of them together at 95 % (Holm)." + _starts(ranked)
        )
        shown = [
            {
                "dataset": item.row.dataset,
                "method": item.row.method.label,
                "mean": number(item.mean),
                "ranks": str(item.best) if item.best == item.worst else f"{item.best} to {item.worst}",
                "better_than": f"{len(item.better_than)} of {item.methods - 1}",
            }
            for item in ranked
        ]
        parts.append(as_markdown(HEADINGS, shown))
    return "\n\n".join(parts)
