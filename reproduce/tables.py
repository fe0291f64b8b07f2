"""Tables made from records: the paper's values beside ours, claims with their verdicts, and a summary.

Nothing here imports a model or the data. Every stored seed of a declared run is used, whatever number of
seeds the last command asked for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reproduce import fingerprints, plan
from reproduce.files import digest, write_text
from reproduce.runs import FEWSHOT
from reproduce.statistics import (
    REFERENCE,
    Interval,
    Scope,
    Verdict,
    combine,
    judge_errors,
    judge_saving,
    mean_interval,
    paired_difference,
)
from reproduce.store import Store, execution_order

METRIC = "test error (%)"

TABLE_COLUMNS = (
    "table",
    "dataset",
    "method",
    "metric",
    "paper",
    "ours_mean",
    "ours_ci_low",
    "ours_ci_high",
    "seeds",
    "parameters",
    "train_seconds",
    "verdict",
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
    "seeds",
    "verdict",
    "source",
)


@dataclass(frozen=True)
class Row:
    """One method on one data set: its records by seed, and what they come to."""

    slot: str
    dataset: str
    method: plan.Method
    records: dict[int, dict[str, Any]]
    verdict: Verdict

    @property
    def errors(self) -> dict[int, float]:
        """Test error in percent by seed, of the runs that did not diverge."""
        return self.errors_by("test_error")

    def errors_by(self, metric: str) -> dict[int, float]:
        """An error in percent (see ``plan.METRICS``) by seed, of the runs that did not diverge and have it."""
        return {
            seed: float(record["result"][metric])
            for seed, record in self.records.items()
            if record["status"] == "finished" and record["result"].get(metric) is not None
        }

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        return sum(record["status"] == "diverged" for record in self.records.values())

    @property
    def error(self) -> Interval | None:
        """Mean test error over seeds; None when no run finished."""
        return self.mean("test_error")

    def mean(self, metric: str) -> Interval | None:
        """Mean of an error over seeds; None when no run has it."""
        errors = self.errors_by(metric)
        return mean_interval([errors[seed] for seed in sorted(errors)]) if errors else None

    @property
    def parameters(self) -> int | None:
        """Trainable parameters."""
        return next((int(record["parameters"]) for record in self.records.values()), None)

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds of one image through the network, where the records have them."""
        found = [record.get("multiply_adds") for record in self.records.values()]
        return next((int(count) for count in found if count), None)

    @property
    def train_seconds(self) -> float | None:
        """Mean seconds of training a run."""
        seconds = [float(record["result"]["train_seconds"]) for record in self.records.values()]
        return sum(seconds) / len(seconds) if seconds else None

    @property
    def paper(self) -> float | None:
        """The paper's error in percent, None where it is illegible."""
        return self.paper_by("test_error")

    def paper_by(self, metric: str) -> float | None:
        """The paper's value of an error in percent, None where it is illegible or not given."""
        return (self.method.paper if metric == "test_error" else self.method.paper_top5).get(self.slot)


@dataclass(frozen=True)
class Judged:
    """A claim on one data set with its measured difference (better minus worse) and verdict."""

    slot: str
    dataset: str
    claim: plan.Claim
    better: plan.Method
    worse: plan.Method
    quantity: str
    difference: Interval | None
    paper: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Table:
    """A table of the paper as the records have it."""

    experiment: plan.Experiment
    profile: plan.Profile
    rows: tuple[Row, ...]
    claims: tuple[Judged, ...]

    def row(self, slot: str, key: str) -> Row:
        """The row of one method on the data set in ``slot``."""
        return next(row for row in self.rows if row.slot == slot and row.method.key == key)


def _without_seed(config: dict[str, Any]) -> str:
    return digest({key: value for key, value in config.items() if key not in ("seed", "execution")})


