"""A table of the paper as the records have it: rows of methods and claims with their verdicts.

Every stored seed of a declared run is used, whatever number of seeds the last command asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from reproduce import tasks
from reproduce.declare import plan
from reproduce.run import fingerprints
from reproduce.run.files import digest
from reproduce.run.store import Store, execution_order
from reproduce.verdicts.claims import KINDS, Case
from reproduce.verdicts.judge import Judged, compared, judge
from reproduce.verdicts.metrics import Metric, Replicates, replicates
from reproduce.verdicts.statistics import Direction, Interval, Verdict, combine, joined, values_text


@dataclass(frozen=True)
class Row:
    """One method on one data set: its records by seed, and what they come to.

    ``place`` is the paper's data set where the slot is called otherwise.
    """

    table: plan.Key
    slot: str
    dataset: str
    method: plan.Method
    records: dict[int, dict[str, Any]]
    verdict: Verdict
    place: str = ""

    @property
    def finished(self) -> dict[int, dict[str, Any]]:
        """The records without those that diverged."""
        return {seed: record for seed, record in self.records.items() if record["status"] == "finished"}

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        return len(self.records) - len(self.finished)

    @property
    def metric(self) -> Metric:
        """What the row's task compares by."""
        return tasks.named(self.method.task).metric

    @property
    def _idle(self) -> Counter[str]:
        """Why nothing was done of what the row is about, and in how many trainings."""
        task = tasks.named(self.method.task)
        return Counter(why for record in self.finished.values() if (why := task.idle(record)))

    @property
    def idle_trainings(self) -> int:
        """In how many trainings nothing was done of what the row is about."""
        return self._idle.total()

    @property
    def always_idle(self) -> bool:
        """Whether nothing was done of what the row is about in any training."""
        return 0 < len(self.finished) == self.idle_trainings

    @property
    def idle(self) -> str:
        """In how many trainings nothing was done of what the row is about, and what says so; empty where in none.

        After it, how little was done, where records have observed that.
        """
        found, every, task = self._idle, len(self.finished), tasks.named(self.method.task)
        counted = ", ".join(f"{why} in {count} of {every} training{'s' * (every > 1)}" for why, count in found.items())
        return joined(counted, task.remark(list(self.finished.values())))

    def values(self, metric: Metric | None = None) -> dict[int, float]:
        """A metric (the task's own where none is named) by seed, of the runs that did not diverge."""
        return (metric or self.metric).values(self.records)

    def replicates(self, metric: Metric) -> Replicates | None:
        """What the interval of a metric is computed from."""
        return replicates(metric, self.records)

    def mean(self, metric: Metric) -> Interval | None:
        """Mean of a metric with its 95 % interval; None when no run has it."""
        found = replicates(metric, self.records)
        return None if found is None else found.interval()

    def seed_values(self, metric: Metric) -> str:
        """The metric of every seed."""
        return values_text(list(self.values(metric).values()))

    def mean_of(self, key: str) -> float | None:
        """Mean over seeds of a number of the result that is no metric; None where none is stored."""
        found = (record["result"].get(key) for record in self.finished.values())
        values = [float(value) for value in found if value is not None]
        return sum(values) / len(values) if values else None

    def printed(self, metric: Metric) -> float | None:
        """The paper's value of a metric in percent, None where it is illegible or not given."""
        return self.method.printed(metric, self.place or self.slot)

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


