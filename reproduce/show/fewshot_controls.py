"""What of dynamic NSN's difference to ProtoNet is the predicted similarity's: controls of its classifier and size.

Dynamic NSN differs from ProtoNet in three things at once: a classifier that is retrained for every task, more than
three times as many parameters, and the predicted similarity. A plain CNN-4 with the same classifier sets the first
aside, one as large as dynamic NSN the second as well.
"""

from __future__ import annotations

from reproduce.show.fewshot_tables import ACCURACY
from reproduce.show.metrics import gains
from reproduce.show.rows import Row, Table
from reproduce.show.statistics import Interval, mean_interval

DYNAMIC, COMPETITOR, SAME_CLASSIFIER, SAME_SIZE = "dynamic", "proto", "linear", "linear_large"


def lead(better: Row, worse: Row) -> Interval | None:
    """Mean gain in accuracy of one row over another, in points, with its 95 % interval; None without common seeds."""
    found = gains(ACCURACY, better.records, worse.records)
    return None if found is None else mean_interval(found.values)


def _points(interval: Interval) -> str:
    ends = "" if interval.low is None or interval.high is None else f" ({interval.low:.2f} to {interval.high:.2f})"
    return f"{interval.mean:+.2f}{ends}"


def _conclusion(left: Interval, of: str) -> str:
    if left.low is None or left.high is None:
        return f"Whether {of} adds anything is open."
    if left.low > 0:
        return f"The interval is above zero: {of} adds accuracy beyond classifier and size."
    if left.high < 0:
        return f"The interval is below zero: with classifier and size set aside, {of} costs accuracy."
    return f"The interval contains zero: nothing here shows that {of} adds accuracy beyond classifier and size."


def paragraph(table: Table, slot: str) -> str:
    """The comparison in words, from the stored runs; says which run is missing where one is."""
    rows = {row.method.key: row for row in table.rows if row.slot == slot}
    dynamic = rows.get(DYNAMIC)
    needed = [rows[key] for key in (DYNAMIC, COMPETITOR, SAME_CLASSIFIER, SAME_SIZE) if key in rows]
    missing = [row.method.label for row in needed if not row.values()]
    if dynamic is None or missing:
        return f"Not to be said yet; not run: {', '.join(missing) or 'dynamic NSN'}."
    over = {key: lead(dynamic, rows[key]) for key in (COMPETITOR, SAME_CLASSIFIER, SAME_SIZE)}
    first, same, large = over[COMPETITOR], over[SAME_CLASSIFIER], over[SAME_SIZE]
    if first is None or same is None or large is None:
        return "Not to be said yet; the methods have no seed in common."
    sizes = {key: rows[key].parameters for key in over} | {DYNAMIC: dynamic.parameters}
    return (
        f"Dynamic NSN against ProtoNet: {_points(first)} points; it has {sizes[DYNAMIC]:,} parameters, ProtoNet "
        f"{sizes[COMPETITOR]:,}, and its classifier is retrained for every task. Against a plain CNN-4 of the same "
        f"width with the same classifier ({sizes[SAME_CLASSIFIER]:,} parameters): {_points(same)} points. Against one "
        f"of its own size ({sizes[SAME_SIZE]:,} parameters) with the same classifier: {_points(large)} points. "
        + _conclusion(large, "the predicted similarity")
    )
