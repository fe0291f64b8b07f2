"""The tables: what is compared and claimed in each, declared in ``experiments/*.toml``.

``table4.toml`` is Table 4 of the paper, ``beyond_NAME.toml`` a table of ours, called by its name. A file may also hold
what profiles run for it, under ``[profiles.NAME]`` as in ``profiles.toml``: then a table is one file.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from reproduce import tasks
from reproduce.declare.overrides import base_of
from reproduce.tasks import CLASSIFICATION
from reproduce.verdicts import claims as claim_kinds
from reproduce.verdicts.metrics import Metric

EXPERIMENTS = Path(__file__).parent / "experiments"

#: A table of the paper is called by its number, one beyond the paper by its name.
Key = int | str
#: What the file of a table beyond the paper is called before its name, and what TABLES says for all of them.
BEYOND = "beyond"
#: Tables of the paper.
PAPERS_TABLES = 6


@dataclass(frozen=True)
class Method:
    """One row of a table: a model and the values that the paper prints (percent) by slot; illegible ones are absent.

    ``recipe`` is what its training has in place of the profile's, in every profile.

    ``paper`` has those of the task's metric, ``paper_of`` those of a table's other metrics by their names. ``handicap``
    says what keeps the method from its published strength here; verdicts repeat it. ``seeds`` is the largest number of
    them that the row is run with, for rows beyond the paper.

    ``backbone`` and ``trainings`` belong to the tasks that ask for them; ``interval`` has half the paper's 95 %
    intervals, ``published`` values with intervals that others published, by data set and number of shots.
    """

    key: str
    label: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    paper_of: dict[str, dict[str, float]] = field(default_factory=dict)
    backbone: str = ""
    trainings: tuple[str, ...] = ()
    interval: dict[str, float] = field(default_factory=dict)
    published: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    handicap: str = ""
    seeds: int | None = None
    task: str = CLASSIFICATION

    def printed(self, metric: Metric, slot: str) -> float | None:
        """The paper's value of a metric; None where it is illegible or not given."""
        own = self.paper if metric == tasks.named(self.task).metric else self.paper_of.get(metric.name, {})
        return own.get(slot)


@dataclass(frozen=True)
class Claim:
    """What the paper claims of two methods of a table; ``kind`` is one of ``reproduce.verdicts.claims.KINDS``.

    Attributes:
        words: the claim as a sentence.
        better, worse: keys of the methods, in the order in which the claim names them.
        source: where the paper says it.
        metric: what is compared; a declaration names it, or means the task's.
        margin: of "similar", in points.
        quantity, saving, without: of "fewer_parameters": what is counted, the least and largest fraction saved that
            fit the claim's words, and the method whose count is taken off both.
        paper_counts: of "fewer_parameters": the paper's own counts, the smaller first.
        multiple: of "does_not_converge" and "converges": of the second method's error.
        check: of "computed": a name of ``reproduce.studies.CHECKS``.
        datasets: the paper's data sets on which it is made; empty: all of the table's.
        built: whether it holds or fails by how our networks were chosen where the paper gives no sizes; counts say so.
        note: what a reader of the verdict has to know.
        late: whether it was declared when runs of it were known.
        in_words: whether the paper says it in words only, without numbers.
        control: whether it is ours, to say what a claim of the paper shows; it does not count for the row's verdict.
        controls: those controls that say what this claim shows, as "BETTER:WORSE"; its verdict names theirs.
        more: of "fewer_parameters": whether the words say that the second has more, which the verdict then counts.
    """

    words: str
    kind: str
    better: str
    worse: str
    source: str
    metric: Metric
    margin: float = 0.0
    quantity: str = "parameters"
    saving: tuple[float, float] = (0.0, 1.0)
    without: str = ""
    paper_counts: tuple[float, float] | tuple[()] = ()
    multiple: float = 0.0
    check: str = ""
    datasets: tuple[str, ...] = ()
    built: bool = False
    note: str = ""
    late: bool = False
    in_words: bool = False
    control: bool = False
    controls: tuple[str, ...] = ()
    more: bool = False


@dataclass(frozen=True)
class Experiment:
    """A table as data.

    ``metrics`` are those it shows beside the task's own, ``instead`` the data sets of a profile that is to be shorter,
    in place of ``datasets``.
    """

    table: Key
    title: str
    section: str
    question: str
    datasets: tuple[str, ...]
    baseline: str
    methods: tuple[Method, ...]
    claims: tuple[Claim, ...]
    task: str = CLASSIFICATION
    metrics: tuple[Metric, ...] = ()
    instead: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def within(self, profile: str) -> Experiment:
        """The table as a profile runs it, also one with changed settings (``demo+width=4``)."""
        return replace(self, datasets=tuple(self.instead.get(base_of(profile), self.datasets)))

    @property
    def everywhere(self) -> set[str]:
        """The data sets that it has in any profile."""
        return {*self.datasets, *(name for names in self.instead.values() for name in names)}

    @property
    def stem(self) -> str:
        """How its files are called, without their endings."""
        return f"table{self.table}" if isinstance(self.table, int) else f"{BEYOND}_{self.table}"

    @property
    def name(self) -> str:
        """How it is called in texts."""
        return f"Table {self.table}" if isinstance(self.table, int) else "Beyond the paper"

    def method(self, key: str) -> Method:
        """The method called ``key``."""
        for method in self.methods:
            if method.key == key:
                return method
        raise ValueError(f"{self.name} declares no method {key!r}; add it to {self.stem}.toml.")


