"""What of dynamic NSN's difference to ProtoNet is the predicted similarity's: controls of its classifier and size.

Dynamic NSN differs from ProtoNet in four things at once: it is trained as a classifier of all base classes and not on
episodes, its classifier is retrained for every task, its predictors make it larger, and its similarity depends on the
input. A plain CNN-4 with the same training and classifier sets the first two aside, one as large as dynamic NSN the
third as well. All three comparisons are claims of the table, whose intervals and verdicts are repeated here.
"""

from __future__ import annotations

from reproduce.show.rows import Table
from reproduce.verdicts.judge import Judged
from reproduce.verdicts.statistics import Direction, Verdict, level_text

DYNAMIC, COMPETITOR, SAME_CLASSIFIER, SAME_SIZE = "dynamic", "proto", "linear", "linear_large"


def _points(verdict: Verdict) -> str:
    """The gain in points of accuracy with the interval that decided."""
    interval = verdict.interval
    assert interval is not None
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.2f} points"
    ends = f"{interval.low:.2f} to {interval.high:.2f}"
    return f"{interval.mean:+.2f} points ({level_text(interval.level)} interval {ends})"


def _conclusion(verdict: Verdict, of: str) -> str:
    found = {
        Direction.AGREES: f"The interval is above zero: in these trainings, one a method, {of} adds accuracy beyond "
        "training, classifier and size.",
        Direction.DISAGREES: f"The interval is below zero: in these trainings, one a method, the network with {of} is "
        "the less accurate of two alike in training, classifier and size.",
    }
    if verdict.interval is None or verdict.interval.low is None:
        return f"Whether {of} adds anything is open."
    nothing = f"The interval contains zero: nothing here shows that {of} adds accuracy beyond those."
    return found.get(verdict.direction, nothing)


def paragraph(table: Table, slot: str) -> str:
    """The comparison in words, from the table's claims; says which run is missing where one is."""
    rows = {row.method.key: row for row in table.rows if row.slot == slot}
    others = (COMPETITOR, SAME_CLASSIFIER, SAME_SIZE)
    needed = [rows[key] for key in (DYNAMIC, *others) if key in rows]
    missing = [row.method.label for row in needed if not row.values()]
    if DYNAMIC not in rows or missing:
        return f"Not to be said yet; not run: {', '.join(missing) or 'dynamic NSN'}."
    judged: dict[str, Judged] = {
        item.claim.worse: item for item in table.claims if item.slot == slot and item.claim.better == DYNAMIC
    }
    over = {key: judged[key].verdict for key in others}
    if any(verdict.interval is None for verdict in over.values()):
        return "Not to be said yet; the methods have no seed in common."
    sizes = {key: rows[key].parameters for key in (DYNAMIC, *others)}
    first, same, large = (over[key] for key in others)
    return (
        f"Dynamic NSN against ProtoNet: {_points(first)}; it has {sizes[DYNAMIC]:,} parameters, ProtoNet "
        f"{sizes[COMPETITOR]:,}, it is trained on all base classes at once, and its classifier is retrained for every "
        f"task. Against a plain CNN-4 of the same width with the same training and classifier "
        f"({sizes[SAME_CLASSIFIER]:,} parameters): {_points(same)}. Against one of its own size "
        f"({sizes[SAME_SIZE]:,} parameters) with the same training and classifier: {_points(large)}. "
        + _conclusion(large, "the predicted similarity")
    )
