"""All tables of a profile: their CSV files and a summary in Markdown.

Nothing here imports a model or the data, except that claims about parameters count them on the networks themselves
(``reproduce/declare/sizes.py``). What a table looks like belongs to its task, one file a task.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from reproduce.declare import plan
from reproduce.declare.runs import CLASSIFICATION, FEWSHOT
from reproduce.run import selection
from reproduce.run.files import write_text
from reproduce.run.store import Store
from reproduce.show import cards, error_tables, fewshot_tables, flat, rankings, words
from reproduce.show.cells import as_csv, as_markdown
from reproduce.show.claim_tables import markdown_claims
from reproduce.show.rows import Table, dataset_title, make_table


class TaskTables(Protocol):
    """What a task's file offers."""

    def files(self, table: Table) -> dict[str, str]:
        """Names and contents of the table's CSV files."""

    def markdown(self, table: Table) -> str:
        """Paper against ours."""

    def scope_sentence(self, table: Table) -> str:
        """What the profile trains on and how much, beside the paper."""


BY_TASK: dict[str, TaskTables] = {CLASSIFICATION: error_tables, FEWSHOT: fewshot_tables}


def _of_task(table: Table) -> TaskTables:
    return BY_TASK[table.experiment.task]


def markdown_rows(table: Table) -> str:
    """Paper against ours as a Markdown table."""
    return _of_task(table).markdown(table)


def scope_sentence(table: Table) -> str:
    """What the profile trains on and how much, beside the paper."""
    return _of_task(table).scope_sentence(table)


def write_tables(numbers: Iterable[int], profile: plan.Profile, store: Store) -> list[Table]:
    """Write ``tables/tableN.csv``, ``tables/tableN_claims.csv`` and the summary of all declared tables."""
    made = []
    for item in numbers:
        table = make_table(item, profile, store)
        folder = store.folder / "tables"
        for name, content in _of_task(table).files(table).items():
            write_text(folder / name, content)
        if ranks := rankings.rows(table):
            write_text(folder / f"table{item}_ranking.csv", as_csv(rankings.COLUMNS, ranks))
        if trials := selection.rows(profile, store, item):
            write_text(folder / f"table{item}_selection.csv", as_csv(selection.COLUMNS, trials))
        made.append(table)
    cards.write_cards(profile, store)
    if any(store.runs.glob("*.json")):
        write_text(store.folder / "records.csv", flat.csv_of(store))
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
        "that has not been measured. Seconds of training are wall time on machines that may have done other things as "
        "well: they do not compare methods. The verdict rule is in `reproduce/show/statistics.py`.",
    ]
    for item in plan.tables():
        table = make_table(item, profile, store)
        parts.append(f"## Table {item}: {table.experiment.title}")
        if not any(row.records for row in table.rows):
            parts += ["Not run.", *_recipe_choice(profile, store, item)]
            continue
        parts += [scope_sentence(table), words.answer(table), markdown_rows(table), markdown_claims(table)]
        parts += _recipe_choice(profile, store, item)
    return "\n\n".join(parts) + "\n"


def _recipe_choice(profile: plan.Profile, store: Store, number: int) -> list[str]:
    """Which data chose the recipe of a table, with everything that was tried."""
    trials = selection.rows(profile, store, number)
    elsewhere = _chosen_elsewhere(profile, number)
    if not trials:
        return elsewhere or ["Nothing of this recipe was chosen by trials in this profile."]
    on = " and ".join(dict.fromkeys(row["chosen_on"] for row in trials))
    if not any(row["chosen"] for row in trials):
        return [f"The recipe is provisional: {len(trials)} candidates are to be tried on {on}, none has been."]
    head = {name: name.replace("_", " ") for name in selection.COLUMNS if name != "table"}
    words = f"Chosen on {on}, by the lowest mean error of the methods named; no test data were looked at:"
    return [*elsewhere, words, as_markdown(head, trials)]


def _chosen_elsewhere(profile: plan.Profile, number: int) -> list[str]:
    """A sentence for every data set whose recipe the trials of another table, or on another data set, choose."""
    experiment = plan.experiment(number)
    if experiment.task != CLASSIFICATION:
        return []
    tables = {slot: selection.recipe_table(profile, slot) for slot in profile.data}
    sentences = []
    for slot in filter(tables.__contains__, experiment.datasets):
        same = (other for other in tables if profile.recipe_for(other) == profile.recipe_for(slot) and tables[other])
        source = slot if tables[slot] else next(same, None)
        if source is not None and (source != slot or tables[source] != number):
            of = "" if source == slot else f" (on {dataset_title(profile, source)}, whose recipe it is too)"
            title = dataset_title(profile, slot)
            sentences.append(f"For the recipe of {title}, see the trials under Table {tables[source]}{of}.")
    return sentences