def index(store: Store) -> dict[str, dict[int, dict[str, Any]]]:
    """All records of a store by configuration (without seed) and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for record in sorted(store.records(), key=execution_order, reverse=True):  # of several executions the first stays
        found.setdefault(_without_seed(record["config"]), {})[int(record["config"]["seed"])] = record
    return found


def dataset_title(profile: plan.Profile, slot: str) -> str:
    """How a data set is written: CIFAR-10, or what stands in for it."""
    name = str(profile.slots[slot]["name"])
    title = plan.SLOT_TITLES[slot]
    return title if name == slot else f"{name} (for {title})"


def make_table(number: int, profile: plan.Profile, store: Store) -> Table:
    """One table from the stored records."""
    declared = plan.experiment(number)
    records = index(store)
    marks = fingerprints.recorded(store.folder)
    plain: dict[tuple[str, str], Row] = {}
    slots = [slot for slot in declared.datasets if slot in profile.slots]
    for slot in slots:
        mark = marks.get(fingerprints.dataset_key(profile.slots[slot]), "")
        for method in declared.methods:
            key = _without_seed(profile.run(method, slot, 0).declared(mark))
            found = dict(sorted(records.get(key, {}).items()))
            title = dataset_title(profile, slot)
            plain[slot, method.key] = Row(slot, title, method, found, Verdict(REFERENCE))
    claims = tuple(
        _judge(claim, slot, declared, profile, plain) for slot in slots for claim in declared.claims
    )
    rows = tuple(
        row if row.method.key == declared.baseline and row.records else _with_verdict(row, claims)
        for row in plain.values()
    )
    return Table(declared, profile, rows, claims)


def _with_verdict(row: Row, claims: Iterable[Judged]) -> Row:
    own = [judged for judged in claims if judged.slot == row.slot and judged.better == row.method]
    # A row stands for what the paper puts it above; only where that is nothing, for what it is said to equal.
    chosen = [judged for judged in own if judged.claim.kind in plan.ORDERINGS] or own
    verdict = combine([judged.verdict for judged in chosen] if row.records else [])
    return Row(row.slot, row.dataset, row.method, row.records, verdict)


def _judge(
    claim: plan.Claim,
    slot: str,
    declared: plan.Experiment,
    profile: plan.Profile,
    rows: dict[tuple[str, str], Row],
) -> Judged:
    better, worse = rows[slot, claim.better], rows[slot, claim.worse]
    scope = Scope(*profile.same(slot), profile.budget(slot))
    difference: Interval | None
    paper: float | None = None
    if claim.kind == "fewer_parameters":
        quantity = "fraction of the predictor parameters saved"
        counts = (better.parameters, worse.parameters, rows[slot, claim.without].parameters)
        saving = None
        if counts[0] is not None and counts[1] is not None and counts[2] is not None:
            saving = (counts[1] - counts[0]) / (counts[1] - counts[2])
        difference = None if saving is None else Interval(saving, None, None, 1)
        verdict = judge_saving(saving, claim.saving, scope)
    else:
        quantity = "percentage points" + ("" if claim.metric == "test_error" else f" of {plan.METRICS[claim.metric]}")
        difference = paired_difference(better.errors_by(claim.metric), worse.errors_by(claim.metric))
        ran = bool(better.records and worse.records)
        margin = claim.margin if claim.kind in plan.SIMILARITIES else None
        diverged = ran and bool(better.diverged or worse.diverged)
        verdict = judge_errors(difference, scope, diverged=diverged, margin=margin)
        values = better.paper_by(claim.metric), worse.paper_by(claim.metric)
        if values[0] is not None and values[1] is not None:
            paper = values[0] - values[1]
    return Judged(slot, better.dataset, claim, better.method, worse.method, quantity, difference, paper, verdict)


def number(value: float | None, digits: int = 2) -> str:
    """A number with stated digits; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"


def interval_texts(interval: Interval | None) -> tuple[str, str, str]:
    """Mean, lower and upper end as text; empty where there is none."""
    if interval is None:
        return "", "", ""
    return number(interval.mean), number(interval.low), number(interval.high)


