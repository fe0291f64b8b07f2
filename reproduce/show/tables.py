"""All tables of a profile: their CSV files, a summary in Markdown, and the page of what stands.

Nothing here imports a model or the data, except that claims about parameters count them on the networks themselves
(``reproduce/declare/sizes.py``), claims that are computed ask ``reproduce/studies``, and Table 6 asks the few-shot
methods for their classifiers' names. What a table looks like is said by its task's columns.
"""

from __future__ import annotations

from collections.abc import Iterable

from reproduce import tasks
from reproduce.declare import plan
from reproduce.run import selection
from reproduce.run.files import write_text
from reproduce.run.store import Store, record_files
from reproduce.show import cards, findings, flat, rankings, words
from reproduce.show.cells import as_csv, as_markdown, markdown_lines
from reproduce.show.claim_tables import CLAIM_COLUMNS, claim_rows, markdown_claims
from reproduce.show.overview import elsewhere
from reproduce.show.rows import Table, make_tables, related


def csv_rows(table: Table) -> list[dict[str, str]]:
    """The rows of the table's CSV file as text, by column."""
    columns = [column for column in tasks.named(table.experiment.task).columns(table) if column.name]
    return [{column.name: column.cell(row) for column in columns} for row in table.rows]


def files(table: Table) -> dict[str, str]:
    """Names and contents of the table's CSV files."""
    task, stem = tasks.named(table.experiment.task), table.experiment.stem
    names = tuple(column.name for column in task.columns(table) if column.name)
    more = {f"{stem}{end}.csv": content for end, content in task.files(table).items()}
    claims = as_csv(CLAIM_COLUMNS, claim_rows(table))
    return {f"{stem}.csv": as_csv(names, csv_rows(table)), **more, f"{stem}_claims.csv": claims}


def markdown_rows(table: Table) -> str:
    """Paper against ours as a Markdown table."""
    columns = [column for column in tasks.named(table.experiment.task).columns(table) if column.heading]
    cells = [[column.cell(row) for column in columns] for row in table.rows]
    return markdown_lines([column.heading for column in columns], cells)


def scope_sentence(table: Table) -> str:
    """What the profile trains on and how much, beside the paper."""
    if not table.slots:
        return f"Profile {table.profile.name} declares no data for it."
    said = tasks.named(table.experiment.task).scope(table)
    run = {row.slot for row in table.rows if row.records}
    without = [slot.title for slot in table.slots if slot.name not in run]
    # A table without any record is not run, which is said in other words.
    return f"{said} Declared and not run so far: {'; '.join(without)}." if run and without else said


def write_tables(keys: Iterable[plan.Key], profile: plan.Profile, store: Store) -> list[Table]:
    """Write ``tables/tableN.csv``, ``tables/tableN_claims.csv``, the summary of all tables, and what stands."""
    folder, keys = store.folder / "tables", tuple(keys)
    # New runs tell other tables of the same data their spread too: what is written of those must not stay behind.
    others = dict.fromkeys(other for key in keys for other in related(key, profile) if other not in keys)
    written = [other for other in others if (folder / f"{plan.experiment(other).stem}.csv").exists()]
    made = make_tables((*keys, *written), profile, store)
    for table in made:
        for name, content in files(table).items():
            write_text(folder / name, content)
        ranking = folder / f"{table.experiment.stem}_ranking.csv"
        if ranks := rankings.rows(table):
            write_text(ranking, as_csv(rankings.COLUMNS, ranks))
        else:
            ranking.unlink(missing_ok=True)  # of earlier rows, that could be ranked
        if trials := selection.rows(profile, store, table.experiment.table):
            write_text(folder / f"{table.experiment.stem}_selection.csv", as_csv(selection.COLUMNS, trials))
    cards.write_cards(profile, store)
    if record_files(store.runs):
        write_text(store.folder / "records.csv", flat.csv_of(store))
    write_text(store.folder / "summary.md", summary(profile, store))
    write_text(store.folder / "findings.md", findings.page(profile, store))
    return made[: len(keys)]


