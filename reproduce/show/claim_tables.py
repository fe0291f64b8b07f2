"""The claims of a table with their verdicts, as rows of ``tableN_claims.csv`` and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from reproduce.show.cells import as_markdown, between, interval_texts, level_of, number
from reproduce.show.rows import Table
from reproduce.verdicts.statistics import EPISODE, values_text

CLAIM_COLUMNS = (
    "table",
    "dataset",
    "claim",
    "better",
    "worse",
    "quantity",
    "paper_difference",
    "difference",
    "difference_ci_low",
    "difference_ci_high",
    "level",
    "unit",
    "replicates",
    "seeds",
    "seed_values",
    "observed",
    "direction",
    "note",
    "scope",
    "source",
)
CLAIM_HEADINGS = {
    "dataset": "data",
    "claim": "claim",
    "paper_difference": "paper",
    "ours": "ours",
    "interval": "interval",
    "level_text": "level",
    "seeds_text": "seeds",
    "verdict": "verdict",
    "scope": "scope",
}


def claim_rows(table: Table) -> list[dict[str, str]]:
    """The rows of ``tableN_claims.csv`` as text, by column."""
    found = []
    for judged in table.claims:
        verdict, interval = judged.verdict, judged.difference
        values = (
            str(table.experiment.table),
            judged.dataset,
            judged.claim.words,
            judged.better.label,
            judged.worse.label,
            judged.quantity,
            number(judged.paper),
            *interval_texts(interval),
            level_of(interval),
            verdict.unit,
            str(interval.count) if interval is not None and verdict.unit else "",
            str(verdict.seeds),
            values_text(verdict.values),
            verdict.observed,
            str(verdict.direction),
            verdict.note(),
            str(verdict.scope),
            judged.claim.source,
        )
        found.append(dict(zip(CLAIM_COLUMNS, values)))
    return found


def markdown_claims(table: Table) -> str:
    """Claims and verdicts as a Markdown table; differences are positive where they are as claimed."""
    rows = []
    for judged, row in zip(table.claims, claim_rows(table)):
        points = row["difference"] if row["level"] else row["seed_values"]
        mark = judged.claim.metric.mark
        unit = "%" if row["observed"] else f"({mark})" if mark else ""
        rows.append(
            {
                **row,
                "paper_difference": f"{row['paper_difference']} {unit}".strip() if row["paper_difference"] else "",
                "ours": row["observed"] or (f"{points} {unit}".strip() if points else ""),
                "interval": between(row["difference_ci_low"], row["difference_ci_high"]),
                "level_text": f"{row['level']} %" if row["level"] else "",
                "seeds_text": "" if row["observed"] and row["seeds"] == "0" else row["seeds"] + _over(row),
                "verdict": judged.verdict.short(),
            }
        )
    return as_markdown(CLAIM_HEADINGS, rows)


def _over(row: Mapping[str, str]) -> str:
    return f" ({row['replicates']} episodes)" if row["unit"] == EPISODE else ""