def read(path: Path) -> dict[str, Any]:
    """A TOML file of declarations."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; name a file of declarations that does.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML ({error}); correct it.") from None


def _claim(item: dict[str, Any], metrics: dict[str, Metric], path: Path) -> Claim:
    """A declared claim, checked."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    name = values.pop("metric", next(iter(metrics)))
    if name not in metrics:
        raise ValueError(f"{path}: claim metric {name!r} is unknown; use one of {', '.join(metrics)}.")
    try:
        claim = Claim(metric=metrics[name], **values)
    except TypeError as error:
        raise ValueError(f"{path}: claim {item.get('words')!r} is incomplete or misspelt ({error}).") from None
    if problem := claim_kinds.check(claim):
        raise ValueError(f"{path}: {problem}")
    return claim


def _path(table: Key) -> Path:
    return EXPERIMENTS / (f"table{table}.toml" if isinstance(table, int) else f"{BEYOND}_{table}.toml")


@cache
def experiment(table: Key) -> Experiment:
    """The declaration of one table.

    Raises:
        ValueError: no such table is declared, or its file says what cannot be understood; the message names it.
    """
    path = _path(table)
    if not path.exists():
        known = ", ".join(map(str, every()))
        raise ValueError(f"TABLES names table {table}, which is not declared; choose from {known}.")
    raw = read(path)
    raw.pop("profiles", None)
    task = tasks.named(raw.get("task", CLASSIFICATION))
    try:
        metrics = {metric.name: metric for metric in (task.metric, *task.more_metrics)}
        claims = tuple(_claim(item, metrics, path) for item in raw.pop("claims", []))
        methods = tuple(
            Method(**{**item, "trainings": tuple(item.get("trainings", ())), "task": task.name})
            for item in raw.pop("methods")
        )
        more = tuple(metrics[name] for name in raw.pop("metrics", []))
        raw = {"table": table, **raw, "task": task.name, "datasets": tuple(raw["datasets"]), "metrics": more}
        declared = Experiment(methods=methods, claims=claims, **raw)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is incomplete or misspelt ({error}).") from None
    for claim in claims:
        for key in (claim.better, claim.worse, *([claim.without] if claim.without else [])):
            declared.method(key)
    controls = [f"{claim.better}:{claim.worse}" for claim in claims if claim.control]
    for name in (name for claim in claims for name in claim.controls):
        if name not in controls:
            raise ValueError(f"{path}: no control compares {name!r}; use one of {', '.join(controls) or 'none'}.")
    return declared


@cache
def tables(task: str | None = None) -> tuple[int, ...]:
    """The numbers of the paper's declared tables; with ``task``, of those whose runs are of that kind."""
    every = sorted(int(path.stem.removeprefix("table")) for path in EXPERIMENTS.glob("table*.toml"))
    if every[-1:] > [PAPERS_TABLES]:
        raise ValueError(
            f"{EXPERIMENTS}/table{every[-1]}.toml: the paper has {PAPERS_TABLES} tables, and what is claimed in theirs "
            f"counts as its claims; call a table of your own {BEYOND}_NAME.toml, without the line table = {every[-1]}."
        )
    return tuple(number for number in every if task is None or experiment(number).task == task)


@cache
def beyond() -> tuple[str, ...]:
    """The names of the declared tables beyond the paper."""
    return tuple(sorted(path.stem.removeprefix(f"{BEYOND}_") for path in EXPERIMENTS.glob(f"{BEYOND}_*.toml")))


def every() -> tuple[Key, ...]:
    """All declared tables, the paper's first."""
    return (*tables(), *beyond())


def parts_of(text: str) -> list[str]:
    """The parts of a list such as ``1,3`` or ``1 3``; one is empty where two commas meet or one stands at an end."""
    return re.split(r"\s*,\s*|\s+", text.strip())


def parse_tables(text: str | None) -> tuple[Key, ...]:
    """Tables from text such as ``1``, ``1,3``, ``1-4``, ``beyond`` or a name; None or empty means the paper's."""
    if text is None or not text.strip():
        return tables()
    found: list[Key] = []
    for part in parts_of(text):
        first, _, last = part.partition("-")
        if part == BEYOND:
            if not beyond():
                raise ValueError(f"TABLES={text!r}: no table beyond the paper is declared; choose from {tables()}.")
            found.extend(beyond())
        elif part.removeprefix(f"{BEYOND}_") in beyond():
            found.append(part.removeprefix(f"{BEYOND}_"))
        elif not _is_number(first) or (last and not _is_number(last)) or part.endswith("-"):
            known = ", ".join((BEYOND, *beyond())) if beyond() else ""
            more = f"; beyond the paper there are {known}" if known else ""
            raise ValueError(f"TABLES={text!r} is not understood; write numbers such as 1, 1-4 or 1,3{more}.")
        else:
            start, stop = int(first), int(last or first)
            if stop < start:
                raise ValueError(f"TABLES={text!r} runs backwards at {part}; write the smaller number first.")
            experiment(stop)  # refuses a number far beyond the declared ones before a list of them is made
            found.extend(range(start, stop + 1))
    for table in found:
        experiment(table)
    return tuple(dict.fromkeys(found))


def _is_number(text: str) -> bool:
    """Whether text is a number of a few plain digits."""
    return text.isascii() and text.isdigit() and len(text) < 10
