"""How recipes are chosen: on held-out training images or validation classes, never on test data.

A profile declares under ``select`` what is tried: candidates (or a grid) of values of the recipe, the methods that try
them, the number of held-out images (or, few-shot, that episodes are of validation classes), and the shorter budget of
the trials. The candidate with the lowest mean error over those methods and seeds is the choice, the first one among
equals, once all are tried. A trial in which nothing was learned is no choice: a shape D that has all its taps at the
end, or a meta-training whose best state is its start. Trials are runs like all others: stored, resumable, found again.
The profile's recipe is written by hand and compared with the choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import Any

from reproduce import tasks
from reproduce.declare import plan
from reproduce.declare.runs import Run, declared_id
from reproduce.run import fingerprints
from reproduce.run.store import Store

COLUMNS = (
    "table",
    "dataset",
    "chosen_on",
    "methods",
    "seeds",
    "budget",
    "candidate",
    "errors",
    "mean",
    "chosen",
    "declared",
)


@dataclass(frozen=True)
class Candidate:
    """One point of a grid: its values by dotted key, and its trials by method key."""

    values: dict[str, Any]
    trials: dict[str, list[Run]]

    @property
    def words(self) -> str:
        """The values as text."""
        return ", ".join(f"{key} {value}" for key, value in self.values.items())


@dataclass(frozen=True)
class Choice:
    """What a profile declares to be tried for one slot, or for one method in it.

    ``chosen_on`` says which data the errors are of, ``budget`` how long the trials train; ``declared`` has the values
    that the profile's recipe has.
    """

    table: plan.Key
    slot: str
    chosen_on: str
    budget: str
    candidates: tuple[Candidate, ...]
    declared: dict[str, Any]

    @property
    def runs(self) -> list[Run]:
        """All trials."""
        return [run for candidate in self.candidates for trials in candidate.trials.values() for run in trials]


def choices(profile: plan.Profile, table: plan.Key) -> list[Choice]:
    """What is tried for the recipes of a table; empty where the profile declares nothing."""
    experiment = plan.experiment(table)
    found = []
    for key, declared in profile.select.items():
        if declared["table"] == table:
            found.append(_choice(profile, experiment, declared.get("slot", key), declared))
    return found


def recipe_table(profile: plan.Profile, slot: str) -> plan.Key | None:
    """The table among whose trials the training recipe of a data set was chosen; None where it was not.

    Trials of a model's own option, such as the rate of D_r, choose no recipe.
    """
    for number in plan.every():
        for choice in choices(profile, number):
            if choice.slot == slot and not all(key.startswith("model.") for key in choice.declared):
                return number
    return None


def _choice(profile: plan.Profile, experiment: plan.Experiment, slot: str, declared: dict[str, Any]) -> Choice:
    task, candidates = tasks.named(experiment.task), []
    for values in _points(declared):
        trials = {
            key: [
                _trial(profile.run(experiment.method(key), slot, seed), declared, values)
                for seed in range(int(declared["seeds"]))
            ]
            for key in declared["methods"]
        }
        candidates.append(Candidate(values, trials))
    usual = profile.run(experiment.method(declared["methods"][0]), slot, 0)
    own = {key: _declared(usual, key) for key in candidates[0].values}
    chosen_on = task.trial_data.format(**declared)
    return Choice(experiment.table, slot, chosen_on, _budget(candidates[0]), tuple(candidates), own)


def _points(declared: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates' values: as listed, or all combinations of a grid."""
    if "candidates" in declared:
        return [dict(values) for values in declared["candidates"]]
    grid: dict[str, list[Any]] = declared["grid"]
    return [dict(zip(grid, point)) for point in product(*grid.values())]


def _budget(candidate: Candidate) -> str:
    run = next(iter(candidate.trials.values()))[0]
    return f"{run.images:,} {tasks.named(run.task).samples}"


def _trial(run: Run, declared: dict[str, Any], values: dict[str, Any]) -> Run:
    """A run of the table as a trial: on other data, with other values."""
    run = tasks.named(run.task).held_out(run, declared)
    for key, value in {**declared.get("trial", {}), **values}.items():
        run = _set(run, key, value)
    words = ", ".join(f"{key} {value}" for key, value in values.items())
    return replace(run, label=f"{run.label} ({words}; trial)")


def _place(run: Run, key: str) -> tuple[dict[str, Any], list[str]]:
    """Which of a run's dictionaries a dotted key is in: ``model.x``, else the recipe's ``x`` or ``part.x``."""
    first, *rest = key.split(".")
    return (run.model, rest) if first == "model" else (run.recipe, [first, *rest])


