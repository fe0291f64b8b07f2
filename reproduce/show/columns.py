"""Columns of tables: how a row's cells are made, for the CSV file and for Markdown.

The writers (``reproduce/show/tables.py``) loop over the columns that a task names; most tasks compose those here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reproduce.show.cells import between, interval_texts, level_of, number

if TYPE_CHECKING:
    from reproduce.show.rows import Row
    from reproduce.verdicts.metrics import Metric

Cell = Callable[["Row"], str]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        cell: a row's text, empty where there is nothing.
        name: heading in the CSV file; without one it is not in it.
        heading: heading in Markdown; without one it is not shown there.
    """

    cell: Cell
    name: str = ""
    heading: str = ""


def count(value: float | None) -> str:
    """A whole number as text; empty for None."""
    return "" if value is None else f"{value:.0f}"


def row_columns(metric: Metric) -> tuple[Column, ...]:
    """What a row is, and what its numbers are."""
    return (
        Column(lambda row: str(row.table), "table"),
        Column(lambda row: row.dataset, "dataset", "data"),
        Column(lambda row: row.method.label, "method", "method"),
        Column(lambda row: metric.label, "metric"),
    )


def _mean_or_seeds(row: Row, metric: Metric) -> str:
    """The mean where it has an interval; without one the seeds are shown, of which a single one is the mean itself."""
    interval = row.mean(metric)
    return row.seed_values(metric) if interval is None or interval.low is None else number(interval.mean)


def measured_columns(
    metric: Metric, paper: str | None = None, ours: str | None = None, level: bool = True
) -> tuple[Column, ...]:
    """A metric: the paper's value and ours with its interval, under headings of the metric's title where none is given.

    ``metric.mark`` goes into the names of a table's second metric.
    """
    mark = f"_{metric.mark.replace('-', '')}" if metric.mark else ""
    found = [
        Column(lambda row: number(row.printed(metric)), f"paper{mark}", paper or f"paper, {metric.title} %"),
        Column(lambda row: _mean_or_seeds(row, metric), heading=ours or f"ours, {metric.title} %"),
        Column(lambda row: between(*interval_texts(row.mean(metric))[1:]), heading="95 % interval"),
        Column(lambda row: interval_texts(row.mean(metric))[0], f"ours{mark}_mean"),
        Column(lambda row: interval_texts(row.mean(metric))[1], f"ours{mark}_ci_low"),
        Column(lambda row: interval_texts(row.mean(metric))[2], f"ours{mark}_ci_high"),
    ]
    return (*found, Column(lambda row: level_of(row.mean(metric)), "level")) if level else tuple(found)


def seed_columns(metric: Metric) -> tuple[Column, ...]:
    """How many trainings there are, and what each came to."""
    return (
        Column(lambda row: str(len(row.records)), "seeds", "seeds"),
        Column(lambda row: row.seed_values(metric), "seed_values"),
    )


def size_column() -> Column:
    """Trainable parameters."""
    return Column(lambda row: count(row.parameters), "parameters", "parameters")


def seconds_column() -> Column:
    """Mean time of a training."""
    return Column(lambda row: number(row.train_seconds, 1), "train_seconds", "training, s")


def claim_columns() -> tuple[Column, ...]:
    """What the claims about a row come to, and what they can speak about."""
    return (
        Column(lambda row: str(row.verdict.direction), "direction"),
        Column(lambda row: row.verdict.short(), heading="verdict"),
        Column(lambda row: row.verdict.note(), "note"),
        Column(lambda row: str(row.verdict.scope), "scope", "scope"),
    )
