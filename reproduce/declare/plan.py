"""What is to be run: the experiments and profiles declared in ``experiments/*.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from reproduce.declare import overrides
from reproduce.declare.runs import FEWSHOT, Run, model_config
from reproduce.show import claims as claim_kinds

EXPERIMENTS = Path(__file__).parent / "experiments"

#: The budgets of the paper's protocols in training images: iterations of 128 images (paper, section 7.1).
PAPER_IMAGES = {"cifar10": 64_000 * 128, "cifar100": 64_000 * 128, "imagenet": 600_000 * 128}

#: How the paper's data sets are written in tables.
SLOT_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "mini_imagenet": "Mini-ImageNet",
}

#: Data sets whose key is not how they are written.
SET_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar_fs": "CIFAR-FS",
    "glyphs_fs": "glyphs",
    "tiny_imagenet_25": "Tiny-ImageNet-25",
    "tiny_imagenet_25_fs": "Tiny-ImageNet-25",
}


@dataclass(frozen=True)
class Method:
    """One row of a table: a model and the paper's errors (percent) by slot; illegible values are absent.

    ``paper`` has the error of the likeliest class, ``paper_top5`` that of the five likeliest. ``handicap`` says what
    keeps the method from its published strength here; verdicts repeat it. ``seeds`` is the largest number of them that
    the row is run with, for rows beyond the paper.

    A few-shot method (``model`` is its name in ``nsl.fewshot``) also has its backbone, the trainings it takes
    ("pretrain", "meta"), the paper's accuracies with half their 95 % intervals, and accuracies with intervals that
    others published, by data set and number of shots.
    """

    key: str
    label: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    paper_top5: dict[str, float] = field(default_factory=dict)
    backbone: str = ""
    trainings: tuple[str, ...] = ()
    interval: dict[str, float] = field(default_factory=dict)
    published: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    handicap: str = ""
    seeds: int | None = None


@dataclass(frozen=True)
class Claim:
    """What the paper claims of two methods of a table; ``kind`` is one of ``reproduce.show.claims.KINDS``.

    Attributes:
        words: the claim as a sentence.
        better, worse: keys of the methods, in the order in which the claim names them.
        source: where the paper says it.
        metric: key of what is compared, see ``reproduce.show.metrics.METRICS``.
        margin: of "similar", in points.
        quantity, saving, without: of "fewer_parameters": what is counted, the least and largest fraction saved that
            fit the claim's words, and the method whose count is taken off both.
        paper_counts: of "fewer_parameters": the paper's own counts, the smaller first.
        multiple: of "does_not_converge": of the second method's error.
        note: what a reader of the verdict has to know.
        control: whether it is ours, to say what a claim of the paper shows; it does not count for the row's verdict.
    """

    words: str
    kind: str
    better: str
    worse: str
    source: str
    metric: str = "test_error"
    margin: float = 0.0
    quantity: str = "parameters"
    saving: tuple[float, float] = (0.0, 1.0)
    without: str = ""
    paper_counts: tuple[float, ...] = ()
    multiple: float = 0.0
    note: str = ""
    control: bool = False


@dataclass(frozen=True)
class Experiment:
    """A table of the paper as data; ``top5`` says that it has top-5 errors too."""

    table: int
    title: str
    section: str
    question: str
    datasets: tuple[str, ...]
    baseline: str
    methods: tuple[Method, ...]
    claims: tuple[Claim, ...]
    task: str = "classification"
    top5: bool = False

    def method(self, key: str) -> Method:
        """The method called ``key``."""
        for method in self.methods:
            if method.key == key:
                return method
        raise ValueError(f"Table {self.table} declares no method {key!r}; add it to table{self.table}.toml.")


@dataclass(frozen=True)
class Profile:
    """Data, width and budget that a profile gives to every experiment.

    ``slot`` overrides ``width``, ``same_data`` and ``same_width`` for single slots, ``slot_recipe`` the recipe.
    ``select`` says what was tried to choose recipes (:mod:`reproduce.run.selection`).
    """

    name: str
    description: str
    seeds: int
    threads: int
    jobs: int
    width: int
    same_data: bool
    same_width: bool
    data: dict[str, dict[str, Any]]
    recipe: dict[str, Any]
    slot: dict[str, dict[str, Any]] = field(default_factory=dict)
    slot_recipe: dict[str, dict[str, Any]] = field(default_factory=dict)
    fewshot: dict[str, Any] = field(default_factory=dict)
    select: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def slots(self) -> dict[str, dict[str, Any]]:
        """Data sets by slot, those of the few-shot table included."""
        return {**self.data, **self.fewshot.get("data", {})}

    def is_fewshot(self, slot: str) -> bool:
        """Whether the slot is one of the few-shot table."""
        return slot in self.fewshot.get("data", {})

    def same(self, slot: str) -> tuple[bool, bool]:
        """Whether the data in ``slot``, and the networks trained on them, are the paper's."""
        if self.is_fewshot(slot):
            return bool(self.fewshot["same_data"]), bool(self.fewshot["same_width"])
        own = self.slot.get(slot, {})
        return bool(own.get("same_data", self.same_data)), bool(own.get("same_width", self.same_width))

    def width_for(self, slot: str) -> int:
        """Width of the networks trained on the data set in ``slot``."""
        return int(self.slot.get(slot, {}).get("width", self.width))

    def seeds_for(self, slot: str, asked: int) -> int:
        """Seeds to run in ``slot``: as many as are asked for, or the few-shot table's own number by default."""
        return int(self.fewshot["seeds"]) if self.is_fewshot(slot) and asked == self.seeds else asked

    def jobs_for(self, tables: tuple[int, ...]) -> int:
        """Runs side by side: the profile's number, or the few-shot table's own where it is the only one."""
        alone = bool(tables) and all(experiment(table).task == FEWSHOT for table in tables)
        return int(self.fewshot.get("jobs", self.jobs)) if alone else self.jobs

    def recipe_for(self, slot: str) -> dict[str, Any]:
        """The recipe used on the data set in ``slot``, the same for every method."""
        return {**self.recipe, **self.slot_recipe.get(slot, {})}

    def budget(self, slot: str) -> float:
        """Training images of a run in this slot as a fraction of the paper's; unknown for few-shot: 1."""
        if self.is_fewshot(slot):
            return 1.0
        recipe = self.recipe_for(slot)
        return float(recipe["iterations"] * recipe["batch_size"] / PAPER_IMAGES[slot])

    def run(self, method: Method, slot: str, seed: int) -> Run:
        """The run of one method on the data set in ``slot`` with one seed."""
        if self.is_fewshot(slot):
            return self._fewshot_run(method, slot, seed)
        return Run(
            label=method.label,
            dataset=dict(self.data[slot]),
            model=model_config(method.model, {"width": self.width_for(slot), **method.options}),
            recipe=self.recipe_for(slot),
            seed=seed,
            threads=self.threads,
        )

    def handicap(self, method: Method) -> str:
        """What keeps the method from its published strength in this profile; empty where nothing is known to."""
        own = self.fewshot.get("method", {}).get(method.key, {})
        return str(own.get("handicap", method.handicap))

    def width_of(self, method: Method) -> int:
        """Width of a few-shot method's backbone."""
        own = self.fewshot.get("method", {}).get(method.key, {})
        return int(own.get("width", self.fewshot["width"][method.backbone]))

    def _fewshot_run(self, method: Method, slot: str, seed: int) -> Run:
        """Settings of the method are those of the profile, overridden where the profile names the method."""
        own = self.fewshot.get("method", {}).get(method.key, {})
        recipe = {part: {**self.fewshot[part], **own.get(part, {})} for part in method.trainings}
        recipe["episodes"] = dict(self.fewshot["episodes"])
        options = {**method.options, **own.get("options", {})}
        return Run(
            label=method.label,
            dataset=dict(self.slots[slot]),
            model={"name": method.model, "backbone": method.backbone, "width": self.width_of(method), **options},
            recipe=recipe,
            seed=seed,
            threads=int(self.fewshot.get("threads", self.threads)),
            task=FEWSHOT,
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; name a file of declarations that does.") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML ({error}); correct it.") from None


