"""Tables 1 to 5 from records: test errors beside the paper's, as CSV and as Markdown."""

from __future__ import annotations

from reproduce.show.cells import as_csv, as_markdown, between, interval_texts, level_of, number
from reproduce.show.claim_tables import CLAIM_COLUMNS, claim_rows
from reproduce.show.metrics import METRICS
from reproduce.show.rows import Table, dataset_title

TABLE_COLUMNS = (
    "table",
    "dataset",
    "method",
    "metric",
    "paper",
    "ours_mean",
    "ours_ci_low",
    "ours_ci_high",
    "level",
    "seeds",
    "seed_values",
    "parameters",
    "train_seconds",
    "direction",
    "note",
    "scope",
)
TOP5_COLUMNS = ("paper_top5", "ours_top5_mean", "ours_top5_ci_low", "ours_top5_ci_high", "multiply_adds")
ERROR_HEADINGS = {
    "dataset": "data",
    "method": "method",
    "paper": "paper, error %",
    "ours_mean": "ours, error %",
    "interval": "95 % interval",
    "seeds": "seeds",
    "parameters": "parameters",
    "train_seconds": "training, s",
    "verdict": "verdict",
    "scope": "scope",
}
TOP5_HEADINGS = {
    "dataset": "data",
    "method": "method",
    "paper": "paper, top-1 error %",
    "ours_mean": "ours, top-1",
    "interval": "95 % interval",
    "paper_top5": "paper, top-5 error %",
    "ours_top5_mean": "ours, top-5",
    "interval_top5": "95 % interval",
    "seeds": "seeds",
    "parameters": "parameters",
    "multiply_adds": "multiply-adds an image",
    "train_seconds": "training, s",
    "verdict": "verdict",
    "scope": "scope",
}


def table_rows(table: Table) -> list[dict[str, str]]:
    """The rows of ``tableN.csv`` as text, by column."""
    found = []
    for row in table.rows:
        error = row.mean("test_error")
        values = (
            str(table.experiment.table),
            row.dataset,
            row.method.label,
            METRICS["test_error"].label,
            number(row.paper),
            *interval_texts(error),
            level_of(error),
            str(len(row.records)),
            row.seed_values("test_error"),
            "" if row.parameters is None else str(row.parameters),
            number(row.train_seconds, 1),
            str(row.verdict.direction),
            row.verdict.note(),
            str(row.verdict.scope),
        )
        cells = dict(zip(TABLE_COLUMNS, values))
        if table.experiment.top5:
            top5 = (number(row.paper_by("test_top5_error")), *interval_texts(row.mean("test_top5_error")))
            cells |= dict(zip(TOP5_COLUMNS, (*top5, "" if row.multiply_adds is None else str(row.multiply_adds))))
        found.append(cells)
    return found


def table_columns(table: Table) -> tuple[str, ...]:
    """The columns of ``tableN.csv``; a table with top-5 errors has more."""
    return TABLE_COLUMNS + TOP5_COLUMNS if table.experiment.top5 else TABLE_COLUMNS


def files(table: Table) -> dict[str, str]:
    """Names and contents of the table's CSV files."""
    stem = f"table{table.experiment.table}"
    return {
        f"{stem}.csv": as_csv(table_columns(table), table_rows(table)),
        f"{stem}_claims.csv": as_csv(CLAIM_COLUMNS, claim_rows(table)),
    }


def markdown(table: Table) -> str:
    """Paper against ours as a Markdown table."""
    rows = [
        {
            **cells,
            "interval": between(cells["ours_ci_low"], cells["ours_ci_high"]),
            # Without an interval the seeds are shown; a single one is the mean itself.
            "ours_mean": cells["ours_mean"] if cells["ours_ci_low"] else cells["seed_values"],
            "verdict": row.verdict.short(),
        }
        for row, cells in zip(table.rows, table_rows(table))
    ]
    if table.experiment.top5:
        for row, cells in zip(table.rows, rows):
            cells["interval_top5"] = between(cells["ours_top5_ci_low"], cells["ours_top5_ci_high"])
            if not cells["interval_top5"]:
                cells["ours_top5_mean"] = row.seed_values("test_top5_error")
        return as_markdown(TOP5_HEADINGS, rows)
    return as_markdown(ERROR_HEADINGS, rows)


def scope_sentence(table: Table) -> str:
    """What the profile trains on and how much, beside the paper."""
    profile = table.profile
    parts = []
    for slot in table.experiment.datasets:
        recipe = profile.recipe_for(slot)
        images = recipe["iterations"] * recipe["batch_size"]
        parts.append(
            f"{dataset_title(profile, slot)}: {recipe['iterations']} iterations of {recipe['batch_size']} "
            f"images ({images:,} images, {100 * profile.budget(slot):.3g} % of the paper's), "
            "the same for every method"
        )
    widths = {profile.width_for(slot) for slot in table.experiment.datasets}
    same = all(profile.same(slot)[1] for slot in table.experiment.datasets)
    shown = ", ".join(map(str, sorted(widths)))
    width = "the paper's network" if same else f"a network of width {shown} (paper: 32)"
    return f"Profile {profile.name}, {width}. {'; '.join(parts)}."