def table_rows(table: Table) -> list[dict[str, str]]:
    """The rows of ``tableN.csv`` as text, by column."""
    found = []
    for row in table.rows:
        error = row.error
        verdict = str(row.verdict)
        if row.diverged:
            verdict = f"{verdict}; {row.diverged} of {len(row.records)} runs diverged"
        values = (
            str(table.experiment.table),
            row.dataset,
            row.method.label,
            METRIC,
            number(row.paper),
            *interval_texts(error),
            str(len(row.records)),
            "" if row.parameters is None else str(row.parameters),
            number(row.train_seconds, 1),
            verdict,
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
        difference = judged.difference
        values = (
            str(table.experiment.table),
            judged.dataset,
            judged.claim.words,
            judged.better.label,
            judged.worse.label,
            judged.quantity,
            number(judged.paper),
            *interval_texts(difference),
            "0" if difference is None else str(difference.count),
            str(judged.verdict),
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
}
CLAIM_HEADINGS = {
    "dataset": "data",
    "claim": "claim",
    "paper_difference": "paper, points",
    "difference": "ours",
    "interval": "95 % interval",
    "seeds": "seeds",
    "verdict": "verdict",
}


def _interval(low: str, high: str) -> str:
    return f"{low} to {high}" if low else ""


def markdown_errors(table: Table) -> str:
    """Paper against ours as a Markdown table."""
    if table.experiment.task == FEWSHOT:
        from reproduce import fewshot_tables

        return fewshot_tables.markdown_accuracies(table)
    rows = [{**row, "interval": _interval(row["ours_ci_low"], row["ours_ci_high"])} for row in table_rows(table)]
    if table.experiment.top5:
        for row in rows:
            row["interval_top5"] = _interval(row["ours_top5_ci_low"], row["ours_top5_ci_high"])
        return as_markdown(TOP5_HEADINGS, rows)
    return as_markdown(ERROR_HEADINGS, rows)


def markdown_claims(table: Table) -> str:
    """Claims and verdicts as a Markdown table."""
    if table.experiment.task == FEWSHOT:
        from reproduce import fewshot_tables

        return fewshot_tables.markdown_claims(table)
    rows = [
        {
            **row,
            "interval": _interval(row["difference_ci_low"], row["difference_ci_high"]),
            "difference": row["difference"]
            + (" of predictor parameters saved" if row["quantity"].startswith("fraction") else "")
            + (" (top-5)" if row["difference"] and "top-5" in row["quantity"] else ""),
        }
        for row in claim_rows(table)
    ]
    return as_markdown(CLAIM_HEADINGS, rows)


def scope_sentence(table: Table) -> str:
    """What the profile trains on and how much, beside the paper."""
    profile = table.profile
    if table.experiment.task == FEWSHOT:
        from reproduce import fewshot_tables

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
            from reproduce import fewshot_tables

            for name, content in fewshot_tables.files(table).items():
                write_text(folder / name, content)
        else:
            write_text(folder / f"table{item}.csv", as_csv(table_columns(table), table_rows(table)))
            write_text(folder / f"table{item}_claims.csv", as_csv(CLAIM_COLUMNS, claim_rows(table)))
        made.append(table)
    write_text(store.folder / "summary.md", summary(profile, store))
    return made


def summary(profile: plan.Profile, store: Store) -> str:
    """Every table that has records, in Markdown."""
    parts = [
        f"# Results of the {profile.name} profile",
        f"Made by `make reproduce PROFILE={profile.name}` from the records in `runs/`. Errors are test "
        "errors in percent, lower is better; intervals are 95 % t intervals over seeds (Table 6: accuracies, "
        "higher is better, intervals over episodes); a dash stands for a "
        "value that is illegible in our copy of the paper or that has not been measured. The verdict rule is "
        "in `reproduce/statistics.py`.",
    ]
    for item in plan.tables():
        table = make_table(item, profile, store)
        parts.append(f"## Table {item}: {table.experiment.title}")
        if not any(row.records for row in table.rows):
            parts.append("Not run.")
            continue
        parts += [scope_sentence(table), markdown_errors(table), markdown_claims(table)]
    return "\n\n".join(parts) + "\n"
