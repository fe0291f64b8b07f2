"""Tables as CSV and Markdown: the paper's values beside ours, claims with their verdicts, and a summary.

Nothing here imports a model or the data, except that claims about parameters count them on the networks themselves
(``reproduce/declare/sizes.py``).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

from reproduce.declare import plan
from reproduce.declare.runs import FEWSHOT
from reproduce.run import selection
from reproduce.run.files import write_text
from reproduce.run.store import Store
from reproduce.show.metrics import METRICS
from reproduce.show.rows import Table, dataset_title, make_table
from reproduce.show.statistics import EPISODE, Interval, level_text, values_text

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


def number(value: float | None, digits: int = 2) -> str:
    """A number with stated digits; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def interval_texts(interval: Interval | None) -> tuple[str, str, str]:
    """Mean, lower and upper end as text; empty where there is none."""
    if interval is None:
        return "", "", ""
    return number(interval.mean), number(interval.low), number(interval.high)


def level_of(interval: Interval | None) -> str:
    """The level of an interval in percent as text; empty where it has no ends."""
    return "" if interval is None or interval.low is None else level_text(interval.level).removesuffix(" %")


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


def as_csv(columns: tuple[str, ...], rows: list[dict[str, str]]) -> str:
    """Rows as CSV with a header line."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def as_markdown(columns: dict[str, str], rows: list[dict[str, str]]) -> str:
    """Rows as a Markdown table; ``columns`` maps keys to headings."""
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row[key] or "–" for key in columns) + " |" for row in rows]
    return "\n".join(lines)


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


def _interval(low: str, high: str) -> str:
    return f"{low} to {high}" if low else ""


def markdown_errors(table: Table) -> str:
    """Paper against ours as a Markdown table."""
    if table.experiment.task == FEWSHOT:
        from reproduce.show import fewshot_tables

        return fewshot_tables.markdown_accuracies(table)
    rows = [
        {
            **cells,
            "interval": _interval(cells["ours_ci_low"], cells["ours_ci_high"]),
            # Without an interval the seeds are shown; a single one is the mean itself.
            "ours_mean": cells["ours_mean"] if cells["ours_ci_low"] else cells["seed_values"],
            "verdict": row.verdict.short(),
        }
        for row, cells in zip(table.rows, table_rows(table))
    ]
    if table.experiment.top5:
        for row, cells in zip(table.rows, rows):
            cells["interval_top5"] = _interval(cells["ours_top5_ci_low"], cells["ours_top5_ci_high"])
            if not cells["interval_top5"]:
                cells["ours_top5_mean"] = row.seed_values("test_top5_error")
        return as_markdown(TOP5_HEADINGS, rows)
    return as_markdown(ERROR_HEADINGS, rows)


def markdown_claims(table: Table) -> str:
    """Claims and verdicts as a Markdown table; differences are positive where they are as claimed."""
    rows = []
    for judged, row in zip(table.claims, claim_rows(table)):
        points = row["difference"] if row["level"] else row["seed_values"]
        unit = "%" if row["observed"] else "" if judged.claim.metric != "test_top5_error" else "(top-5)"
        rows.append(
            {
                **row,
                "paper_difference": f"{row['paper_difference']} {unit}".strip() if row["paper_difference"] else "",
                "ours": row["observed"] or (f"{points} {unit}".strip() if points else ""),
                "interval": _interval(row["difference_ci_low"], row["difference_ci_high"]),
                "level_text": f"{row['level']} %" if row["level"] else "",
                "seeds_text": "" if row["observed"] and row["seeds"] == "0" else row["seeds"] + _over(row),
                "verdict": judged.verdict.short(),
            }
        )
    return as_markdown(CLAIM_HEADINGS, rows)


def _over(row: Mapping[str, str]) -> str:
    return f" ({row['replicates']} episodes)" if row["unit"] == EPISODE else ""


def scope_sentence(table: Table) -> str:
    """What the profile trains on and how much, beside the paper."""
    profile = table.profile
    if table.experiment.task == FEWSHOT:
        from reproduce.show import fewshot_tables

        return fewshot_tables.scope_sentence(table)
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


def write_tables(numbers: Iterable[int], profile: plan.Profile, store: Store) -> list[Table]:
    """Write ``tables/tableN.csv``, ``tables/tableN_claims.csv`` and the summary of all declared tables."""
    made = []
    for item in numbers:
        table = make_table(item, profile, store)
        folder = store.folder / "tables"
        if table.experiment.task == FEWSHOT:
            from reproduce.show import fewshot_tables

            for name, content in fewshot_tables.files(table).items():
                write_text(folder / name, content)
        else:
            write_text(folder / f"table{item}.csv", as_csv(table_columns(table), table_rows(table)))
            write_text(folder / f"table{item}_claims.csv", as_csv(CLAIM_COLUMNS, claim_rows(table)))
        if trials := selection.rows(profile, store, item):
            write_text(folder / f"table{item}_selection.csv", as_csv(selection.COLUMNS, trials))
        made.append(table)
    write_text(store.folder / "summary.md", summary(profile, store))
    return made


def summary(profile: plan.Profile, store: Store) -> str:
    """Every table that has records, in Markdown."""
    parts = [
        f"# Results of the {profile.name} profile",
        f"Made by `make reproduce PROFILE={profile.name}` from the records in `runs/`. Errors are test "
        "errors in percent, lower is better; a method's interval is a 95 % t interval over seeds (Table 6: "
        "accuracies, higher is better, with fewer than three seeds over episodes); with fewer than three seeds their "
        "values are shown. A claim's difference is positive where it is as claimed, and its interval, at the level "
        "beside it, is the one that decided. A dash stands for a value that is illegible in our copy of the paper or "
        "that has not been measured. The verdict rule is in `reproduce/show/statistics.py`.",
    ]
    for item in plan.tables():
        table = make_table(item, profile, store)
        parts.append(f"## Table {item}: {table.experiment.title}")
        if not any(row.records for row in table.rows):
            parts += ["Not run.", *_recipe_choice(profile, store, item)]
            continue
        parts += [scope_sentence(table), markdown_errors(table), markdown_claims(table)]
        parts += _recipe_choice(profile, store, item)
    return "\n\n".join(parts) + "\n"


def _recipe_choice(profile: plan.Profile, store: Store, number: int) -> list[str]:
    """Which data chose the recipe of a table, with everything that was tried."""
    trials = selection.rows(profile, store, number)
    if not trials:
        return ["Nothing of this recipe was chosen by trials in this profile."]
    on = " and ".join(dict.fromkeys(row["chosen_on"] for row in trials))
    if not any(row["chosen"] for row in trials):
        return [f"The recipe is provisional: {len(trials)} candidates are to be tried on {on}, none has been."]
    head = {name: name.replace("_", " ") for name in selection.COLUMNS if name != "table"}
    words = f"Chosen on {on}, by the lowest mean error of the methods named; no test data were looked at:"
    return [words, as_markdown(head, trials)]