@dataclass(frozen=True)
class Table:
    """A table as the records have it; ``peers`` are rows of other tables that its verdicts rest on too."""

    experiment: plan.Experiment
    profile: plan.Profile
    rows: tuple[Row, ...]
    claims: tuple[Judged, ...]
    peers: tuple[Row, ...] = ()

    @property
    def slots(self) -> list[plan.Slot]:
        """The slots of its data sets that the profile fills."""
        return [self.profile.slots[name] for name in self.experiment.datasets if name in self.profile.slots]

    @property
    def metric(self) -> Metric:
        """What its task compares by."""
        return tasks.named(self.experiment.task).metric

    @property
    def run(self) -> bool:
        """Whether any of its runs is stored."""
        return any(row.records for row in self.rows)

    def row(self, slot: str, key: str) -> Row:
        """The row of one method on the data set in ``slot``.

        Raises:
            ValueError: the table has none; the sentence names those it has.
        """
        for row in self.rows:
            if row.slot == slot and row.method.key == key:
                return row
        known = ", ".join(f"{row.slot} {row.method.key}" for row in self.rows)
        raise ValueError(f"{self.experiment.name} has no row {slot} {key}; it has: {known}.")

    def compared(self, judged: Judged) -> tuple[Row, Row]:
        """The rows that a claim compares, the one that the paper has above first."""
        return self.row(judged.slot, judged.claim.better), self.row(judged.slot, judged.claim.worse)


#: Rows by what a run of each is but for its seed, slot and method: one configuration may stand in a table twice.
Rows = dict[tuple[str, str, str], Row]


def _without_seed(config: dict[str, Any]) -> str:
    return digest({key: value for key, value in config.items() if key not in ("seed", "execution")})


def index(store: Store) -> dict[str, dict[int, dict[str, Any]]]:
    """All records of a store by configuration (without seed) and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    # Of several executions of a run the first stays.
    for record in sorted(store.records(), key=execution_order, reverse=True):
        found.setdefault(_without_seed(record["config"]), {})[int(record["config"]["seed"])] = record
    return found


def make_table(key: plan.Key, profile: plan.Profile, store: Store) -> Table:
    """One table from the stored records."""
    return make_tables((key,), profile, store)[0]


def make_tables(keys: Iterable[plan.Key], profile: plan.Profile, store: Store) -> list[Table]:
    """Tables from the stored records, which are read once for all of them."""
    records, marks = index(store), fingerprints.recorded(store.folder)
    paper = plan.profile("paper")

    @cache
    def rows(key: plan.Key) -> Rows:
        return _rows(key, profile, records, marks)

    return [_table(key, profile, rows, paper) for key in keys]


def related(key: plan.Key, profile: plan.Profile) -> list[plan.Key]:
    """The other tables that train networks on the same data alike: their methods tell one spread.

    Tables of the paper are where they share a data set; one beyond it and one of the paper where they share a run.
    """

    def slots(table: plan.Key) -> set[str]:
        return set(plan.experiment(table).within(profile.name).datasets) & set(profile.slots)

    def runs(table: plan.Key, shared: set[str]) -> set[str]:
        methods = plan.experiment(table).within(profile.name).methods
        return {profile.run(method, slot, 0).key for method in methods for slot in shared}

    def alike(other: plan.Key) -> bool:
        papers, shared = {key, other} & set(plan.tables()), slots(key) & slots(other)
        if len(papers) < 2 and shared:
            return bool(papers) and not runs(key, shared).isdisjoint(runs(other, shared))
        return bool(shared)

    return [other for other in plan.every() if other != key and alike(other)]


def _rows(
    key: plan.Key, profile: plan.Profile, records: Mapping[str, dict[int, dict[str, Any]]], marks: Mapping[str, str]
) -> Rows:
    """The rows of a table, without verdicts."""
    declared, found = plan.experiment(key).within(profile.name), {}
    for slot in (slot for slot in declared.datasets if slot in profile.slots):
        place = profile.slots[slot]
        mark = marks.get(fingerprints.dataset_key(place.data), "")
        for method in declared.methods:
            configuration = _without_seed(profile.run(method, slot, 0).declared(mark))
            stored = dict(sorted(records.get(configuration, {}).items()))
            row = Row(key, slot, place.title, method, stored, Verdict(Direction.REFERENCE), place.place)
            found[configuration, slot, method.key] = row
    return found


def _peers(key: plan.Key, profile: plan.Profile, rows: Callable[[plan.Key], Rows]) -> tuple[Row, ...]:
    """Rows of related tables that tell the spread too; a run that stands in several tables counts once."""
    found: dict[str, Row] = {}
    # What is beyond the paper judges itself by the paper's tables, and not they by it.
    for other in (*(other for other in related(key, profile) if other in plan.tables()), key):
        keys = compared(plan.experiment(other).within(profile.name).claims)
        found |= {names[0]: row for names, row in rows(other).items() if row.method.key in keys and row.records}
    return tuple(row for row in found.values() if row.table != key)


def _table(
    key: plan.Key, profile: plan.Profile, rows: Callable[[plan.Key], Rows], paper: plan.Profile
) -> Table:
    declared = plan.experiment(key).within(profile.name)
    plain = {(row.slot, row.method.key): row for row in rows(key).values()}
    cases = [
        Case(
            claim,
            profile,
            profile.scope(slot, plain[slot, claim.better].method, plain[slot, claim.worse].method),
            plain[slot, claim.better],
            plain[slot, claim.worse],
            plain[slot, claim.without] if claim.without else None,
            paper if slot in paper.slots else None,
        )
        for slot in dict.fromkeys(row.slot for row in plain.values())
        for claim in declared.claims
        if not claim.datasets or profile.slots[slot].place in claim.datasets
    ]
    peers = _peers(key, profile, rows)
    claims = judge(cases, peers)
    shown = tuple(_with_verdict(row, claims, row.method.key == declared.baseline) for row in plain.values())
    return Table(declared, profile, shown, claims, peers)


def shown_tables(profile: plan.Profile, store: Store) -> list[Table]:
    """The paper's tables, whether run or not, and those beyond it that have records."""
    made = make_tables(plan.every(), profile, store)
    return [table for table in made if table.experiment.table in plan.tables() or table.run]