def summary(profile: plan.Profile, store: Store) -> str:
    """Every table of the paper and beyond it, in Markdown; of one without records, what its claims come to without."""
    parts = [
        f"# Results of the {profile.name} profile",
        f"Made by `make reproduce PROFILE={profile.name}` from the records in `runs/`. Errors are test "
        "errors in percent, lower is better; a method's interval is a 95 % t interval over seeds (Table 6: "
        "accuracies, higher is better, with fewer than three seeds over episodes); with fewer than three seeds their "
        "values are shown. A claim's difference is positive where it is as claimed, and its interval, at the level "
        "beside it, is the one that decided. A dash stands for a value that is illegible in our copy of the paper or "
        "that has not been measured. A training error is the mean over the augmented images between the last two "
        "evaluations, while the network still changed: it may exceed the test error. Seconds of training are wall time "
        "on machines that may have done other things as well: they do not compare methods. Tables that compare the "
        "same runs judge them each at a level of its own; `findings.md` tells each comparison once, at the strictest. "
        "The verdict rule is in `reproduce/verdicts/statistics.py`.",
    ]
    made = make_tables(plan.every(), profile, store)
    others = elsewhere(made)
    for table in made:
        key = table.experiment.table
        if not table.slots and key not in plan.tables():
            continue
        parts.append(f"## {table.experiment.name}: {table.experiment.title}")
        parts.append(question(table))
        if table.run:
            parts += [scope_sentence(table), words.answer(table, others), markdown_rows(table), markdown_claims(table)]
        elif key in plan.tables():
            parts.append("Not run.")
        else:
            parts += [f"Not run. {scope_sentence(table)}", words.answer(table, others)]
        parts += _recipe_choice(profile, store, key)
    return "\n\n".join(parts) + "\n"


def question(table: Table) -> str:
    """What a table asks, and where the paper does."""
    sections = [part for part in table.experiment.section.split(", ") if not part.startswith("Table")]
    where = "section" if len(sections) == 1 else "sections"
    return f"{table.experiment.question} (In the paper: {where} {table.experiment.section}.)"


def _recipe_choice(profile: plan.Profile, store: Store, key: plan.Key) -> list[str]:
    """Which data chose the recipe of a table, with everything that was tried."""
    trials = selection.rows(profile, store, key)
    elsewhere = _chosen_elsewhere(profile, key)
    if not trials:
        return elsewhere or ["Nothing of this recipe was chosen by trials in this profile."]
    on = " and ".join(dict.fromkeys(row["chosen_on"] for row in trials))
    if not any(row["chosen"] for row in trials):
        return [f"The recipe is provisional: {len(trials)} candidates are to be tried on {on}, none has been."]
    head = {name: name.replace("_", " ") for name in selection.COLUMNS if name != "table"}
    metric = tasks.named(plan.experiment(key).task).metric
    error = f" (100 minus {metric.title})" if metric.higher_is_better else ""
    words = (
        f"Chosen on {on}, by the lowest mean error{error} of the methods named, once all candidates are tried; "
        "those with which a method diverged or did nothing of what it is about are passed over; the trials look at no "
        "test data:"
    )
    return [*elsewhere, words, as_markdown(head, trials), *_unqualified(trials), *_untried(profile, key)]


def _unqualified(trials: list[dict[str, str]]) -> list[str]:
    """Where what is declared is a choice by hand: all candidates were tried and none qualifies, or not all were."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in trials:
        groups.setdefault((row["dataset"], row["methods"]), []).append(row)
    tried = [where for where, rows in groups.items() if all(row["mean"] for row in rows)]
    left = [f"{methods} on {name}" for name, methods in tried if not any(r["chosen"] for r in groups[name, methods])]
    said = [f"No candidate qualifies for {'; '.join(left)}: what is declared was chosen by hand."] if left else []
    ahead = [f"{methods} on {name}" for name, methods in groups if (name, methods) not in tried]
    if ahead:
        said.append(f"Not all candidates have been tried for {'; '.join(ahead)}: what is declared is provisional.")
    return said


def _untried(profile: plan.Profile, key: plan.Key) -> list[str]:
    """The methods that no trial chose anything for, of a table whose methods have settings of their own."""
    experiment = plan.experiment(key)
    if tasks.named(experiment.task).one_recipe:
        return []
    tried = {name for choice in selection.choices(profile, key) for item in choice.candidates for name in item.trials}
    left = [method.label for method in experiment.methods if method.key not in tried]
    return [f"Settings of the other methods are usual values that no trials chose: {', '.join(left)}."] if left else []


def _chosen_elsewhere(profile: plan.Profile, key: plan.Key) -> list[str]:
    """A sentence for every data set whose recipe the trials of another table, or on another data set, choose."""
    tables = {slot: selection.recipe_table(profile, slot) for slot in profile.slots}
    sentences = []
    for name in filter(tables.__contains__, plan.experiment(key).within(profile.name).datasets):
        slot = profile.slots[name]
        recipes = {other: profile.slots[other].recipe for other, table in tables.items() if table}
        same = (other for other, recipe in recipes.items() if other == slot.of or recipe == slot.recipe)
        source = name if tables[name] else next(same, None)
        chosen = None if source is None else tables[source]
        if source is not None and chosen is not None and (source != name or chosen != key):
            of = "" if source == name else f" (on {profile.slots[source].title}, whose recipe it is too)"
            there = plan.experiment(chosen).name
            sentences.append(f"For the recipe of {slot.title}, see the trials under {there}{of}.")
    return sentences