def _get(run: Run, key: str) -> Any:
    found, path = _place(run, key)
    for name in path:
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found


def _declared(run: Run, key: str) -> Any:
    """A run's own value; of a model's option that nobody names, the default."""
    option = key.removeprefix("model.")
    named = option == key or option in run.model
    return _get(run, key) if named else tasks.named(run.task).default(run, option)


def _set(run: Run, key: str, value: Any) -> Run:
    old, path = _place(run, key)
    new = _with(old, path, value)
    return replace(run, model=new) if old is run.model else replace(run, recipe=new)


def _with(old: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    return {**old, name: _with(old.get(name, {}), rest, value) if rest else value}


@dataclass(frozen=True)
class Tried:
    """A candidate with its errors in percent by method, one a seed; None where a trial is missing or diverged.

    ``idle`` says why a trial is none, in words; ``complete`` that all trials are stored; ``start`` which training of
    the backbone they start from, where that is not the same for all candidates.
    """

    candidate: Candidate
    errors: dict[str, list[float | None]]
    idle: str = ""
    complete: bool = True
    start: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over methods and seeds, the figure that decides; a diverged trial rules the candidate out."""
        values = [error for errors in self.errors.values() for error in errors]
        known = [error for error in values if error is not None]
        return fmean(known) if known and len(known) == len(values) else None


def tried(choice: Choice, store: Store) -> list[Tried]:
    """The candidates with what the stored trials found."""
    marks = fingerprints.recorded(store.folder)

    def record(run: Run) -> dict[str, Any] | None:
        mark = marks.get(fingerprints.dataset_key(run.dataset))
        return None if mark is None else store.find(declared_id(run.declared(mark)))

    found = []
    for candidate in choice.candidates:
        records = {key: [record(run) for run in runs] for key, runs in candidate.trials.items()}
        errors = {key: [_error(record) for record in several] for key, several in records.items()}
        every = [record for several in records.values() for record in several]
        idle = next((why for record in every if record and (why := _idle(record))), "")
        found.append(Tried(candidate, errors, idle, None not in every, _starts([each for each in every if each])))
    # Trainings of one backbone on machines that round otherwise differ, and the candidates with them.
    return found if len({item.start for item in found} - {""}) > 1 else [replace(item, start="") for item in found]


def _starts(records: list[dict[str, Any]]) -> str:
    """Which trainings of backbones records start from, in words; empty where from none."""
    starts = set()
    for record in records:
        metric = tasks.of(record).metric
        if metric.start is not None and (start := metric.start(record)) is not None:
            starts.add(start[1][:6])
    return f"from training {' and '.join(sorted(starts))} of the backbone" if starts else ""


def _error(record: dict[str, Any] | None) -> float | None:
    if record is None or record["status"] != "finished":
        return None
    metric = tasks.of(record).metric
    found = record["result"].get(metric.name)
    return None if found is None else metric.error(float(found))


def _idle(record: dict[str, Any]) -> str:
    """What says that a trial learned nothing of what it tried; empty where it did."""
    return tasks.of(record).idle(record)


def best(found: list[Tried]) -> Tried | None:
    """The candidate of the lowest mean error, once all are tried; diverged and idle ones are passed over."""
    if not all(item.complete for item in found):
        return None
    known = [item for item in found if item.mean is not None and not item.idle]
    return min(known, key=lambda item: item.mean or 0.0, default=None)


def rows(profile: plan.Profile, store: Store, table: plan.Key) -> list[dict[str, str]]:
    """The trials of a table as text, by column of ``COLUMNS``."""
    lines = []
    for choice in choices(profile, table):
        found = tried(choice, store)
        chosen = best(found)
        for item in found:
            errors = "; ".join(
                f"{key} {' '.join('–' if error is None else f'{error:.2f}' for error in values)}"
                for key, values in item.errors.items()
            )
            values = (
                str(table),
                profile.slots[choice.slot].title,
                choice.chosen_on,
                ", ".join(item.errors),
                str(len(next(iter(item.errors.values())))),
                choice.budget,
                item.candidate.words,
                "; ".join(filter(None, (errors, item.idle, item.start))),
                "" if item.mean is None else f"{item.mean:.2f}",
                "yes" if item is chosen else "",
                "yes" if item.candidate.values == choice.declared else "",
            )
            lines.append(dict(zip(COLUMNS, values)))
    return lines
