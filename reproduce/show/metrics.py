"""What a table measures: in which direction it is better, and over what its noise is counted.

Claims are judged on *gains*: differences between two methods, positive when the method that the paper calls better is
better, whether the metric is an error or an accuracy. The sign is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any

from reproduce.show.statistics import EPISODE, MINIMUM_SEEDS, SEED

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A measured quantity in percent.

    Attributes:
        name: its key in a run's result.
        title: how it is written.
        higher_is_better: True of an accuracy, False of an error.
        unit: the unit of replication, ``SEED`` or ``EPISODE``; episodes count only while there are too few seeds.
        widest_margin: the largest margin, in points, that a claim of similarity may declare.
    """

    name: str
    title: str
    higher_is_better: bool
    unit: str
    widest_margin: float

    @property
    def label(self) -> str:
        """Heading of a column of this metric."""
        return f"{self.title} (%)" + (", higher is better" if self.higher_is_better else "")

    def gain(self, better: float, worse: float) -> float:
        """By how much ``better`` is better than ``worse``."""
        return better - worse if self.higher_is_better else worse - better

    def error(self, value: float) -> float:
        """What is wrong, in percent: an error itself, 100 minus an accuracy."""
        return 100.0 - value if self.higher_is_better else value

    def values(self, records: Mapping[int, Record]) -> dict[int, float]:
        """The metric by seed, of the runs that did not diverge and have it."""
        return {
            seed: float(record["result"][self.name])
            for seed, record in sorted(records.items())
            if record["status"] == "finished" and record["result"].get(self.name) is not None
        }


#: An error's margin just holds the paper's own largest gap between DNS and UNS, 0.24 (Table 4); an accuracy's is the
#: smallest difference that Table 6 calls an advantage (static NSN over RelationNet), less than the paper's interval.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("test_error", "test error", False, SEED, 0.25),
        Metric("test_top5_error", "top-5 error", False, SEED, 0.25),
        Metric("accuracy", "accuracy", True, EPISODE, 0.42),
    )
}


@dataclass(frozen=True)
class Replicates:
    """Values that an interval is computed from.

    Attributes:
        values: one a seed or one an episode.
        unit: which of the two.
        by_seed: one a seed, in any case.
    """

    values: tuple[float, ...]
    unit: str
    by_seed: Mapping[int, float]


def episode_accuracies(record: Record) -> list[float]:
    """Accuracy of every test episode of a few-shot record, in percent."""
    result = record["result"]
    return [100.0 * right / result["queries"] for right in result["right"]]


def _over_episodes(by_seed: Mapping[int, list[float]]) -> tuple[float, ...]:
    """The mean over trainings episode by episode: all trainings are tested on the same episodes."""
    lengths = {len(values) for values in by_seed.values()}
    if len(lengths) > 1:
        raise ValueError(f"Records of one method have {sorted(lengths)} test episodes; delete those of an older run.")
    return tuple(fsum(column) / len(column) for column in zip(*by_seed.values()))


def replicates(metric: Metric, records: Mapping[int, Record]) -> Replicates | None:
    """The metric of one method: a value a seed from three seeds on, or where it is none of episodes; else an episode.

    None when no run finished.
    """
    by_seed = metric.values(records)
    if not by_seed:
        return None
    if metric.unit == SEED or len(by_seed) >= MINIMUM_SEEDS:
        return Replicates(tuple(by_seed.values()), SEED, by_seed)
    return Replicates(_over_episodes({seed: episode_accuracies(records[seed]) for seed in by_seed}), EPISODE, by_seed)


def gains(metric: Metric, better: Mapping[int, Record], worse: Mapping[int, Record]) -> Replicates | None:
    """The gain of one method over another with the same seed, or on the same episode; None without a common seed."""
    first, second = metric.values(better), metric.values(worse)
    by_seed = {seed: metric.gain(first[seed], second[seed]) for seed in first if seed in second}
    if not by_seed:
        return None
    if metric.unit == SEED or len(by_seed) >= MINIMUM_SEEDS:
        return Replicates(tuple(by_seed.values()), SEED, by_seed)
    pairs: dict[int, list[float]] = {}
    for seed in by_seed:
        ours, theirs = episode_accuracies(better[seed]), episode_accuracies(worse[seed])
        if len(ours) != len(theirs):
            raise ValueError(
                f"Two records of seed {seed} have {len(ours)} and {len(theirs)} test episodes and cannot be compared; "
                "delete the older one to run it again."
            )
        pairs[seed] = [metric.gain(a, b) for a, b in zip(ours, theirs)]
    return Replicates(_over_episodes(pairs), EPISODE, by_seed)
