"""What a table measures: in which direction it is better, and over what its noise is counted.

Claims are judged on *gains*: differences between two methods, positive when the method that the paper calls better is
better, whether the metric is an error or an accuracy. The sign is decided here and nowhere else. Which metrics there
are is said by the tasks (``reproduce/tasks``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import fsum, hypot, sqrt
from statistics import stdev
from typing import Any

from reproduce.verdicts.spread import Pool
from reproduce.verdicts.statistics import EPISODE, MINIMUM_SEEDS, SEED, Interval, difference_p, mean_interval

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A measured quantity in percent.

    Attributes:
        name: its key in a run's result.
        title: how it is written.
        higher_is_better: True of an accuracy, False of an error.
        widest_margin: the largest margin, in points, that a claim of similarity may declare.
        episodes: the values of a record's test episodes, where it has such; then an interval is over episodes while
            there are too few seeds for one over seeds.
        mark: a short name that tells a table's second metric from its first; empty of the first.
        start: of a record, what its training starts from that other runs share, and which one it got; None of none.
        tested: of a record, of how many answers, right or wrong, the value is a fraction; None, also of a single
            record, where it is continuous.
    """

    name: str
    title: str
    higher_is_better: bool
    widest_margin: float
    episodes: Callable[[Record], list[float]] | None = None
    mark: str = ""
    start: Callable[[Record], tuple[str, str] | None] | None = None
    tested: Callable[[Record], int | None] | None = None

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


def tested_images(record: Record) -> int:
    """The number of test images of a run's data set."""
    from reproduce.declare.shapes import shape

    return shape(record["config"]["dataset"]).test


def _rounding(metric: Metric, records: Mapping[int, Record]) -> float:
    """The standard deviation that counting whole answers alone gives one value, in points."""
    counts = [metric.tested(records[seed]) for seed in metric.values(records)] if metric.tested else []
    # A number of answers is even around the truth over one step, whose deviation is the step over the root of 12.
    return max((100 / count for count in counts if count), default=0.0) / sqrt(12)


@dataclass(frozen=True)
class Replicates:
    """Values that an interval is computed from.

    Attributes:
        values: one a seed or one an episode.
        unit: which of the two.
        by_seed: one a seed, in any case.
        floor: the least standard deviation of ``values`` that is believed: errors are whole numbers of images, and
            methods trained alike tell what is usual (``reproduce/verdicts/spread.py``).
        freedom: degrees of freedom of the spread where other methods tell it too.
    """

    values: tuple[float, ...]
    unit: str
    by_seed: Mapping[int, float]
    floor: float = 0.0
    freedom: float | None = None

    def interval(self, level: float = 0.95) -> Interval:
        """Their mean with its interval."""
        return mean_interval(self.values, level, self.floor, self.freedom)

    @property
    def spread(self) -> float:
        """The standard deviation of two values or more that is believed."""
        return max(stdev(self.values), self.floor)

    @property
    def p(self) -> float:
        """Of the test that their mean is 0."""
        return difference_p(self.values, self.floor, self.freedom)

    def among(self, pool: Pool | None, better: str, worse: str) -> Replicates:
        """The same gains of one method over another with the spread that all methods of ``pool`` show together.

        Of episodes there are enough to tell their spread themselves.
        """
        if pool is None or self.unit == EPISODE:
            return self
        floor = max(self.floor, pool.gain(better, worse))
        return replace(self, floor=floor, freedom=pool.trusted(len(self.values)))


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
    if metric.episodes is None or len(by_seed) >= MINIMUM_SEEDS:
        return Replicates(tuple(by_seed.values()), SEED, by_seed, _rounding(metric, records))
    return Replicates(_over_episodes({seed: metric.episodes(records[seed]) for seed in by_seed}), EPISODE, by_seed)


def other_starts(metric: Metric, better: Mapping[int, Record], worse: Mapping[int, Record]) -> list[int]:
    """The common seeds whose runs should have one start and have two: made on machines that round otherwise."""
    found = []
    for seed in sorted(metric.values(better).keys() & metric.values(worse).keys()) if metric.start else []:
        assert metric.start is not None
        first, second = metric.start(better[seed]), metric.start(worse[seed])
        if first and second and first[0] == second[0] and first[1] != second[1]:
            found.append(seed)
    return found


def paired_seeds(metric: Metric, better: Mapping[int, Record], worse: Mapping[int, Record]) -> list[int]:
    """The common seeds whose runs can be compared: without those of `other_starts`, whose difference is that of two
    backbones as well."""
    left_out = other_starts(metric, better, worse)
    return sorted((metric.values(better).keys() & metric.values(worse).keys()) - set(left_out))


def gains(metric: Metric, better: Mapping[int, Record], worse: Mapping[int, Record]) -> Replicates | None:
    """The gain of one method over another with the same seed, or on the same episode; None without a seed of which
    they can be compared."""
    first, second = metric.values(better), metric.values(worse)
    by_seed = {seed: metric.gain(first[seed], second[seed]) for seed in paired_seeds(metric, better, worse)}
    if not by_seed:
        return None
    if metric.episodes is None or len(by_seed) >= MINIMUM_SEEDS:
        floor = hypot(_rounding(metric, better), _rounding(metric, worse))
        return Replicates(tuple(by_seed.values()), SEED, by_seed, floor)
    pairs: dict[int, list[float]] = {}
    for seed in by_seed:
        ours, theirs = metric.episodes(better[seed]), metric.episodes(worse[seed])
        if len(ours) != len(theirs):
            raise ValueError(
                f"Two records of seed {seed} have {len(ours)} and {len(theirs)} test episodes and cannot be compared; "
                "delete the older one to run it again."
            )
        pairs[seed] = [metric.gain(a, b) for a, b in zip(ours, theirs)]
    return Replicates(_over_episodes(pairs), EPISODE, by_seed)
