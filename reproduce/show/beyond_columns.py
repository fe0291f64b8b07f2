"""Columns of the tables beyond the paper whose tasks the paper has not: no values of the paper, but sizes and times."""

from __future__ import annotations

from reproduce.show.columns import (
    Column,
    claim_columns,
    measured_columns,
    row_columns,
    seconds_column,
    seed_columns,
    size_column,
)
from reproduce.show.metrics import Metric


def without_paper(metric: Metric, *more: Metric) -> tuple[Column, ...]:
    """A table's columns: the metrics with their intervals, seeds, parameters, seconds, verdicts."""
    measured = (column for each in (metric, *more) for column in measured_columns(each))
    return (
        *row_columns(metric),
        *(column for column in measured if not column.name.startswith("paper")),
        *seed_columns(metric),
        size_column(),
        seconds_column(),
        *claim_columns(),
    )