def _how(row: Row) -> str:
    """What was not finite in a row's diverged runs, and where their training stood."""
    results = [record["result"] for record in row.records.values() if record["status"] != "finished"]
    words = dict.fromkeys(str(result["divergence"]) for result in results if result.get("divergence"))
    errors = [float(result["train_error"]) for result in results if result.get("train_error") is not None]
    stood = f"training error {', '.join(f'{error:.1f}' for error in errors)} %" if errors else ""
    told = "; ".join(filter(None, [*words, stood]))
    return f" ({told})" if told else ""


def _with_verdict(row: Row, claims: Iterable[Judged], reference: bool) -> Row:
    own = [j for j in claims if j.slot == row.slot and j.better == row.method and not j.claim.control]
    own = [j for j in own if not KINDS[j.claim.kind].on]  # what is computed without data says nothing about a run
    # A row stands for what the paper puts it above; only where that is nothing, for the other claims about it.
    chosen = [judged for judged in own if KINDS[judged.claim.kind].ranks] or own
    verdict = combine([judged.verdict for judged in chosen] if row.records else [])
    # The row has its worst verdict: where that says something and another one is better, whom it is about.
    against = [judged.worse.label for judged in chosen if judged.verdict.direction == verdict.direction]
    if verdict.direction in (Direction.DISAGREES, Direction.NO_EFFECT) and len(against) < len(chosen):
        verdict = replace(verdict, reason=joined(f"against {', '.join(against)}", verdict.reason))
    if verdict.direction == Direction.AGREES:
        held = dict.fromkeys(text for judged in chosen for text in judged.reservations)
        verdict = replace(verdict, reason=joined(verdict.reason, *(f"though {text}" for text in held)))
    if reference and row.records:
        verdict = row.verdict
    elif row.records and not own:
        verdict = Verdict(Direction.NO_CLAIM)
    elif row.records and all(judged.verdict.counted for judged in chosen):
        verdict = replace(verdict, reason=joined("counted, not by its error", verdict.reason))
    if row.diverged:
        counted = f"{row.diverged} of {len(row.records)} runs diverged{_how(row)}"
        verdict = replace(verdict, reason=joined(verdict.reason, counted))
    return replace(row, verdict=replace(verdict, idle=row.idle))
