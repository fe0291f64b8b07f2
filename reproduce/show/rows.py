"""A table of the paper as the records have it: rows of methods and claims with their verdicts.

Every stored seed of a declared run is used, whatever number of seeds the last command asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from reproduce.declare import plan
from reproduce.run import fingerprints
from reproduce.run.files import digest
from reproduce.run.store import Store, execution_order
from reproduce.show.claims import KINDS, Case, Judged, judge
from reproduce.show.metrics import METRICS, replicates
from reproduce.show.statistics import Direction, Interval, Scope, Verdict, combine, mean_interval, values_text


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
        return METRICS["test_error"].values(self.records)

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        return sum(record["status"] == "diverged" for record in self.records.values())

    def mean(self, metric: str) -> Interval | None:
        """Mean of a metric (see ``reproduce.show.metrics.METRICS``) with its 95 % interval; None when no run has it."""
        found = replicates(METRICS[metric], self.records)
        return None if found is None else mean_interval(found.values)

    def seed_values(self, metric: str) -> str:
        """The metric of every seed."""
        return values_text(list(METRICS[metric].values(self.records).values()))

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
        """The paper's error (of few-shot learning its accuracy) in percent, None where it is illegible."""
        return self.method.paper.get(self.slot)

    def paper_by(self, metric: str) -> float | None:
        """The paper's value of a metric in percent, None where it is illegible or not given."""
        return self.method.paper_top5.get(self.slot) if metric == "test_top5_error" else self.paper


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
    # Of several executions of a run the first stays.
    for record in sorted(store.records(), key=execution_order, reverse=True):
        found.setdefault(_without_seed(record["config"]), {})[int(record["config"]["seed"])] = record
    return found


def dataset_title(profile: plan.Profile, slot: str) -> str:
    """How a data set is written: CIFAR-10, or what stands in for it."""
    name = str(profile.slots[slot]["name"])
    title = plan.SLOT_TITLES[slot]
    return title if name == slot else f"{plan.SET_TITLES.get(name, name)} (for {title})"


def scope_of(profile: plan.Profile, slot: str) -> Scope:
    """What results of a profile on one data set can speak about."""
    same_data, same_width = profile.same(slot)
    data = "" if same_data else dataset_title(profile, slot).replace(" (for ", " for ").removesuffix(")")
    width = ""
    if not same_width:
        few_shot = profile.is_fewshot(slot)
        width = "other widths than the paper's" if few_shot else f"width {profile.width_for(slot)} (paper: 32)"
    return Scope(data, width, profile.budget(slot))


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
            plain[slot, method.key] = Row(slot, title, method, found, Verdict(Direction.REFERENCE))
    cases = [
        Case(
            claim,
            profile,
            scope_of(profile, slot),
            plain[slot, claim.better],
            plain[slot, claim.worse],
            plain[slot, claim.without] if claim.without else None,
        )
        for slot in slots
        for claim in declared.claims
    ]
    claims = judge(cases)
    rows = tuple(_with_verdict(row, claims, row.method.key == declared.baseline) for row in plain.values())
    return Table(declared, profile, rows, claims)


def _with_verdict(row: Row, claims: Iterable[Judged], reference: bool) -> Row:
    own = [j for j in claims if j.slot == row.slot and j.better == row.method and not j.claim.control]
    # A row stands for what the paper puts it above; only where that is nothing, for the other claims about it.
    chosen = [judged for judged in own if KINDS[judged.claim.kind].ranks] or own
    verdict = combine([judged.verdict for judged in chosen] if row.records else [])
    if reference and row.records:
        verdict = row.verdict
    elif row.records and not own:
        verdict = Verdict(Direction.NO_CLAIM)
    if row.diverged:
        counted = f"{row.diverged} of {len(row.records)} runs diverged"
        verdict = replace(verdict, reason=f"{verdict.reason}; {counted}" if verdict.reason else counted)
    return replace(row, verdict=verdict)