def _claim(item: dict[str, Any], path: Path) -> Claim:
    """A declared claim, checked."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
    try:
        claim = Claim(**values)
    except TypeError as error:
        raise ValueError(f"{path}: claim {item.get('words')!r} is incomplete or misspelt ({error}).") from None
    if problem := claim_kinds.check(claim):
        raise ValueError(f"{path}: {problem}")
    return claim


@cache
def experiment(table: int) -> Experiment:
    """The declaration of one table."""
    path = EXPERIMENTS / f"table{table}.toml"
    if not path.exists():
        known = ", ".join(str(number) for number in tables())
        raise ValueError(f"TABLES names table {table}, which is not declared; choose from {known}.")
    raw = _read(path)
    metric = "accuracy" if raw.get("task") == FEWSHOT else "test_error"
    claims = tuple(_claim({"metric": metric, **item}, path) for item in raw.pop("claims"))
    methods = tuple(
        Method(**{**item, "trainings": tuple(item.get("trainings", ()))}) for item in raw.pop("methods")
    )
    declared = Experiment(methods=methods, claims=claims, datasets=tuple(raw.pop("datasets")), **raw)
    for claim in claims:
        for key in (claim.better, claim.worse, *([claim.without] if claim.without else [])):
            declared.method(key)
    return declared


@cache
def tables(task: str | None = None) -> tuple[int, ...]:
    """The numbers of the declared tables; with ``task``, of those whose runs are of that kind."""
    every = sorted(int(path.stem.removeprefix("table")) for path in EXPERIMENTS.glob("table*.toml"))
    return tuple(number for number in every if task is None or experiment(number).task == task)


def profile(name: str, path: Path | None = None) -> Profile:
    """The profile called ``name``, from ``experiments/profiles.toml`` unless another file is named.

    The name may change settings, see :mod:`reproduce.declare.overrides`.
    """
    source = path or EXPERIMENTS / "profiles.toml"
    declared = _read(source)
    base = name.split(overrides.SIGN)[0]
    if base in declared:
        declared[name] = overrides.changed(name, declared[base])
    if name not in declared:
        raise ValueError(f"PROFILE={name!r} is unknown; choose one of: {', '.join(declared)}.")
    try:
        return Profile(name=name, **declared[name])
    except TypeError as error:
        raise ValueError(f"{source}: profile {name!r} is incomplete or misspelt ({error}).") from None


def parse_tables(text: str | None) -> tuple[int, ...]:
    """Table numbers from text such as ``1``, ``1,3``, ``1-4``; None or empty means all declared tables."""
    if text is None or not text.strip():
        return tables()
    numbers: list[int] = []
    for part in text.replace(",", " ").split():
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"TABLES={text!r} is not understood; write numbers such as 1, 1-4 or 1,3.")
        start, stop = int(first), int(last or first)
        if stop < start:
            raise ValueError(f"TABLES={text!r} runs backwards at {part}; write the smaller number first.")
        experiment(stop)  # refuses a number far beyond the declared ones before a list of them is made
        numbers.extend(range(start, stop + 1))
    for number in numbers:
        experiment(number)
    return tuple(dict.fromkeys(numbers))


def planned_runs(
    chosen: Profile, numbers: tuple[int, ...], seeds: int, slots: tuple[str, ...] | None = None
) -> list[Run]:
    """Every run the tables need (on the data sets in ``slots`` only, where given), each once, seeds outermost so that
    whole tables fill up seed by seed."""
    found: dict[str, Run] = {}
    most = max([seeds, *(chosen.seeds_for(slot, seeds) for slot in chosen.slots)])
    for seed in range(most):
        for number in numbers:
            declared = experiment(number)
            for slot in declared.datasets:
                wanted = slot in chosen.slots and (slots is None or slot in slots)
                if not wanted or seed >= chosen.seeds_for(slot, seeds):
                    continue
                for method in declared.methods:
                    if method.seeds is None or seed < method.seeds:
                        run = chosen.run(method, slot, seed)
                        found.setdefault(repr(run.declared("")), run)
    return list(found.values())


def parse_slots(text: str | None, chosen: Profile) -> tuple[str, ...] | None:
    """Slots from text such as ``cifar10`` or ``cifar10,cifar100``; None or empty means all of the profile's."""
    if text is None or not text.strip():
        return None
    names = tuple(text.replace(",", " ").split())
    for name in names:
        if name not in chosen.slots:
            known = ", ".join(chosen.slots)
            raise ValueError(f"SLOTS: profile {chosen.name} declares no data for {name!r}; choose from {known}.")
    return names
